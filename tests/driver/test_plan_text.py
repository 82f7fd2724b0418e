from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from trb_lab.driver.outlook import outlook_of
from trb_lab.driver.plan import Plan, plan_row, plan_sweep, write_plan
from trb_lab.driver.plan_text import SETTINGS_SHOWN, plan_json, plan_summary, plan_text, search_text
from trb_lab.driver.search_counts import count_search
from trb_lab.store.pauses import set_pause
from trb_lab.store.run_dir import RunDir, write_json
from trb_lab.store.search_log import Decision, append
from trb_lab.trial import plan_trial, prepare

from ..sweep_fakes import Lab
from .runs import end, start, write_attempts

UNKNOWN = "unknown: no finished run of this shape in the store yet"
SEARCH: dict[str, Any] = {
    "space": {"warmup.kl_budget": {"kind": "float", "low": 0.001, "high": 1.0}},
    "trials": 30,
    "pruning": {"kind": "asha", "first": 1, "factor": 2},
}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def searching(lab: Lab, *, alone: bool = True) -> Plan:
    value = yaml.safe_load(lab.path.read_text())
    if alone:
        del value["arms"]["opd"]
    value["arms"]["trb"].pop("grid", None)
    value["arms"]["trb"]["search"] = {**SEARCH, "pruning": {**SEARCH["pruning"]}}
    lab.path.write_text(yaml.safe_dump(value))
    base = lab.root / "base.yaml"
    base.write_text(base.read_text().replace("easy]}", "easy], every: 1}"))
    return plan_sweep(lab.path, lab.store)


def propose(lab: Lab, plan: Plan, number: int, origin: Any = "ask", *, begun: bool = True) -> RunDir:
    search = plan.searches["trb"]
    params = {"warmup.kl_budget": 0.01 * (number + 1)}
    draft = search.arm.draft(number, params, 0)
    row = {**plan_row(draft, plan_trial(draft.spec).run_id), "search": {"arm": "trb", "number": number}}
    decision = Decision("proposal", search.context, (row,), number=number, params=params, origin=origin)
    append(lab.store.sweep("fake").search_log("trb"), decision)
    if not begun:
        return lab.store.trial(row["run_id"])
    run = prepare(draft.spec, lab.store)
    set_pause(run, 1)
    return run


def stopped(run: RunDir, state: str, done: int = 1) -> None:
    (run.checkpoints / f"step_{done:06d}").mkdir(parents=True)
    run.metrics.write_text("".join(f'{{"step": {step}}}\n' for step in range(done)))
    write_attempts(run, [start(1, 0.0), end(1, 1.0, state)])


def test_without_a_search_or_a_change_only_the_estimate_is_added(lab: Lab):
    plan = plan_sweep(lab.path, lab.store)
    before = plan_text(plan)
    assert before.splitlines()[-1] == "fake: 6 trials: 6 new"
    text = plan_text(plan, outlook_of(plan, lab.store))
    assert text.startswith(before + "\n")
    assert text[len(before) :] == (
        f"\nLeft to do: 6 runs; how long is {UNKNOWN}. Not counted: 2 evaluations of reference models."
    )
    assert plan_summary(plan, outlook_of(plan, lab.store)) == plan_summary(plan)


def test_limits_come_last(lab: Lab):
    plan = plan_sweep(lab.path, lab.store)
    assert plan_text(plan, limits="On dev: 6 runs.").endswith("6 new\nOn dev: 6 runs.")
    assert plan_json(plan, limits="On dev: 6 runs.")["limits"] == "On dev: 6 runs."


def test_counts_tell_what_is_reused_runs_and_failed(lab: Lab):
    plan = plan_sweep(lab.path, lab.store)
    first, second, *_ = plan.trials.values()
    sets = {name: {"fingerprint": print_} for name, print_ in first.eval_sets.items()}
    prepare(first.spec, lab.store)
    write_json(first.run_dir.result, {"final": {"sets": sets}})
    prepare(second.spec, lab.store)
    write_attempts(second.run_dir, [start(1, 0.0), end(1, 1.0, "failed", error_class="oom")])
    plan = plan_sweep(lab.path, lab.store)
    counts = plan_json(plan)["counts"]
    assert (counts["trials"], counts["new"], counts["reused"], counts["running"], counts["failed"]) == (
        6, 4, 1, 0, 1,
    )  # fmt: skip
    assert "fake: 6 trials: 4 new, 1 adopt, 1 failed" in plan_text(plan)


def test_changes_and_removed_runs_are_told_with_the_summary(lab: Lab):
    plan = plan_sweep(lab.path, lab.store)
    write_plan(plan, lab.store)
    lab.edit("steps: 2", "steps: 3")
    plan = plan_sweep(lab.path, lab.store)
    summary = plan_summary(plan, outlook_of(plan, lab.store)).splitlines()
    assert summary[0] == "fake: 6 trials: 6 new"
    assert summary[1] == "4 trials are new because of: warmup.steps: 2 -> 3"
    assert summary[2].startswith("4 no longer planned (kept): trb-s0-")
    assert summary[3] == "  4 not begun. Nothing is done to them."
    changes = plan_json(plan, outlook_of(plan, lab.store))["changes"]
    assert changes["changed"][0]["fields"] == ["warmup.steps: 2 -> 3"]
    assert [r["state"] for r in changes["removed"]] == ["not begun"] * 4


def test_a_search_that_has_not_begun(lab: Lab):
    plan = searching(lab)
    text = plan_text(plan, outlook_of(plan, lab.store))
    assert "fake: 1 search (trb)" in text
    assert (
        "trb: search (tpe) of 30 settings, 0 asked for: 0 complete, 0 paused, 0 failed, 0 running; 30 more will "
        "be asked for.\n  adaptive: what follows depends on results; nothing that was decided is left to do."
        in text
    )
    assert not lab.store.root.exists()


def test_a_search_tells_what_is_certain_and_what_is_not(lab: Lab):
    plan = searching(lab, alone=False)
    stopped(propose(lab, plan, 0), "paused")  # waits for the search's word
    promoted = propose(lab, plan, 1)
    stopped(promoted, "paused")
    set_pause(promoted, 2)
    stopped(propose(lab, plan, 2), "failed")
    stopped(propose(lab, plan, 3), "interrupted", 0)
    propose(lab, plan, 4, begun=False)
    stopped(propose(lab, plan, 5, "warm"), "paused")
    propose(lab, plan, 6, "grid", begun=False)
    plan = plan_sweep(lab.path, lab.store)
    counts = count_search(plan.searches["trb"], lab.store, plan.trials)
    assert (counts.asked, counts.known, counts.grid, counts.left) == (5, 1, 1, 25)
    assert counts.states() == {"complete": 0, "paused": 2, "failed": 1, "running": 4}
    assert search_text(counts) == (
        "trb: search (tpe) of 30 settings, 5 asked for (and 1 known before, 1 of the grid): 0 complete, 2 paused, "
        "1 failed, 4 running; 25 more will be asked for.\n"
        "  adaptive: what follows depends on results; only this is certain:\n"
        "    #1 kl_budget=0.02: seed 0 is to go on\n"
        "    #3 kl_budget=0.04: seed 0 interrupted\n"
        "    #4 kl_budget=0.05: seed 0 waiting\n"
        "    #6 kl_budget=0.07: seed 0 waiting"
    )
    outlook = outlook_of(plan, lab.store, slots=3)
    text = plan_text(plan, outlook, preview=["#7 kl_budget=0.3"], limits="On dev.")
    assert "fake: 2 trials: 2 new; 1 search (trb)\n" in text
    assert "\n  preview, if nothing new finishes first:\n    #7 kl_budget=0.3\nLeft to do: " in text
    assert text.endswith("\nOn dev.")
    found = plan_json(plan, outlook, preview=["#7 kl_budget=0.3"], limits="On dev.")
    json.dumps(found, allow_nan=False)
    assert found["preview"] == ["#7 kl_budget=0.3"]
    search = found["searches"]["trb"]
    assert {key: search[key] for key in ("trials", "asked", "known", "left", "paused", "failed")} == {
        "trials": 30, "asked": 5, "known": 1, "left": 25, "paused": 2, "failed": 1,
    }  # fmt: skip
    assert search["certain"][0]["setting"] == "#1 kl_budget=0.02"
    assert found["estimate"]["slots"] == 3
    assert found["estimate"]["unknown"]


def test_a_long_list_of_settings_is_cut(lab: Lab):
    plan = searching(lab)
    for number in range(SETTINGS_SHOWN + 3):
        propose(lab, plan, number, begun=False)
    plan = plan_sweep(lab.path, lab.store)
    lines = search_text(count_search(plan.searches["trb"], lab.store)).splitlines()
    assert len(lines) == 2 + SETTINGS_SHOWN + 1
    assert lines[-1] == "    ... and 3 more"
    found = plan_json(plan, outlook_of(plan, lab.store))
    assert len(found["searches"]["trb"]["certain"]) == SETTINGS_SHOWN + 3


def test_confirmation_runs_are_certain(lab: Lab):
    plan = searching(lab, alone=False)
    search = plan.searches["trb"]
    assert search.arm.reference is not None
    drafts = [search.arm.draft(0, {"warmup.kl_budget": 0.01}, 2), search.arm.reference(2)]
    rows = tuple(
        {**plan_row(draft, plan_trial(draft.spec).run_id), "search": {"number": number, "role": "confirm"}}
        for number, draft in zip((0, None), drafts, strict=True)
    )
    propose(lab, plan, 0, begun=False)
    append(lab.store.sweep("fake").search_log("trb"), Decision("confirm", search.context, rows, numbers=(0,)))
    plan = plan_sweep(lab.path, lab.store)
    lines = search_text(count_search(plan.searches["trb"], lab.store)).splitlines()
    assert lines[-2:] == [
        "    confirmation of trb #0 kl_budget=0.01: seed 2 waiting",
        "    confirmation of opd: seed 2 waiting",
    ]
