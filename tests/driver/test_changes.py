from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from trb_lab.driver.cancelling import cancel_runs
from trb_lab.driver.changes import NO_TRACE, changes_json, changes_of, changes_text, removed_live
from trb_lab.driver.plan import plan_row, plan_sweep, write_plan
from trb_lab.launch.base import JobStatus, Phase
from trb_lab.store import locks
from trb_lab.store.run_dir import RunDir, read_json, write_json
from trb_lab.store.search_log import Decision, append
from trb_lab.store.status import state_of
from trb_lab.trial import plan_trial

from ..sweep_fakes import Lab
from .runs import end, start, write_attempts


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def base(lab: Lab, old: str, new: str) -> None:
    path = lab.root / "base.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def planned(lab: Lab, *, prepared: bool = False) -> Any:
    """The plan, written as a run of the sweep does."""
    plan = plan_sweep(lab.path, lab.store)
    write_plan(plan, lab.store)
    for trial in plan.trials.values() if prepared else ():
        trial.prepare(lab.store)
    return plan


def runs_of(lab: Lab, kind: str) -> list[RunDir]:
    return [run for run in lab.store.trials() if run.run_id.startswith(kind)]


def test_nothing_changed(lab: Lab):
    assert changes_text(changes_of(plan_sweep(lab.path, lab.store), lab.store)) == ""
    planned(lab)
    assert changes_text(changes_of(plan_sweep(lab.path, lab.store), lab.store)) == ""
    lab.edit("seeds: [0, 1]", "seeds: [0, 1, 2]")  # new rows are no changed ones
    assert changes_text(changes_of(plan_sweep(lab.path, lab.store), lab.store)) == ""


@pytest.mark.parametrize("prepared", [True, False])
def test_a_change_of_the_base_is_told_once(lab: Lab, prepared: bool):
    planned(lab, prepared=prepared)
    base(lab, "steps: 4", "steps: 4\noptim: {lr: 0.0005}\nresources: {cpu_threads: 3}")
    changes = changes_of(plan_sweep(lab.path, lab.store), lab.store)
    [group] = changes.trials
    assert group.fields == ("optim.lr: 1e-05 -> 0.0005",)
    assert len(group.rows) == 6
    text = changes_text(changes)
    assert text.startswith("6 trials are new because of: optim.lr: 1e-05 -> 0.0005\n")
    assert text.count("optim.lr") == 1
    assert "6 not begun. Nothing is done to them." in text
    assert len(changes_json(changes)["changed"][0]["run_ids"]) == 6


def test_changed_files_are_told_where_the_earlier_run_left_a_record(lab: Lab):
    planned(lab, prepared=True)
    (lab.root / "student" / "config.json").write_text('{"role": "another"}')
    [group] = changes_of(plan_sweep(lab.path, lab.store), lab.store).trials
    assert len(group.fields) == 1
    assert group.fields[0].startswith('contents.student: "sha256:')


def test_changed_files_without_a_record(lab: Lab):
    planned(lab)
    (lab.root / "student" / "config.json").write_text('{"role": "another"}')
    [group] = changes_of(plan_sweep(lab.path, lab.store), lab.store).trials
    assert group.fields == (NO_TRACE,)


def test_different_reasons_are_told_apart(lab: Lab):
    planned(lab)
    lab.edit("warmup: {kind: trb, steps: 2}", "warmup: {kind: trb, steps: 3}")
    lab.edit("{warmup: {kind: opd}}", "{warmup: {kind: opd}, optim.lr: 0.1}")
    changes = changes_of(plan_sweep(lab.path, lab.store), lab.store)
    assert [(len(g.rows), g.fields) for g in changes.trials] == [
        (4, ("warmup.steps: 2 -> 3",)),
        (2, ("optim.lr: 1e-05 -> 0.1",)),
    ]
    only = plan_sweep(lab.path, lab.store).limited_to(["opd"])
    assert [len(g.rows) for g in changes_of(only, lab.store).trials] == [2]


def test_removed_runs_are_told_with_their_state_and_remembered_until_they_end(lab: Lab):
    planned(lab, prepared=True)
    lab.edit("[0.01, 0.1]", "[0.01]")
    running, waiting = sorted(
        (run for run in runs_of(lab, "trb") if read_json(run.config)["spec"]["warmup"]["kl_budget"] == 0.1),
        key=lambda run: run.run_id,
    )
    places = {waiting.run_id: JobStatus(Phase.WAITING)}
    write_attempts(running, [start(1, 0.0)])
    with locks.hold(running.lock, "the run"):
        plan = plan_sweep(lab.path, lab.store)
        text = changes_text(changes_of(plan, lab.store, places))
        assert f"2 no longer planned (kept): {running.run_id}, {waiting.run_id}" in text
        assert (
            "1 running, 1 in the cluster's queue. Nothing is done to them; --cancel-removed cancels those "
            "that run or wait." in text
        )
        assert f"running: {running.run_id} (trb kl_budget=0.1 seed=0)" in text
        assert {run.run_id for run in removed_live(plan, lab.store, places)} == {
            running.run_id,
            waiting.run_id,
        }
        write_plan(plan, lab.store)
    # plan.json holds other trials now, and still the next plan knows of them.
    file = lab.store.sweep("fake").plan
    assert read_json(file)["removed"] == [running.run_id, waiting.run_id]
    plan = planned(lab)
    assert plan.no_longer_planned == (running.run_id, waiting.run_id)
    assert read_json(file)["removed"] == [running.run_id, waiting.run_id]
    # One ends, the other's directory is removed.
    write_attempts(running, [start(1, 0.0), end(1, 1.0, "failed", error="boom")])
    waiting.config.unlink()
    os.rmdir(waiting.path)
    planned(lab)
    assert "removed" not in read_json(file)
    assert plan_sweep(lab.path, lab.store).no_longer_planned == ()


def test_a_removed_run_that_is_planned_again_is_none(lab: Lab):
    planned(lab, prepared=True)
    lab.edit("[0.01, 0.1]", "[0.01]")
    planned(lab)
    lab.edit("[0.01]", "[0.01, 0.1]")
    assert plan_sweep(lab.path, lab.store).no_longer_planned == ()
    planned(lab)
    assert "removed" not in read_json(lab.store.sweep("fake").plan)


def test_a_run_of_another_sweep_is_left_to_it(lab: Lab):
    planned(lab, prepared=True)
    other = lab.root / "other.yaml"
    other.write_text(lab.path.read_text().replace("name: fake", "name: second"))
    write_plan(plan_sweep(other, lab.store), lab.store)
    lab.edit("[0.01, 0.1]", "[0.01]")
    plan = plan_sweep(lab.path, lab.store)
    places = {run_id: JobStatus(Phase.RUNNING) for run_id in plan.no_longer_planned}
    assert removed_live(plan, lab.store, places) == []
    text = changes_text(changes_of(plan, lab.store, places))
    assert "2 of those that run or wait are planned by sweep 'second' and left to it." in text
    assert "--cancel-removed" not in text


def test_runs_are_cancelled_without_asking(lab: Lab):
    planned(lab, prepared=True)
    runs = runs_of(lab, "opd")
    assert cancel_runs(lab.store, runs) == []
    assert [str(state_of(run)) for run in runs] == ["cancelled"] * 2
    assert [str(state_of(run)) for run in runs_of(lab, "trb")] == ["new"] * 4


SEARCH = """
name: fake
question: which budget?
base: base.yaml
seeds: [0, 1]
arms:
  opd: {overrides: {warmup: {kind: opd}}}
  trb:
    overrides: {warmup: {kind: trb, steps: 2}}
    search: {space: {warmup.kl_budget: {kind: float, low: 0.01, high: 1.0}}, trials: 5}
"""


def propose(lab: Lab, plan: Any, number: int, *, begun: bool = False) -> RunDir:
    search = plan.searches["trb"]
    params = {"warmup.kl_budget": 0.1 * (number + 1)}
    draft = search.arm.draft(number, params, 0)
    planned_trial = plan_trial(draft.spec)
    row = {
        **plan_row(draft, planned_trial.run_id),
        "search": {"arm": "trb", "number": number, "role": "select"},
    }
    log = lab.store.sweep("fake").search_log("trb")
    append(log, Decision("proposal", search.context, (row,), number=number, params=params))
    run = lab.store.trial(planned_trial.run_id)
    if begun:
        spec = draft.spec.model_dump(mode="json")
        write_json(run.config, {"run_id": run.run_id, "spec": spec, "identity": planned_trial.identity})
        write_attempts(run, [start(1, 0.0), end(1, 1.0, "paused")])
    return run


@pytest.mark.parametrize("begun", [True, False])
def test_a_search_of_another_base_leaves_its_candidates_alone(lab: Lab, begun: bool):
    lab.path.write_text(SEARCH)
    plan = planned(lab)
    runs = [propose(lab, plan, number, begun=begun) for number in range(3)]
    assert changes_of(plan_sweep(lab.path, lab.store), lab.store).searches == ()
    base(lab, "steps: 4", "steps: 4\noptim: {lr: 0.0005}")
    plan = plan_sweep(lab.path, lab.store)
    changes = changes_of(plan, lab.store)
    [left] = changes.searches
    assert (left.arm, left.candidates, left.fields) == ("trb", 3, ("optim.lr: 1e-05 -> 0.0005",))
    text = changes_text(changes)
    assert "trb: 3 earlier candidates of the search belong to another base and are left alone." in text
    assert {run.run_id for run in runs} <= set(plan.no_longer_planned)
    assert ("3 paused" in text) == begun


def test_another_space_is_another_base(lab: Lab):
    lab.path.write_text(SEARCH)
    plan = planned(lab)
    propose(lab, plan, 0)
    value = yaml.safe_load(SEARCH)
    value["arms"]["trb"]["search"]["space"]["optim.lr"] = {"kind": "float", "low": 1e-6, "high": 1e-4}
    lab.path.write_text(yaml.safe_dump(value))
    [left] = changes_of(plan_sweep(lab.path, lab.store), lab.store).searches
    assert left.fields == ("search.space: optim.lr is searched now",)
