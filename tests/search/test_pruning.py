from __future__ import annotations

import math
import random
import statistics
from dataclasses import dataclass, field

import pytest

from trb_lab.search.pruning import Standing, may_go_on, next_stop
from trb_lab.spec.search import AshaPruning, MedianPruning

STOPS = (1, 3, 9)
STEPS = 27
ASHA = AshaPruning(factor=3)


def curves(n: int, rng: random.Random) -> list[dict[int, float]]:
    """Learning curves that rise to a level, fast or slowly, so that they cross; values at every stop."""
    made = []
    for _ in range(n):
        level, gap, pace = rng.gauss(0.6, 0.1), rng.uniform(0.1, 0.6), rng.choice([0.5, 3.0, 12.0])
        made.append({stop: level - gap * math.exp(-stop / pace) for stop in (*STOPS, STEPS)})
    return made


@dataclass
class Algorithm2:
    """The pseudocode of the paper."""

    eta: int
    rungs: list[dict[int, float]] = field(default_factory=lambda: [{} for _ in STOPS])
    promoted: list[set[int]] = field(default_factory=lambda: [set() for _ in STOPS])

    def get_job(self) -> tuple[int, int] | None:
        """(candidate, rung that it leaves)."""
        for k in range(len(self.rungs) - 1, -1, -1):
            rung, places = self.rungs[k], len(self.rungs[k]) // self.eta
            candidates = sorted(rung, key=lambda t: (-rung[t], t))[:places]
            promotable = [t for t in candidates if t not in self.promoted[k]]
            if promotable:
                self.promoted[k].add(promotable[0])
                return promotable[0], k
        return None


@dataclass
class Search:
    """Workers that finish in any order, and `choose`: candidates that may go on -> one, or None to begin another."""

    curves: list[dict[int, float]]
    workers: int
    rng: random.Random
    reference: Algorithm2
    standings: dict[int, Standing] = field(default_factory=dict)
    at_work: dict[int, int] = field(default_factory=dict)  # candidate -> where it stops
    log: list[tuple[int, int]] = field(default_factory=list)  # promotions: (candidate, stop that it leaves)

    def state(self) -> list[Standing]:
        rows = list(self.standings.values())
        self.rng.shuffle(rows)
        return rows

    def assign(self) -> bool:
        """Give a free worker its job, by may_go_on; check that the reference takes the same one."""
        chosen = may_go_on(ASHA, STOPS, STEPS, self.state(), "maximize")
        job = self.reference.get_job()
        assert (chosen[0] if chosen else None) == (job[0] if job else None)
        if job:
            number, rung = job
            standing = self.standings[number]
            assert standing.allowed == STOPS[rung]
            self.log.append((number, standing.allowed))
            allowed = next_stop(STOPS, STEPS, standing.allowed)
        elif (number := len(self.standings)) < len(self.curves):
            standing, allowed = Standing(number, {}, 0), next_stop(STOPS, STEPS, 0)
        else:
            return False
        self.standings[number] = Standing(number, standing.values, allowed, stands=False)
        self.at_work[number] = allowed
        return True

    def run(self) -> None:
        while True:
            while len(self.at_work) < self.workers and self.assign():
                pass
            if not self.at_work:
                return
            number = self.rng.choice(sorted(self.at_work))
            stop = self.at_work.pop(number)
            values = {**self.standings[number].values, stop: self.curves[number][stop]}
            self.standings[number] = Standing(number, values, stop)
            if stop < STEPS:
                self.reference.rungs[STOPS.index(stop)][number] = values[stop]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("workers", [1, 4, 60])
def test_asha_promotes_what_the_papers_algorithm_does(workers: int, seed: int) -> None:
    rng = random.Random(seed)
    search = Search(curves(60, rng), workers, rng, Algorithm2(ASHA.factor))
    search.run()
    assert len(search.log) == len(set(search.log))  # nothing is promoted twice
    for rung, stop in enumerate(STOPS):
        assert {n for n, left in search.log if left == stop} == search.reference.promoted[rung]
        assert search.reference.promoted[rung]
    assert any(STEPS in s.values for s in search.standings.values())


@pytest.mark.parametrize("seed", range(20))
def test_asha_takes_those_among_the_best_that_have_not_gone_on(seed: int) -> None:
    rng = random.Random(seed)
    standings = some_standings(40, rng)
    chosen = may_go_on(ASHA, STOPS, STEPS, standings, "maximize")
    for stop in STOPS:
        rung = {s.number: s.values[stop] for s in standings if stop in s.values and not s.out}
        top = sorted(rung, key=lambda t: (-rung[t], t))[: len(rung) // ASHA.factor]
        gone_on = {s.number for s in standings if s.number in rung and s.allowed > stop}
        here = [s.number for s in standings if s.number in rung and s.allowed == stop and s.number in chosen]
        assert set(here) == set(top) - gone_on


def some_standings(n: int, rng: random.Random) -> list[Standing]:
    """Candidates paused anywhere, on a coarse grid of values so that there are ties."""
    rows = []
    for number in range(n):
        reached = rng.choice([1, 1, 1, 2, 2, 3, 4])
        values = {stop: rng.randrange(12) / 12 for stop in (*STOPS, STEPS)[:reached]}
        rows.append(Standing(number, values, (*STOPS, STEPS)[reached - 1]))
    rng.shuffle(rows)
    return rows


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_in_the_synchronous_limit_asha_is_successive_halving(direction: str) -> None:
    rng = random.Random(3)
    made = curves(81, rng)
    sign = 1 if direction == "maximize" else -1
    alive = list(range(81))
    standings = {number: Standing(number, {}, 0) for number in alive}
    for stop in STOPS:
        for number in alive:
            values = {**standings[number].values, stop: made[number][stop]}
            standings[number] = Standing(number, values, stop)
        best_first = sorted(alive, key=lambda number: -sign * made[number][stop])
        chosen = may_go_on(ASHA, STOPS, STEPS, list(standings.values()), direction)
        assert chosen == best_first[: len(alive) // 3]
        alive = chosen
        for number in alive:
            allowed = next_stop(STOPS, STEPS, stop)
            standings[number] = Standing(number, standings[number].values, allowed, stands=False)
        assert may_go_on(ASHA, STOPS, STEPS, list(standings.values()), direction) == []
    assert len(alive) == 3


def test_the_farthest_stop_comes_first_and_equal_values_go_by_number() -> None:
    far = [Standing(n, {1: 0.1, 3: 0.5}, 3) for n in (8, 7, 6)]
    near = [Standing(n, {1: 0.9}, 1) for n in (5, 4, 3, 2, 1, 0)]
    near += [Standing(9, {1: 0.05}, 1), Standing(10, {1: 0.05}, 1), Standing(11, {1: 0.05}, 1)]
    assert may_go_on(ASHA, STOPS, STEPS, [*near, *far], "maximize") == [6, 0, 1, 2, 3]
    assert may_go_on(ASHA, STOPS, STEPS, [*near, *far], "minimize") == [6, 9, 10, 11]


def test_finished_ones_count_and_failed_ones_do_not() -> None:
    done = Standing(0, {1: 0.2, 3: 0.3, 9: 0.4, 27: 0.5}, STEPS)
    paused = [Standing(n, {1: 0.5 + n / 100}, 1) for n in (1, 2, 3)]
    failed = [Standing(n, {1: 0.99}, 1, out=True) for n in (4, 5, 6)]
    assert may_go_on(ASHA, STOPS, STEPS, [done, *paused, *failed], "maximize") == [3]
    assert may_go_on(ASHA, STOPS, STEPS, [done, *paused[:1], *failed], "maximize") == []
    late = [Standing(n, {1: 0.1}, 1) for n in (7, 8)]
    assert may_go_on(ASHA, STOPS, STEPS, [done, *paused, *failed, *late], "minimize") == [7, 8]


def test_one_without_a_value_at_its_stop_goes_on_and_does_not_count() -> None:
    for spec in (ASHA, MedianPruning(startup_trials=1)):
        rows = [Standing(0, {}, 3), Standing(1, {1: 0.5, 9: 0.1}, 3), Standing(2, {3: 0.1}, 3)]
        rows += [Standing(3, {3: 0.2}, 3)]
        found = may_go_on(spec, STOPS, STEPS, rows, "maximize")
        assert found == ([0, 1] if spec is ASHA else [3, 0, 1])


def test_one_on_its_way_to_its_stop_is_not_told_to_go_on() -> None:
    on_its_way = Standing(0, {}, 1, stands=False)
    assert may_go_on(ASHA, STOPS, STEPS, [on_its_way], "maximize") == []
    # Its value is known and its run about to pause: nobody takes its place meanwhile.
    about_to = Standing(0, {1: 0.9}, 1, stands=False)
    others = [Standing(n, {1: n / 10}, 1) for n in (1, 2)]
    assert may_go_on(ASHA, STOPS, STEPS, [about_to, *others], "maximize") == []


def test_nothing_waits_at_the_end_or_where_there_is_no_stop() -> None:
    assert may_go_on(ASHA, STOPS, STEPS, [Standing(0, {27: 0.5}, STEPS)], "maximize") == []
    assert may_go_on(ASHA, STOPS, STEPS, [Standing(0, {2: 0.5}, 2)], "maximize") == [0]
    assert may_go_on(ASHA, STOPS, STEPS, [], "maximize") == []


def test_the_last_stop_leads_to_the_end() -> None:
    assert [next_stop(STOPS, STEPS, at) for at in (0, 1, 2, 3, 9, 27)] == [1, 3, 3, 9, 27, 27]
    assert next_stop((), 10, 0) == 10
    assert next_stop((1, 3, 9), 9, 3) == 9


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("seed", range(30))
def test_median_is_that_of_the_others(seed: int, direction: str) -> None:
    rng = random.Random(seed)
    spec = MedianPruning(startup_trials=rng.choice([1, 2, 5]))
    standings = some_standings(rng.randrange(1, 30), rng)
    expected = set()
    for row in standings:
        if row.allowed == STEPS:
            continue
        own = row.values[row.allowed]
        others = [s.values[row.allowed] for s in standings if s is not row and row.allowed in s.values]
        if len(others) < spec.startup_trials:
            expected.add(row.number)
        else:
            middle = statistics.median(others)
            if own >= middle if direction == "maximize" else own <= middle:
                expected.add(row.number)
    found = may_go_on(spec, STOPS, STEPS, standings, direction)
    assert set(found) == expected
    assert len(found) == len(expected)
    sign = 1 if direction == "maximize" else -1
    by_number = {s.number: s for s in standings}
    keys = [(-by_number[n].allowed, -sign * by_number[n].values[by_number[n].allowed], n) for n in found]
    assert keys == sorted(keys)


def test_a_paused_one_goes_on_once_the_median_moves() -> None:
    spec = MedianPruning(startup_trials=2)
    rows = [Standing(0, {1: 0.5}, 3, stands=False), Standing(1, {1: 0.6}, 3, stands=False)]
    rows.append(Standing(2, {1: 0.4}, 1))
    assert may_go_on(spec, STOPS, STEPS, rows, "maximize") == []
    rows += [Standing(3, {1: 0.1}, 1), Standing(4, {1: 0.2}, 1)]
    assert may_go_on(spec, STOPS, STEPS, rows, "maximize") == [2]  # others: 0.1 0.2 0.5 0.6
    assert may_go_on(MedianPruning(startup_trials=5), STOPS, STEPS, rows, "maximize") == [2, 4, 3]
