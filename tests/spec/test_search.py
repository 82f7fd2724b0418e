from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from trb_lab.errors import UsageError
from trb_lab.spec.experiment import ExperimentSpec
from trb_lab.spec.search import AshaPruning, MedianPruning, SearchSpec, fits, is_active, order_of
from trb_lab.spec.search_arm import NO_PART_OF_A_TRIAL, SearchArm, corners
from trb_lab.spec.shape import dotted_keys, shape_of
from trb_lab.spec.sweeps import expand_searches, expand_sweep
from trb_lab.store.identity import CONTENT_ROLES, EXCLUDED

SPACE: dict[str, Any] = {
    "warmup.kl_budget": {"kind": "float", "low": 0.01, "high": 1.0, "log": True},
    "warmup.steps": {"kind": "int", "low": 5, "high": 40, "step": 5},
}
BASE: dict[str, Any] = {
    "name": "base",
    "student": "arith-student",
    "teacher": "arith-teacher",
    "dataset": {"kind": "arith"},
    "steps": 60,
    "warmup": {"kind": "trb"},
    "eval": {"sets": ["arith/easy"], "every": 20},
}


def write(folder: Path, search: dict[str, Any], *, arm: dict[str, Any] | None = None, **sweep: Any) -> Path:
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    path = folder / "sweep.yaml"
    trb = {"search": {"space": SPACE, "trials": 10, **search}, **(arm or {})}
    whole = {
        "name": "s", "question": "q", "base": "base.yaml", "seeds": [0, 1, 2],
        "arms": {"opd": {"overrides": {"warmup": {"kind": "opd"}}}, "trb": trb}, **sweep,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    return path


def arm_of(folder: Path, search: dict[str, Any], **more: Any) -> SearchArm:
    return expand_searches(write(folder, search, **more))["trb"]


def refused(folder: Path, search: dict[str, Any], **more: Any) -> str:
    with pytest.raises(UsageError) as caught:
        expand_searches(write(folder, search, **more))
    return str(caught.value)


def test_a_candidate_becomes_a_trial(tmp_path: Path) -> None:
    arm = arm_of(tmp_path, {})
    draft = arm.draft(3, {"warmup.kl_budget": 0.0123456, "warmup.steps": 25}, seed=7)
    assert (draft.arm, draft.setting, draft.seed) == ("trb", "#3 kl_budget=0.01235 steps=25", 7)
    warmup: Any = draft.spec.warmup
    assert (warmup.kl_budget, warmup.steps, draft.spec.seed) == (0.0123456, 25, 7)
    assert arm.params_of(draft.spec.model_dump(mode="json")) == {
        "warmup.kl_budget": 0.0123456,
        "warmup.steps": 25,
    }
    assert (arm.steps, arm.stops, arm.starting_seeds, arm.fresh_seeds) == (60, (), (0,), (3, 4, 5))
    assert arm.reference is not None
    assert arm.reference(9).spec.warmup.kind == "opd"


def test_a_search_stands_in_place_of_a_grid_or_beside_it(tmp_path: Path) -> None:
    assert {trial.arm for trial in expand_sweep(write(tmp_path, {}))} == {"opd"}
    path = write(tmp_path, {}, arm={"grid": {"warmup.kl_budget": [0.1, 2.0]}})
    assert [t.setting for t in expand_sweep(path) if t.arm == "trb" and t.seed == 0] == [
        "kl_budget=0.1",
        "kl_budget=2.0",
    ]
    arm = expand_searches(path)["trb"]
    inside = [arm.params_of(trial.model_dump(mode="json")) for trial in arm.grid_trials]
    assert inside == [{"warmup.kl_budget": 0.1, "warmup.steps": 25}, None]  # 2.0 lies outside


def test_what_is_conditional_takes_part_only_then(tmp_path: Path) -> None:
    space = {
        "warmup.anneal.final_fraction": {
            "kind": "float", "low": 0.1, "high": 0.5, "when": {"warmup.anneal": "exponential"},
        },
        "warmup.anneal": {"kind": "choice", "values": ["linear", "exponential"]},
    }  # fmt: skip
    arm = arm_of(tmp_path, {"space": space})
    assert order_of(arm.spec.space) == ["warmup.anneal", "warmup.anneal.final_fraction"]
    inner = arm.spec.space["warmup.anneal.final_fraction"]
    assert not is_active(inner, {"warmup.anneal": "linear"})
    assert is_active(inner, {"warmup.anneal": "exponential"})
    whole = {"warmup.anneal": "exponential", "warmup.anneal.final_fraction": 0.3}
    for params in (whole, {"warmup.anneal": "linear"}):
        assert fits(arm.spec.space, params)
        assert arm.params_of(arm.draft(0, params, 0).spec.model_dump(mode="json")) == params
    assert not fits(arm.spec.space, {"warmup.anneal": "linear", "warmup.anneal.final_fraction": 0.3})
    assert not fits(arm.spec.space, {"warmup.anneal": "exponential"})
    assert {"warmup.anneal": "exponential", "warmup.anneal.final_fraction": 0.5} in list(corners(arm.spec))


def test_a_kind_may_be_searched_with_its_own_keys(tmp_path: Path) -> None:
    space = {
        "warmup.kind": {"kind": "choice", "values": ["trb", "mixture"]},
        "warmup.kl_budget": {"kind": "float", "low": 0.01, "high": 1.0, "when": {"warmup.kind": "trb"}},
        "warmup.weight": {"kind": "float", "low": 0.1, "high": 0.9, "when": {"warmup.kind": ["mixture"]}},
    }
    arm = arm_of(tmp_path, {"space": space})
    params = {"warmup.kind": "mixture", "warmup.weight": 0.4}
    spec = arm.draft(0, params, 0).spec
    assert spec.warmup.kind == "mixture"
    assert arm.params_of(spec.model_dump(mode="json")) == params


@pytest.mark.parametrize(
    ("pruning", "expected"),
    [
        ("asha", (20,)),
        ({"kind": "asha", "first": 20, "factor": 2}, (20, 40)),
        ("median", (20, 40)),
        ({"kind": "median", "first": 40}, (40,)),
    ],
)
def test_stops_follow_from_the_pruning(tmp_path: Path, pruning: Any, expected: tuple[int, ...]) -> None:
    assert arm_of(tmp_path, {"pruning": pruning}).stops == expected


def test_stops_of_a_metric_of_every_step_may_lie_anywhere(tmp_path: Path) -> None:
    found = arm_of(tmp_path, {"metric": "rollout/reward", "pruning": {"kind": "asha", "first": 5}})
    assert found.stops == (5, 15, 45)
    assert AshaPruning(first=1, factor=4).stops(1, 1, 64) == (1, 4, 16)
    assert MedianPruning(every=3).stops(2, 7, 10) == (2, 5, 8)


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"sampler": "tpee"}, ["search.sampler", "unknown kind tpee", "tpe, cmaes, random, qmc, gp"]),
        (
            {"space": {"warmup.kl_budgett": SPACE["warmup.kl_budget"]}},
            ["arms.trb.search.space", "'warmup.kl_budget'"],
        ),
        ({"space": {"seed": {"kind": "int", "low": 0, "high": 9}}}, ["Seeds are replicates"]),
        ({"space": {"warmup.kl_budget": {"kind": "float", "low": 1.0, "high": 0.1}}}, ["low 1 must be below high 0.1"]),
        ({"space": {"warmup.kl_budget": {"kind": "float", "low": 0, "high": 1, "log": True}}}, ["low above 0"]),
        ({"space": {"warmup.steps": {"kind": "int", "low": 5, "high": 23, "step": 5}}}, ["write 20"]),
        ({"space": {"warmup.steps": {"kind": "int", "low": 5, "high": 100}}}, ["a warmup cannot outlast the run"]),
        ({"space": {"warmup.kl_budget": {"kind": "float", "low": -1, "high": 1}}}, ["at least 0", "kl_budget=-1"]),
        ({"space": {"warmup.anneal": {"kind": "choice", "values": ["linear", "cosin"]}}}, ["unknown kind cosin"]),
        (
            {"space": {**SPACE, "warmup.anneal.final_fraction": {
                "kind": "float", "low": 0.1, "high": 0.5, "when": {"warmup.anneall": "exponential"}}}},
            ["warmup.anneall is not in the space"],
        ),
        ({"trials": 0}, ["at least 1"]),
        ({"seeds": 4}, ["4 seeds are wanted, and the sweep has 3"]),
        ({"racing": {"seeds": 5}}, ["5 seeds are wanted, and the sweep has 3"]),
        ({"racing": {"seeds": 2}, "seeds": 2}, ["raise racing.seeds, or lower seeds"]),
        ({"metric": "cost/secondss"}, ["no cost 'cost/secondss'", "Did you mean 'cost/seconds'?"]),
        ({"constraints": {"policy/kl_mean": {}}}, ["needs `at_most` or `at_least`"]),
        ({"pruning": {"kind": "asha", "first": 10}}, ["there is no value after 10", "multiple of eval.every"]),
        ({"pruning": {"kind": "asha", "first": 60}}, ["nothing would ever pause"]),
        ({"metric": "cost/seconds", "pruning": "asha"}, ["a cost (cost/seconds) says little"]),
        (
            {"objectives": [{"metric": "score"}, {"metric": "cost/seconds"}], "pruning": "asha"},
            ["pruning ranks settings by one metric"],
        ),
        ({"objectives": [{"metric": "score"}], "direction": "maximize"}, ["leave those out"]),
        ({"trails": 3}, ["unknown key", "Did you mean 'trials'?"]),
        (
            {"space": {"rollout.block_tokens": {"kind": "choice", "values": [1, 4]}}},
            ["search.space.rollout.block_tokens: does not change a run's result"],
        ),
        (
            {"space": {"warmup.anneal": {"kind": "choice", "values": ["linear", "cosine", "linear"]}}},
            ["search.space.warmup.anneal.values: linear is there twice"],
        ),
        (
            {"space": {"warmup.anneal": {"kind": "choice", "values": ["linear", "cosine", {"kind": "linear"}]}}},
            ["search.space.warmup.anneal.values: linear and {kind: linear} are the same setting"],
        ),
        (
            {"space": {"warmup": {"kind": "choice", "values": [
                {"kind": "trb", "kl_budget": 0.1}, {"kind": "trb", "kl_budget": 0.1, "anneal": "linear"}]}}},
            ["{kind: trb, kl_budget: 0.1} and {kind: trb, kl_budget: 0.1, anneal: linear} are the same setting"],
        ),
        (
            {"space": {"eval": {"kind": "choice", "values": [
                {"sets": ["arith/easy"]}, {"sets": ["arith/easy"], "at_k": [1]}]}}},
            ["are the same setting"],
        ),
        (
            {"constraints": {"policy/kl_mean": {"at_least": 0.2, "at_most": 0.1}}},
            ["at_least 0.2 is above at_most 0.1"],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(
    tmp_path: Path, search: dict[str, Any], words: list[str]
) -> None:
    text = refused(tmp_path, search)
    assert "sweep.yaml:" in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    "key",
    ["resources", "resources.micro_batch_tokens", "checkpoint.every", "alarms.patience", "eval.at_k", "eval.sets"],
)  # fmt: skip
def test_what_changes_no_result_cannot_be_searched(tmp_path: Path, key: str) -> None:
    space = {**SPACE, key: {"kind": "choice", "values": [{"every": 1}, {"every": 2}]}}
    assert f"search.space.{key}: does not change a run's result" in refused(tmp_path, {"space": space})


def test_what_is_searched_tells_trials_apart() -> None:
    by_content = {key for key in EXCLUDED if key.split(".")[0] in CONTENT_ROLES}
    assert set(NO_PART_OF_A_TRIAL) == set(EXCLUDED) - by_content
    assert set(NO_PART_OF_A_TRIAL) <= dotted_keys(shape_of(ExperimentSpec)).keys()


def test_models_and_data_may_be_searched_because_their_content_counts(tmp_path: Path) -> None:
    names = ["arith-student", "arith-teacher"]
    arm = arm_of(tmp_path, {"space": {"student.name": {"kind": "choice", "values": names}}})
    assert {example.student.name for example in arm.examples} == set(names)


def test_choices_that_let_different_parameters_take_part_are_different(tmp_path: Path) -> None:
    values: list[Any] = ["exponential", {"kind": "exponential"}]
    budget = {"kind": "float", "low": 0.01, "high": 1.0}
    space = {"warmup.anneal": {"kind": "choice", "values": values}, "warmup.kl_budget": budget}
    assert "are the same setting" in refused(tmp_path, {"space": space})
    space["warmup.kl_budget"] = {**budget, "when": {"warmup.anneal": "exponential"}}
    assert len(arm_of(tmp_path, {"space": space}).examples) == 3


@pytest.mark.parametrize(
    ("search", "place"),
    [
        ({}, "metric"),
        ({"objectives": [{"metric": "score"}, {"metric": "cost/seconds"}]}, "objectives"),
        ({"metric": "rollout/reward", "constraints": {"score": {"at_least": 0.1}}}, "constraints.score"),
    ],
)
def test_a_score_needs_an_evaluation_set(tmp_path: Path, search: dict[str, Any], place: str) -> None:
    text = refused(tmp_path, search, overrides={"eval.sets": []})
    assert (
        f"arms.trb.search.{place}: `score` is the mean over the evaluation sets, and eval.sets is empty"
        in text
    )
    assert "sweep.yaml:" in text
    assert arm_of(tmp_path, {"metric": "rollout/reward"}, overrides={"eval.sets": []}).steps == 60


def test_a_confirmation_needs_a_reference_of_fixed_settings(tmp_path: Path) -> None:
    itself = {"report": {"reference": "trb"}}
    text = refused(tmp_path, {}, **itself)
    assert "report.reference: trb has a search and no fixed setting" in text
    assert "(arm trb) has nothing to be compared with. Name an arm with fixed settings" in text
    assert arm_of(tmp_path, {"confirm": None}, **itself).reference is None
    arm = arm_of(tmp_path, {}, arm={"grid": {"warmup.kl_budget": [0.1]}}, **itself)
    assert arm.reference is not None
    # Nobody named a reference, and there is no arm of plain distillation: the winners are confirmed alone.
    alone = {"trb": {"search": {"space": SPACE, "trials": 10}}}
    assert arm_of(tmp_path, {}, arms=alone).reference is None


def test_conditions_must_not_go_in_a_circle() -> None:
    a = {"kind": "choice", "values": ["x", "y"], "when": {"b": "x"}}
    b = {"kind": "choice", "values": ["x", "y"], "when": {"a": "x"}}
    with pytest.raises(ValueError, match="in a circle: a, b"):
        order_of(SearchSpec.model_validate({"space": {"a": a, "b": b}, "trials": 1}).space)


def test_at_most_a_fifth_is_at_work_at_once() -> None:
    space = {"warmup.steps": SPACE["warmup.steps"]}
    assert SearchSpec.model_validate({"space": space, "trials": 40}).most_at_once == 8
    assert SearchSpec.model_validate({"space": space, "trials": 3}).most_at_once == 1
    assert SearchSpec.model_validate({"space": space, "trials": 40, "parallel": 20}).most_at_once == 20


def test_a_choice_may_be_null_or_a_path(tmp_path: Path) -> None:
    space = {
        "eval.max_new_tokens": {"kind": "choice", "values": [None, 64]},
        "dataset.path": {"kind": "choice", "values": ["a.jsonl", "./b.jsonl"]},
    }
    base = {"overrides": {"dataset": {"kind": "jsonl", "path": "a.jsonl"}}}
    arm = arm_of(tmp_path, {"space": space}, arm=base)
    wanted = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    assert arm.spec.space["dataset.path"].values == wanted  # type: ignore[union-attr]
    params = {"eval.max_new_tokens": None, "dataset.path": wanted[1]}
    assert arm.params_of(arm.draft(0, params, 0).spec.model_dump(mode="json")) == params
