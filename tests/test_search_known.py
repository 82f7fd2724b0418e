"""What a search knows before it asks: a grid beside it, finished trials of the store, runs that others share."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from trb_lab.store.pauses import pause_after
from trb_lab.store.status import attempt_count, state_of

from .search_fakes import ASHA, STEPS, SearchLab, check, once, search_lab

pytestmark = pytest.mark.long

GRID = {"warmup.kl_budget": [0.05, 0.2], "warmup.steps": [6, 12]}
OPD = {"overrides": {"warmup": {"kind": "opd"}}}
POINT = {"warmup.kl_budget": 0.05, "warmup.steps": 6, "warmup.anneal": "linear"}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchLab:
    found = search_lab(tmp_path, monkeypatch)
    found.search(trials=4)
    return found


def other_sweep(lab: SearchLab, **changes: Any) -> None:
    """A grid of the same base runs to its end."""
    tree = {
        "name": "grid",
        "question": "which?",
        "base": "base.yaml",
        "seeds": [0],
        "parallel": 2,
        "arms": {"trb": {"overrides": {"warmup": {"kind": "trb"}}, "grid": GRID}},
        "report": {"references": False},
        **changes,
    }
    search, lab.path = lab.path, lab.root / "grid.yaml"
    lab.path.write_text(yaml.safe_dump(tree))
    assert lab.run() == 0
    lab.path = search


def origins(lab: SearchLab) -> list[str]:
    return [c["origin"] for c in lab.candidates().values()]


def test_finished_trials_of_the_same_base_are_known_and_cost_nothing(lab: SearchLab) -> None:
    other_sweep(lab)
    before = lab.stints()
    assert lab.run() == 0
    check(lab, asked=4)
    assert origins(lab) == ["warm"] * 4 + ["ask"] * 4
    assert {run: lab.stints()[run] for run in before} == before
    assert lab.summary()["known"] == 4
    assert all(c["state"] == "complete" for c in lab.candidates().values())
    log = len(lab.log)
    assert lab.run() == 0
    assert len(lab.log) == log


def test_what_is_known_is_told_to_the_sampler(lab: SearchLab, tmp_path: Path) -> None:
    other_sweep(lab)
    lab.search(sampler={"kind": "tpe", "startup_trials": 2})
    assert lab.run() == 0
    warm = lab.proposals()[4:]
    shutil.rmtree(lab.store.sweep("found").path)
    lab.search(warm_start=False)
    assert lab.run() == 0
    assert origins(lab) == ["ask"] * 4
    assert lab.proposals() != warm


def test_trials_of_another_base_or_another_seed_are_not_known(lab: SearchLab) -> None:
    lab.base(optim={"lr": 2e-5})
    other_sweep(lab)
    lab.base(optim=...)
    other_sweep(lab, name="seeds", seeds=[1])
    assert lab.run() == 0
    assert origins(lab) == ["ask"] * 4


def test_a_driver_that_dies_while_it_learns_leaves_the_rest_to_the_next(lab: SearchLab) -> None:
    other_sweep(lab)
    calm = {tuple(p.items()) for p in _warm_of(lab)}
    assert len(calm) == 4
    log = lab.store.sweep("found").search_log("trb")
    first = log.read_text().splitlines(keepends=True)[0]
    log.write_text(first + '{"event": "propo')
    assert lab.run() == 0
    check(lab, asked=4)
    warm = [d for d in lab.log if d.origin == "warm"]
    assert {tuple(d.params.items()) for d in warm} >= calm
    assert origins(lab) == ["warm"] * len(warm) + ["ask"] * 4


def _warm_of(lab: SearchLab) -> list[dict[str, Any]]:
    assert lab.run() == 0
    return [c["params"] for c in lab.candidates().values() if c["origin"] == "warm"]


def test_finished_trials_with_fewer_evaluation_sets_are_evaluated(lab: SearchLab) -> None:
    other_sweep(lab)
    lab.base(eval={"sets": ["arith/easy", "arith/hard"], "every": 2})
    assert lab.run() == 0
    check(lab, asked=4)
    assert origins(lab).count("warm") == 4
    for number in range(4):
        assert lab.candidates()[number]["state"] == "complete"
        assert attempt_count(lab.run_of(number)) == 1  # nothing is trained again


def test_a_grid_beside_the_search_runs_whole_and_is_told(lab: SearchLab) -> None:
    lab.search(pruning=ASHA, trials=4)
    lab.amend({"arms/trb/grid": {"warmup.kl_budget": [0.05, 5.0], "warmup.steps": [6]}})
    assert lab.run() == 0
    check(lab, asked=4)
    assert origins(lab) == ["grid"] + ["ask"] * 4
    assert lab.candidates()[0]["params"] == POINT  # and a budget of 5.0 is outside the space
    grid = [run for run in lab.store.trials() if pause_after(run) is None and run.run_id.startswith("trb-")]
    assert sum(state_of(run) == "completed" for run in grid) >= 6  # two settings with three seeds each
    assert lab.candidates()[0]["state"] == "complete"
    assert attempt_count(lab.run_of(0)) == 1
    assert lab.candidates()[0]["values"]["score"].keys() >= {"0"}


def test_a_sweep_that_plans_a_paused_run_has_it_whole(lab: SearchLab) -> None:
    lab.amend({"seeds": [0]})
    lab.search(pruning=ASHA, trials=3)
    assert lab.run() == 0
    number = next(n for n, c in lab.candidates().items() if c["state"] == "paused")
    params = lab.proposals()[number]
    other_sweep(lab, arms={"trb": {"overrides": {"warmup.kind": "trb", **params}}})
    run = lab.run_of(number)
    assert state_of(run) == "completed"
    assert lab.steps_made(run.run_id) == list(range(STEPS))
    assert lab.run() == 0
    assert lab.candidates()[number]["state"] == "complete"
    assert lab.summary()["counts"]["complete"] >= 2


def test_a_sweep_that_joins_a_run_at_work_has_it_whole(lab: SearchLab) -> None:
    """Its driver attaches while the search's driver leads the worker, which was to pause after two steps."""
    lab.amend({"seeds": [0]})
    lab.search(pruning=ASHA, trials=3)
    assert lab.run() == 0
    run, params = lab.run_of(0), lab.proposals()[0]
    lab.forget()
    lab.behave({"": {"function": 1}, run.run_id: {"function": 1, "pause": 0.4}})
    pid = lab.fork_driver()
    lab.wait_for_steps(1)
    other_sweep(lab, arms={"trb": {"overrides": {"warmup.kind": "trb", **params}}})
    assert state_of(run) == "completed"
    assert lab.code_of(pid) == 0
    assert once(lab.steps_made(run.run_id))
    check(lab, asked=3)


def test_two_arms_search_beside_each_other_and_share_runs(lab: SearchLab) -> None:
    space = {"warmup.anneal": {"kind": "choice", "values": ["linear", "cosine"]}}
    arm = {
        "overrides": {"warmup": {"kind": "trb", "steps": 10}},
        "search": {"trials": 5, "sampler": "random", "space": space, "confirm": None, "parallel": 2},
    }
    pruned = {**arm, "search": {**arm["search"], "pruning": ASHA, "seed": 1}}
    lab.amend({"arms": {"trb": arm, "pruned": pruned, "opd": OPD}, "seeds": [0], "parallel": 3})
    assert lab.run() == 0
    check(lab, asked=5)
    assert lab.summary("pruned")["asked"] == 5
    assert lab.summary("pruned")["over"]
    assert len(lab.store.trials()) == 3
    assert all(once(lab.steps_made(run.run_id)) for run in lab.store.trials())
    # The unpruned search wants all of each run, whoever began it.
    assert lab.summary()["counts"] == {"complete": 5}
    before = lab.attempts()
    assert lab.run() == 0
    assert lab.summary("pruned")["counts"] == {"complete": 5}
    assert lab.attempts() == before
