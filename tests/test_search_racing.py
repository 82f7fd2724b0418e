"""More seeds for the best settings, and fresh ones for the winner, through the real driver."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from trb_lab.search.racing import Entrant, next_replicates
from trb_lab.spec.search import RacingSpec
from trb_lab.spec.sweeps import expand_searches

from .known_function import final_score
from .search_fakes import SearchLab, check, once, search_lab, spec_of

pytestmark = pytest.mark.long

RACING = {"settings": 3, "seeds": 3}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchLab:
    found = search_lab(tmp_path, monkeypatch)
    found.search(trials=5, sampler="random", racing=RACING)
    return found


def true_value(lab: SearchLab, number: int, seed: int) -> float:
    arm = expand_searches(lab.path)["trb"]
    return final_score(spec_of(arm, number, lab.proposals()[number], seed))


def raced(lab: SearchLab) -> list[tuple[int, int]]:
    """(candidate, seed) of the runs that were added, in order."""
    return [(d.number or 0, row["seed"]) for d in lab.log if d.event == "replicate" for row in d.rows]


def the_race(lab: SearchLab, trials: int) -> list[tuple[int, int]]:
    """What next_replicates asks for, one at a time."""
    values = {number: {0: true_value(lab, number, 0)} for number in range(trials)}
    found = []
    while True:
        entrants = [Entrant(number, seeds) for number, seeds in values.items()]
        wanted = next_replicates(RacingSpec(**RACING), entrants, [0, 1, 2], "maximize")
        if not wanted:
            return found
        number, seed = wanted[0]
        found.append((number, seed))
        values[number][seed] = true_value(lab, number, seed)


def test_seeds_are_added_where_the_race_wants_them_and_the_value_is_their_mean(lab: SearchLab) -> None:
    assert lab.run() == 0
    check(lab, asked=5)
    assert raced(lab) == the_race(lab, 5)
    assert raced(lab)
    for number, candidate in lab.candidates().items():
        seeds = [0] + [seed for raced_number, seed in raced(lab) if raced_number == number]
        values = {str(seed): pytest.approx(true_value(lab, number, seed)) for seed in sorted(seeds)}
        assert candidate["values"]["score"] == values
        assert candidate["mean"]["score"] == pytest.approx(
            statistics.fmean(true_value(lab, number, seed) for seed in seeds)
        )
    verdicts = lab.summary()["race"]
    assert [v["verdict"] for v in verdicts].count("leader") == 1
    assert lab.summary()["best"] == verdicts[0]["number"]
    assert {run["seed"] for d in lab.log for run in d.rows} <= {0, 1, 2}


def test_a_seed_that_fails_is_not_asked_for_again_and_again(lab: SearchLab) -> None:
    assert lab.run() == 0
    number, seed = raced(lab)[0]
    failing = lab.run_of(number, seed).run_id
    again = {run_id: steps for run_id, steps in lab.searched().items() if run_id != failing}
    lab.forget()
    lab.behave({"": {"function": 1}, failing: {"function": 1, "fail_at": 3}})
    assert lab.run() == 1
    assert raced(lab).count((number, seed)) == 1
    assert [s for n, s in raced(lab) if n == number] == [seed]  # and its candidate gets no more
    lab.behave({"": {"function": 1}})
    assert lab.run(retry_failed=True) == 0
    assert set(again) <= set(lab.searched())
    check(lab, asked=5)


def confirmed(lab: SearchLab) -> dict[tuple[str, Any], list[int]]:
    """(arm, candidate) -> its fresh seeds."""
    rows = lab.summary()["confirmation"]
    assert all(run["state"] == "completed" for row in rows for run in row["runs"])
    return {(row["arm"], row["number"]): [run["seed"] for run in row["runs"]] for row in rows}


def test_the_winner_and_the_reference_run_on_fresh_seeds_once(lab: SearchLab) -> None:
    lab.search(racing=..., confirm={"seeds": 2, "settings": 2})
    assert lab.run() == 0
    check(lab, asked=5)
    values = {number: true_value(lab, number, 0) for number in range(5)}
    winners = sorted(values, key=values.__getitem__, reverse=True)[:2]
    assert lab.summary()["winners"] == winners
    assert confirmed(lab) == {("trb", winners[0]): [3, 4], ("trb", winners[1]): [3, 4], ("opd", None): [3, 4]}
    row = lab.summary()["confirmation"][0]
    assert row["values"]["score"]["3"] == pytest.approx(true_value(lab, row["number"], 3))
    before, log = lab.attempts(), len(lab.log)
    assert lab.run() == 0
    assert (lab.attempts(), len(lab.log)) == (before, log)

    lab.search(confirm={"seeds": 3, "settings": 2})
    assert lab.run() == 0
    assert set(map(tuple, confirmed(lab).values())) == {(3, 4, 5)}
    assert lab.attempts() == before + 3
    assert all(once(steps) for steps in lab.searched().values())


def test_another_winner_is_confirmed_anew(lab: SearchLab) -> None:
    lab.search(racing=..., trials=3, confirm={"seeds": 1})
    assert lab.run() == 0
    first = lab.summary()["winners"]
    lab.search(trials=9)
    assert lab.run() == 0
    second = lab.summary()["winners"]
    assert second != first
    assert confirmed(lab) == {("trb", second[0]): [3], ("opd", None): [3]}
    assert sum(d.event == "confirm" for d in lab.log) == 2


def test_nothing_is_confirmed_while_a_stopped_run_may_still_win(lab: SearchLab) -> None:
    lab.search(racing=..., trials=3, confirm={"seeds": 1})
    assert lab.run() == 0
    winner = lab.run_of(lab.summary()["winners"][0]).run_id
    lab.forget()
    lab.behave({"": {"function": 1}, winner: {"function": 1, "stop_at": 3, "stops": 1}})
    assert lab.run() == 1
    assert not any(d.event == "confirm" for d in lab.log)
    assert lab.run() == 0
    assert confirmed(lab)
