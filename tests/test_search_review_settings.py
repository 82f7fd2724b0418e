"""A setting that is there twice counts once; one of the grid, or known before, with all of its seeds and sets."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from trb_lab.search.optuna import Asker
from trb_lab.search.told import Proposal, Told
from trb_lab.store.run_dir import read_json, write_json

from .search_fakes import SearchLab, check, once, search_lab

pytestmark = pytest.mark.long

TINY = {"warmup.anneal": {"kind": "choice", "values": ["linear", "cosine"]}}
GRID = {"warmup.kl_budget": [0.05], "warmup.steps": [6]}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchLab:
    return search_lab(tmp_path, monkeypatch)


@pytest.fixture
def tiny(lab: SearchLab) -> SearchLab:
    """A space of two settings, asked six times."""
    lab.amend({"arms/trb/overrides": {"warmup": {"kind": "trb", "steps": 10}}})
    lab.search(trials=6, sampler="random", space=TINY)
    return lab


def anneals(lab: SearchLab, numbers: Sequence[int]) -> list[str]:
    """The settings of some candidates."""
    return [lab.candidates()[number]["params"]["warmup.anneal"] for number in numbers]


# --- a setting that is asked for twice


def test_a_setting_that_is_there_twice_is_one_of_the_ranking(tiny: SearchLab) -> None:
    tiny.search(racing={"settings": 3, "seeds": 2}, confirm={"seeds": 1, "settings": 3})
    assert tiny.run() == 0
    check(tiny, asked=6)
    summary = tiny.summary()
    assert min(Counter(anneals(tiny, range(6))).values()) >= 2
    assert sorted(anneals(tiny, [v["number"] for v in summary["race"]])) == ["cosine", "linear"]
    assert sorted(anneals(tiny, summary["winners"])) == ["cosine", "linear"]
    assert summary["best"] == summary["winners"][0]
    # The second seed of each, once; and one confirmation of each.
    replicates = [d for d in tiny.log if d.event == "replicate"]
    assert sorted(anneals(tiny, [d.number or 0 for d in replicates])) == ["cosine", "linear"]
    assert [(row["arm"], row["number"]) for row in summary["confirmation"]] == [
        *(("trb", number) for number in summary["winners"]),
        ("opd", None),
    ]


def test_a_setting_that_is_there_twice_is_on_the_front_once(tiny: SearchLab) -> None:
    goals = [{"metric": "score"}, {"metric": "train/reverse_kl", "direction": "minimize"}]
    tiny.search(objectives=goals, confirm={"seeds": 1, "settings": 6})
    assert tiny.run() == 0
    front = tiny.summary()["front"]
    assert front
    assert len(set(anneals(tiny, front))) == len(front)
    assert tiny.summary()["winners"] == front


def test_every_candidate_is_told_to_the_sampler(tiny: SearchLab, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.search(sampler={"kind": "tpe", "startup_trials": 2}, trials=5)
    seen: list[list[tuple[int, str]]] = []
    ask = Asker.ask

    def spying(self: Asker, number: int, told: Sequence[Told], study_attrs: Mapping[str, Any]) -> Proposal:
        seen.append([(t.number, t.state) for t in told])
        return ask(self, number, told, study_attrs)

    monkeypatch.setattr(Asker, "ask", spying)
    assert tiny.run() == 0
    assert seen == [[(n, "complete") for n in range(number)] for number in range(5)]
    assert len(tiny.searched()) <= 2


def test_asha_counts_a_setting_once(tiny: SearchLab) -> None:
    tiny.search(pruning={"kind": "asha", "first": 2, "factor": 2}, direction="minimize")
    assert tiny.run() == 0
    check(tiny, asked=6)
    # With duplicates in the count the other one, which was asked for more often, would be in the better half.
    (best,) = anneals(tiny, [tiny.summary()["best"]])
    assert anneals(tiny, range(6)).count(best) < 3
    # One of two settings goes on, however often each was asked for.
    assert sorted(len(steps) for steps in tiny.searched().values()) == [2, 18]


# --- a setting of the grid


def of_number(lab: SearchLab, number: int) -> list[tuple[str, int]]:
    """(event, seed) of the lines about a candidate."""
    return [(d.event, row["seed"]) for d in lab.log if d.number == number for row in d.rows]


def check_grid_candidate(lab: SearchLab, number: int) -> None:
    candidate = lab.candidates()[number]
    assert candidate["state"] == "complete"
    assert candidate["values"]["score"].keys() == {"0", "1", "2"}
    assert candidate["mean"]["score"] == pytest.approx(
        statistics.fmean(candidate["values"]["score"].values())
    )
    assert of_number(lab, number) == [("proposal", 0), ("replicate", 1), ("replicate", 2)]


def test_all_seeds_of_a_grid_setting_count(lab: SearchLab) -> None:
    lab.search(trials=3, sampler="random")
    lab.amend({"arms/trb/grid": GRID})
    assert lab.run() == 0
    check(lab, asked=3)
    check_grid_candidate(lab, 0)
    assert set(lab.stints().values()) == {1}
    assert all(once(steps) for steps in lab.searched().values())
    log = len(lab.log)
    assert lab.run() == 0
    assert len(lab.log) == log


def test_a_driver_that_dies_between_the_seeds_of_a_grid_setting_leaves_them_to_the_next(
    lab: SearchLab,
) -> None:
    lab.search(trials=2, sampler="random")
    lab.amend({"arms/trb/grid": GRID})
    assert lab.run() == 0
    log = lab.store.sweep("found").search_log("trb")
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))  # seed 2 is not there yet
    assert lab.run() == 0
    check(lab, asked=2)
    check_grid_candidate(lab, 0)


def test_a_grid_that_comes_later_adds_its_seeds_to_a_setting_that_was_asked_for(tiny: SearchLab) -> None:
    tiny.search(trials=3)
    assert tiny.run() == 0
    number = 0
    tiny.amend({"arms/trb/grid": {"warmup.anneal": anneals(tiny, [number])}})
    assert tiny.run() == 0
    check(tiny, asked=3)
    check_grid_candidate(tiny, number)
    assert set(tiny.stints().values()) == {1}


# --- an evaluation set more


def test_another_evaluation_set_makes_another_search_that_knows_the_settings(lab: SearchLab) -> None:
    lab.amend({"seeds": [0]})
    lab.search(trials=3, sampler="random")
    assert lab.run() == 0
    before, stints, context = lab.proposals(), lab.stints(), lab.summary()["context"]
    lab.base(eval={"sets": ["arith/easy", "arith/hard"], "every": 2})
    assert lab.run() == 0
    check_context(lab, context)
    known = [c for c in lab.candidates().values() if c["origin"] == "warm"]
    assert sorted(map(repr, (c["params"] for c in known))) == sorted(map(repr, before))
    assert {run: lab.stints()[run] for run in stints} == stints  # nothing is trained again
    for candidate in lab.candidates().values():
        (run,) = candidate["runs"]
        sets = read_json(lab.store.trial(run["run_id"]).result)["final"]["sets"]
        assert sets.keys() == {"easy", "hard"}
    run_dir = lab.store.trial(known[0]["runs"][0]["run_id"])
    result = read_json(run_dir.result)
    easy = result["final"]["sets"]["easy"]["pass_at_1"]
    result["final"]["sets"]["hard"]["pass_at_1"] = 0.9
    write_json(run_dir.result, result)
    assert lab.run() == 0
    mean = lab.candidates()[known[0]["number"]]["mean"]["score"]
    assert mean == pytest.approx((easy + 0.9) / 2)


def check_context(lab: SearchLab, before: str) -> None:
    assert lab.summary()["context"] != before
    assert len({d.context for d in lab.log}) == 2
    assert (lab.summary()["known"], lab.summary()["asked"]) == (3, 3)
    assert lab.summary()["over"]
