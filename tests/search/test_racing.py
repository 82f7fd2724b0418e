from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as reference

from trb_lab.search.racing import Entrant, interval, next_replicates, race
from trb_lab.spec.search import RacingSpec

SPEC = RacingSpec(settings=4, seeds=6)


def verdicts(spec: RacingSpec, entrants: list[Entrant], direction: str = "maximize") -> dict[int, str]:
    return {v.number: v.verdict for v in race(spec, entrants, direction)}


def entrant(number: int, *values: float, pending: frozenset[int] = frozenset()) -> Entrant:
    """Its values at seeds 0, 1, ..."""
    return Entrant(number, dict(enumerate(values)), pending)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_differences_are_scipys_paired_intervals(direction: str, confidence: float) -> None:
    rng = np.random.default_rng(1)
    spec = RacingSpec(settings=6, seeds=9, confidence=confidence)
    sign = 1 if direction == "maximize" else -1
    seen = set()
    for _ in range(15):
        table = rng.normal(0.5, 0.02, 8) + rng.normal(0, 0.01, (6, 8)) + rng.normal(0, 0.02, (6, 1))
        values = [dict(enumerate(row[: rng.integers(2, 9)].tolist())) for row in table]
        found = race(spec, [Entrant(n, v) for n, v in enumerate(values)], direction)
        leader = values[found[0].number]
        assert found[0].verdict == "leader"
        for verdict in found[1:]:
            mine = values[verdict.number]
            common = sorted(mine.keys() & leader.keys())
            gaps = [sign * (mine[s] - leader[s]) for s in common]
            expected = reference.ttest_1samp(gaps, 0).confidence_interval(confidence)
            paired = reference.ttest_rel([mine[s] for s in common], [leader[s] for s in common])
            two = paired.confidence_interval(confidence)
            assert sorted(sign * x for x in two) == pytest.approx([expected.low, expected.high])
            assert verdict.difference is not None
            assert verdict.difference.mean == pytest.approx(np.mean(gaps))
            assert verdict.difference.low == pytest.approx(expected.low)
            assert verdict.difference.high == pytest.approx(expected.high)
            assert verdict.verdict == ("out" if expected.high < 0 else "in")
            assert all(type(x) is float for x in vars(verdict.difference).values())
            seen.add(verdict.verdict)
    assert seen == {"in", "out"}


def test_interval_is_scipys() -> None:
    values = [0.61, 0.64, 0.6, 0.55]
    for confidence in (0.9, 0.95):
        expected = reference.ttest_1samp(values, 0).confidence_interval(confidence)
        assert interval(values, confidence) == pytest.approx((expected.low, expected.high))
    assert interval([0.6]) is None
    assert interval([]) is None
    assert interval([0.5, 0.5]) == (0.5, 0.5)


def test_the_best_take_part_the_leader_first() -> None:
    entrants = [
        entrant(0, 0.3),
        entrant(1, 0.5),
        entrant(2),
        entrant(3, 0.4),
        entrant(4, 0.5, 0.5),
        entrant(5, 0.5),
    ]
    spec = RacingSpec(settings=4, seeds=6)
    assert [v.number for v in race(spec, entrants, "maximize")] == [4, 1, 5, 3]
    assert [v.number for v in race(spec, entrants, "minimize")] == [0, 3, 4, 1]
    assert race(spec, [entrant(2)], "maximize") == []
    assert [(v.number, v.verdict) for v in race(spec, [entrant(2, 0.1)], "maximize")] == [(2, "leader")]


def test_nobody_leaves_on_one_common_seed() -> None:
    values = {0: [0.62, 0.60, 0.64], 1: [0.50], 2: [0.61], 9: [0.20, 0.22]}
    entrants = [entrant(n, *v) for n, v in values.items()]
    spec = RacingSpec(settings=4, seeds=6)
    found = {v.number: v for v in race(spec, entrants, "maximize")}
    assert {n: v.verdict for n, v in found.items()} == {0: "leader", 2: "in", 1: "in", 9: "out"}
    assert found[1].difference is None
    # A second seed tells: the pair of gaps is -0.12 and -0.121.
    entrants[1] = entrant(1, 0.50, 0.479)
    assert verdicts(spec, entrants) == {0: "leader", 2: "in", 1: "out", 9: "out"}


def test_a_leader_by_one_lucky_seed_is_compared_before_the_race_is_over() -> None:
    # Seed noise is small among the others, by which one seed of the leader used to settle it.
    others = [entrant(1, 0.50, 0.51, 0.50), entrant(2, 0.49, 0.50, 0.49)]
    lucky = entrant(0, 0.60)
    spec = RacingSpec(settings=3, seeds=3)
    assert verdicts(spec, [lucky, *others]) == {0: "leader", 1: "in", 2: "in"}
    assert next_replicates(spec, [lucky, *others], range(3), "maximize") == [(0, 1)]
    waits = entrant(0, 0.60, pending=frozenset({1}))
    assert next_replicates(spec, [waits, *others], range(3), "maximize") == []
    # Its second seed shows what the first was worth.
    known = entrant(0, 0.60, 0.40)
    assert verdicts(spec, [known, *others]) == {1: "leader", 0: "in", 2: "in"}
    assert next_replicates(spec, [known, *others], range(3), "maximize") == [(0, 2)]  # the others have theirs


def test_a_candidate_stays_in_where_nothing_is_known_of_the_spread() -> None:
    found = race(SPEC, [entrant(0, 0.9), entrant(1, 0.1)], "maximize")
    assert [(v.verdict, v.difference) for v in found] == [("leader", None), ("in", None)]
    apart = [Entrant(0, {0: 0.9, 1: 0.8}), Entrant(1, {5: 0.1, 6: 0.11})]
    assert [(v.verdict, v.difference) for v in race(SPEC, apart, "maximize")][1] == ("in", None)


def test_gaps_that_are_equal_by_chance_are_no_certainty() -> None:
    noisy = [entrant(0, 0.50, 0.56), entrant(1, 0.48, 0.54)]
    found = race(SPEC, noisy, "maximize")[1]
    assert found.verdict == "in"
    assert found.difference is not None
    half = reference.t.ppf(0.975, 2) * np.sqrt(2 * 0.0018) / np.sqrt(2)
    assert found.difference.high == pytest.approx(-0.02 + half)
    assert verdicts(SPEC, [entrant(0, 0.90, 0.92), entrant(1, 0.48, 0.50)])[1] == "out"
    # Where no value of any setting depends on its seed, there is nothing to wait for.
    assert verdicts(SPEC, [entrant(0, 0.5, 0.5), entrant(1, 0.4, 0.4), entrant(2, 0.5, 0.5)]) == {
        0: "leader",
        2: "in",
        1: "out",
    }


def test_replicates_go_to_the_fewest_seeds_then_the_better_mean() -> None:
    entrants = [entrant(0, 0.5), entrant(1, 0.6, 0.5), entrant(2, 0.52), entrant(3, 0.5)]
    assert next_replicates(SPEC, entrants, [0, 1, 2], "maximize") == [(2, 1), (0, 1), (3, 1), (1, 2)]
    assert next_replicates(SPEC, entrants, [7, 1, 0], "maximize") == [(2, 7), (0, 7), (3, 7), (1, 7)]


def test_a_candidate_waits_for_its_replicate_and_has_no_more_than_it_may() -> None:
    spec = RacingSpec(settings=4, seeds=2)
    entrants = [entrant(0, 0.5, pending=frozenset({1})), entrant(1, 0.51), entrant(2, 0.5, 0.52)]
    assert next_replicates(spec, entrants, [0, 1, 2, 3], "maximize") == [(1, 1)]
    assert next_replicates(spec, [entrant(0, 0.5, 0.51), entrant(1, 0.5, 0.52)], range(9), "maximize") == []


def test_the_race_is_over_once_the_leader_is_alone() -> None:
    clear = [entrant(0, 0.9, 0.91, 0.92), entrant(1, 0.5, 0.52, 0.51), entrant(2, 0.1, 0.14, 0.1)]
    assert verdicts(SPEC, clear) == {0: "leader", 1: "out", 2: "out"}
    assert next_replicates(SPEC, clear, range(6), "maximize") == []
    assert next_replicates(SPEC, [entrant(0, 0.9)], range(6), "maximize") == []
    assert next_replicates(SPEC, [], range(6), "maximize") == []


def run_race(table: np.ndarray, spec: RacingSpec) -> tuple[dict[int, str], int]:
    """Race settings (rows) over seeds (columns) from one seed each: the last verdicts, and how many runs it took."""
    values = [{0: float(row[0])} for row in table]
    runs = len(table)
    while True:
        entrants = [Entrant(n, dict(v)) for n, v in enumerate(values)]
        wanted = next_replicates(spec, entrants, range(table.shape[1]), "maximize")
        if not wanted:
            return verdicts(spec, entrants), runs
        for number, seed in wanted:
            assert seed not in values[number]
            values[number][seed] = float(table[number, seed])
            runs += 1


def test_the_truly_best_is_kept_with_the_confidence_stated() -> None:
    # Seed noise of 0.03 that all settings share, 0.01 of each run. The best is one standard deviation of a run
    # ahead of the next one. Measured over 300 races: kept 100 %, leads 96 %, 18.4 runs of 24.
    rng = np.random.default_rng(0)
    races, kept, leads, runs = 200, 0, 0, 0
    for _ in range(races):
        table = 0.5 + np.array([[0.0], [-0.01], [-0.02], [-0.04]])
        table = table + rng.normal(0, 0.03, (1, SPEC.seeds)) + rng.normal(0, 0.01, (4, SPEC.seeds))
        last, took = run_race(table, SPEC)
        kept += last[0] != "out"
        leads += last[0] == "leader"
        runs += took
    assert kept / races >= SPEC.confidence
    assert leads / races >= 0.9
    assert runs / races < 20  # of 24 without racing


def test_scores_of_few_samples_cost_no_confidence() -> None:
    rng = np.random.default_rng(0)
    kept = 0
    for _ in range(120):
        table = 0.5 + np.array([[0.0], [-0.005], [-0.005], [-0.005]]) + rng.normal(0, 0.03, (1, SPEC.seeds))
        table = table + rng.normal(0, 0.01, (4, SPEC.seeds))
        last, _ = run_race(np.round(table * 64) / 64, SPEC)
        kept += last[0] != "out"
    assert kept / 120 >= SPEC.confidence


def test_a_race_between_equal_settings_ends_at_the_seed_limit() -> None:
    rng = np.random.default_rng(0)
    table = np.repeat(rng.normal(0.5, 0.02, (1, 9)), 4, axis=0)
    last, runs = run_race(table, SPEC)
    assert last == {0: "leader", 1: "in", 2: "in", 3: "in"}
    assert runs == 4 * SPEC.seeds
