from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from trb_lab.driver.estimate import Estimate, estimate, estimate_json, estimate_text, spread
from trb_lab.driver.estimate_basis import MOST_RUNS, FinishedRun, evaluations_between, find_bases, wanted_of
from trb_lab.driver.plan import Plan, plan_row, plan_sweep
from trb_lab.spec import ExperimentSpec
from trb_lab.store.pauses import set_pause
from trb_lab.store.run_dir import RunDir, write_json
from trb_lab.store.search_log import Decision, append
from trb_lab.trial import plan_trial, prepare

from ..sweep_fakes import Lab
from .runs import end, finished, start, write_attempts

SWEEP: dict[str, Any] = {
    "name": "new",
    "question": "how long?",
    "base": "base.yaml",
    "seeds": [10, 11],
    "arms": {"opd": {"overrides": {"warmup": {"kind": "opd"}}}},
    "report": {"references": False},
}
BASE: dict[str, Any] = {
    "name": "base",
    "student": "./student",
    "teacher": "./teacher",
    "dataset": {"kind": "arith"},
    "steps": 100,
    "eval": {"sets": ["arith/easy"], "every": 20},
    "optim": {"lr": 0.001},
}
TRB = {"kind": "trb", "steps": 10}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def plan_of(lab: Lab, base: dict[str, Any] | None = None, **sweep: Any) -> Plan:
    (lab.root / "base.yaml").write_text(yaml.safe_dump({**BASE, **(base or {})}))
    lab.path.write_text(yaml.safe_dump({**SWEEP, **sweep}, sort_keys=False))
    return plan_sweep(lab.path, lab.store)


def spec_of(lab: Lab, seed: int, **changes: Any) -> ExperimentSpec:
    models = {role: {"name": str(lab.root / role)} for role in ("student", "teacher")}
    warmup = changes.pop("warmup", {"kind": "opd"})
    return ExperimentSpec.model_validate({**BASE, **models, "warmup": warmup, "seed": seed, **changes})


def estimated(lab: Lab, plan: Plan | None = None, **kwargs: Any) -> Estimate:
    return estimate(plan or plan_of(lab), lab.store, **kwargs)


def test_two_trials_like_two_finished_ones(lab: Lab):
    # 100 steps, 5 evaluations, and 10 s before the first step: 100 + 5 * 2 + 10 and 300 + 5 * 2 + 10 seconds.
    finished(lab.store, spec_of(lab, 0), step=1.0, evaluation=2.0, startup=10.0, threads=4)
    finished(lab.store, spec_of(lab, 1), step=3.0, evaluation=2.0, startup=10.0, threads=4)
    found = estimated(lab)
    assert found.unit == "core_hours"
    assert (found.low, found.high) == pytest.approx((2 * 120 * 4 / 3600, 2 * 320 * 4 / 3600))
    assert found.hours == pytest.approx((2 * 120 / 3600, 2 * 320 / 3600))
    assert found.wall_hours(1) == pytest.approx(found.hours)
    assert found.wall_hours(2) == pytest.approx((120 / 3600, 320 / 3600))
    assert found.wall_hours(9) == pytest.approx((120 / 3600, 320 / 3600))  # a run is not shared
    text = estimate_text(found, 2)
    assert text == (
        "Left to do: 0.27 to 0.71 core-hours; 2 min to 5 min with 2 at once "
        "(from 2 finished runs of this shape on AMD EPYC)."
    )
    assert estimate_json(found)["kinds"][0]["runs"] == [2, 2]
    json.dumps(estimate_json(found))


def test_gpu_hours_are_those_of_the_new_trial(lab: Lab):
    finished(lab.store, spec_of(lab, 0), step=36.0, gpus=1, threads=8)
    found = estimated(lab, plan_of(lab, {"resources": {"gpus": 2}}))
    assert (found.unit, found.low, found.high) == ("gpu_hours", pytest.approx(4.0), pytest.approx(4.0))
    assert "4 GPU-hours" in estimate_text(found)
    assert "on H100" in estimate_text(found)


def test_hardware_is_that_of_the_newest_run_or_of_what_is_asked_for(lab: Lab):
    import os

    on_cpu = finished(lab.store, spec_of(lab, 0), step=36.0)
    on_gpu = finished(lab.store, spec_of(lab, 1), step=3.6, gpus=1)
    os.utime(on_cpu.result, (1e9, 1e9))
    os.utime(on_gpu.result, (2e9, 2e9))
    assert estimated(lab).unit == "gpu_hours"
    assert estimated(lab, on_gpu=False).high == pytest.approx(2 * 1.0)
    assert estimated(lab, plan_of(lab, {"resources": {"device": "cpu"}})).unit == "core_hours"
    os.utime(on_gpu.result, (5e8, 5e8))
    assert estimated(lab).unit == "core_hours"


def test_nothing_is_made_up_where_nothing_is_known(lab: Lab):
    plan = plan_of(lab)
    text = "unknown: no finished run of this shape in the store yet"
    assert estimate_text(estimate(plan, lab.store)) == f"Left to do: 2 runs; how long is {text}."
    # Another model, rollout, evaluation, loss or number format is another shape.
    for change in (
        {"rollout": {"prompts_per_step": 7}},
        {"rollout": {"block_tokens": 4}},
        {"eval": {**BASE["eval"], "every": 10}},
        {"eval": {**BASE["eval"], "samples": 9}},
        {"eval": {"sets": ["arith/hard"], "every": 20}},
        {"loss": {"kind": "full"}},
        {"dtype": "bfloat16"},
        {"student": {"name": str(lab.root / "teacher")}},
    ):
        finished(lab.store, spec_of(lab, 0, **change))
        assert estimate(plan, lab.store).unknown == ("opd",), change
    # What does not decide how long a step takes does not matter.
    finished(lab.store, spec_of(lab, 0, optim={"lr": 0.5}, steps=7, alarms={"patience": None}))
    assert estimate(plan, lab.store).unknown == ()


def test_the_same_arm_comes_first_and_others_are_said_to_be_others(lab: Lab):
    arms = {**SWEEP["arms"], "trb": {"overrides": {"warmup": TRB}}}
    finished(lab.store, spec_of(lab, 0), step=36.0)
    found = estimated(lab, plan_of(lab, arms=arms))
    assert {k.label: k.basis.split(" of this shape")[1] for k in found.kinds} == {
        "opd": " on AMD EPYC",
        "trb": " but of other arms (opd) on AMD EPYC",
    }
    finished(lab.store, spec_of(lab, 0, warmup=TRB), step=72.0)
    found = estimated(lab, plan_of(lab, arms=arms))
    assert {k.label: (k.low, k.high) for k in found.kinds} == {
        "opd": pytest.approx((2.0, 2.0)),
        "trb": pytest.approx((4.0, 4.0)),
    }
    assert found.low == found.high == pytest.approx(6.0)


def test_known_and_unknown_are_told_apart(lab: Lab):
    finished(lab.store, spec_of(lab, 0), step=36.0)
    arms = {**SWEEP["arms"], "wide": {"overrides": {"rollout": {"prompts_per_step": 7}}}}
    found = estimated(lab, plan_of(lab, arms=arms))
    assert found.unknown == ("wide",)
    text = estimate_text(found, 1)
    assert text.startswith("Left to do: 2 core-hours, and what is unknown; 2 h with 1 at once.\n")
    assert "  wide: 2 runs, unknown: no finished run of this shape in the store yet" in text


def test_only_what_is_left_counts(lab: Lab):
    finished(lab.store, spec_of(lab, 0), step=36.0, evaluation=360.0, startup=3.6)
    plan = plan_of(lab)
    first, second = plan.trials.values()
    run = prepare(first.spec, lab.store)
    (run.checkpoints / "step_000060").mkdir(parents=True)
    write_attempts(run, [start(1, 0), end(1, 1, "interrupted")])
    finished(lab.store, second.spec, step=36.0, evaluation=360.0, startup=3.6)
    found = estimated(lab, plan_sweep(lab.path, lab.store))
    # 40 steps, evaluations after 80 and 100.
    assert found.low == found.high == pytest.approx((3.6 + 40 * 36 + 2 * 360) / 3600)
    finished(lab.store, first.spec)
    assert estimate_text(estimated(lab, plan_sweep(lab.path, lab.store))) == ""


def test_supervised_updates_come_once(lab: Lab):
    warmup = {"kind": "sft", "updates": 5}
    finished(lab.store, spec_of(lab, 0, warmup=warmup), step=36.0, sft=1800.0)
    found = estimated(lab, plan_of(lab, arms={"sft": {"overrides": {"warmup": warmup}}}))
    assert found.low == pytest.approx(2 * 1.5)


def test_runs_without_a_ledger_count_by_their_total(lab: Lab):
    run = finished(lab.store, spec_of(lab, 0), step=36.0)
    result = json.loads(run.result.read_text())
    write_json(run.result, {**result, "cost": None})
    assert estimated(lab).low == pytest.approx(2.0)


def test_what_cannot_be_read_is_left_out(lab: Lab):
    run = finished(lab.store, spec_of(lab, 0))
    run.config.write_text("{")
    assert estimated(lab).unknown == ("opd",)
    run = finished(lab.store, spec_of(lab, 1))
    run.result.write_text("{}")
    assert estimated(lab).unknown == ("opd",)


def test_references_are_said_not_to_count(lab: Lab):
    finished(lab.store, spec_of(lab, 0))
    found = estimated(lab, plan_of(lab, report={"references": True}))
    assert "Not counted: 2 evaluations of reference models." in estimate_text(found)


def test_spread():
    assert spread([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert spread([float(i) for i in range(11)]) == pytest.approx((1.0, 9.0))
    assert spread([0.0, 1.0, 2.0, 3.0, 4.0]) == pytest.approx((0.4, 3.6))


def test_evaluations_of_a_part():
    assert [evaluations_between(0, end, 50, 20) for end in (19, 20, 49, 50)] == [0, 1, 2, 3]
    assert evaluations_between(40, 60, 60, 20) == 1
    assert evaluations_between(0, 60, 60, None) == 1
    assert evaluations_between(0, 59, 60, None) == 0
    run = FinishedRun("opd", 1.0, 10.0, 100.0, 5.0, 0, 1, "x")
    assert run.seconds(0, 20, 60, 20) == 5 + 100 + 20 + 10
    assert run.seconds(20, 60, 60, 20) == 5 + 40 + 20


# --- searches

SEARCH: dict[str, Any] = {
    "space": {"warmup.kl_budget": {"kind": "float", "low": 0.01, "high": 1.0}},
    "trials": 6,
    "seeds": 1,
    "pruning": {"kind": "asha", "first": 20, "factor": 3},
    "confirm": None,
}


def search_plan(lab: Lab, **search: Any) -> Plan:
    arms = {"trb": {"overrides": {"warmup": TRB}, "search": {**SEARCH, **search}}}
    return plan_of(lab, arms=arms)


def propose(lab: Lab, plan: Plan, number: int, origin: Any = "ask") -> RunDir:
    search = plan.searches["trb"]
    params = {"warmup.kl_budget": 0.1 * (number + 1)}
    draft = search.arm.draft(number, params, 10)
    row = {**plan_row(draft, plan_trial(draft.spec).run_id), "search": {"arm": "trb", "number": number}}
    decision = Decision("proposal", search.context, (row,), number=number, params=params, origin=origin)
    append(lab.store.sweep("new").search_log("trb"), decision)
    return prepare(draft.spec, lab.store)


def paused(run: RunDir, done: int, until: int | None) -> None:
    (run.checkpoints / f"step_{done:06d}").mkdir(parents=True)
    run.metrics.write_text("".join(f'{{"step": {step}}}\n' for step in range(done)))
    write_attempts(run, [start(1, 0), end(1, 1, "paused")])
    set_pause(run, until)


def hours_of(found: Estimate) -> dict[str, tuple[Any, Any]]:
    return {k.label: (k.low, k.high) for k in found.kinds}


def test_a_search_lies_between_all_paused_and_all_to_the_end(lab: Lab):
    finished(lab.store, spec_of(lab, 0, warmup=TRB), step=36.0)
    found = estimated(lab, search_plan(lab))
    assert hours_of(found) == {"trb: settings to ask for": pytest.approx((6 * 0.2, 6 * 1.0))}
    found = estimated(lab, search_plan(lab, seeds=2))
    assert found.low == pytest.approx(12 * 0.2)
    found = estimated(lab, search_plan(lab, pruning=None))
    assert (found.low, found.high) == pytest.approx((6.0, 6.0))


def test_what_was_asked_for_counts_as_it_stands(lab: Lab):
    finished(lab.store, spec_of(lab, 0, warmup=TRB), step=36.0)
    plan = search_plan(lab)
    paused(propose(lab, plan, 0), 20, 20)  # may go on: 0 to 80 steps
    paused(propose(lab, plan, 1), 20, 60)  # was let go on: 40 to 80 steps
    set_pause(propose(lab, plan, 2), 20)  # waits: 20 to 100 steps
    failed = propose(lab, plan, 3)
    write_attempts(failed, [start(1, 0), end(1, 1, "failed")])
    done = plan.searches["trb"].arm.draft(4, {"warmup.kl_budget": 0.5}, 10).spec
    finished(lab.store, done, step=36.0)
    propose(lab, plan, 4)
    plan = plan_sweep(lab.path, lab.store)
    found = hours_of(estimated(lab, plan))
    assert found["trb"] == pytest.approx((0.4 + 0.2, 0.8 + 0.8 + 1.0))
    assert found["trb: settings to ask for"] == pytest.approx((0.2, 1.0))  # 6 less 5


def test_racing_and_confirmation(lab: Lab):
    finished(lab.store, spec_of(lab, 0, warmup=TRB), step=36.0)
    finished(lab.store, spec_of(lab, 0), step=72.0)
    search = {
        **SEARCH,
        "pruning": None,
        "racing": {"settings": 3, "seeds": 2},
        "confirm": {"settings": 2, "seeds": 3},
    }
    arms = {
        "opd": {"overrides": {"warmup": {"kind": "opd"}}},
        "trb": {"overrides": {"warmup": TRB}, "search": search},
    }
    found = estimated(lab, plan_of(lab, arms=arms))
    told = {(k.label, k.least, k.most): (k.low, k.high) for k in found.kinds}
    assert told == {
        ("opd", 2, 2): pytest.approx((4.0, 4.0)),
        ("trb: settings to ask for", 6, 6): pytest.approx((6.0, 6.0)),
        ("trb: racing", 0, 3): pytest.approx((0.0, 3.0)),  # 3 settings, one more seed each
        ("trb: confirmation", 6, 6): pytest.approx((6.0, 6.0)),  # 2 winners, 3 fresh seeds
        ("trb: confirmation", 3, 3): pytest.approx((6.0, 6.0)),  # the reference arm on them
    }
    assert (found.low, found.high) == pytest.approx((22.0, 25.0))
    assert "trb: racing: 0 to 3 runs, 0 to 3 core-hours" in estimate_text(found)
    # With pruning only one winner is sure.
    search["pruning"] = SEARCH["pruning"]
    kinds = estimated(lab, plan_of(lab, arms=arms)).kinds
    assert [(k.least, k.most) for k in kinds if k.label == "trb: confirmation"] == [(3, 6), (3, 3)]


def test_a_searched_key_does_not_count_towards_the_shape(lab: Lab):
    space = {"rollout.prompts_per_step": {"kind": "int", "low": 4, "high": 8}}
    finished(lab.store, spec_of(lab, 0, warmup=TRB, rollout={"prompts_per_step": 6}), step=36.0)
    assert estimated(lab, search_plan(lab, space=space)).unknown == ()
    other = {"rollout": {"prompts_per_step": 6, "samples_per_prompt": 2}}
    assert estimated(lab, plan_of(lab, other, arms={"trb": {"search": {**SEARCH, "space": space}}})).unknown


def test_finished_runs_are_looked_at_once(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    run = finished(lab.store, spec_of(lab, 0), step=36.0)
    texts = {path.name: path.read_text() for path in (run.config, run.result, run.provenance, run.attempts)}
    for i in range(300):
        other = lab.store.trial(f"opd-s{i}-copy")
        other.path.mkdir()
        for name, text in texts.items():
            (other.path / name).write_text(text)
    looked: list[Path] = []
    read = Path.read_bytes

    def noted(path: Path) -> bytes:
        looked.append(path)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", noted)
    wanted = [wanted_of(spec_of(lab, 0)), wanted_of(spec_of(lab, 0, warmup=TRB))]
    bases = find_bases(wanted, lab.store)
    assert len(looked) == len(set(looked)) == 301
    assert len(bases[wanted[0]].runs) == MOST_RUNS
    looked.clear()
    find_bases(wanted[:1], lab.store)
    assert len(looked) == MOST_RUNS  # enough
