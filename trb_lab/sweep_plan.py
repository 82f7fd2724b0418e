"""What a sweep consists of, and what is left to do about each part of it.

A plan is a pure reading of the YAML and the store: making one changes nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from trb_lab.errors import UsageError
from trb_lab.launch.claim import live_worker
from trb_lab.spec import ExperimentSpec, SweepSpec
from trb_lab.spec.dataset import EvalSet
from trb_lab.spec.experiment import ModelSpec
from trb_lab.spec.sweeps import TrialDraft, expand_sweep, load_sweep
from trb_lab.store.identity import canonical_json
from trb_lab.store.run_dir import RunDir, Store, read_json, write_json
from trb_lab.store.status import TrialState, missing_sets, state_of
from trb_lab.trial import (
    CONFIG_FORMAT,
    model_fingerprint,
    plan_trial,
    prepare,
    set_fingerprint,
)


class Action(StrEnum):
    """What a run of the sweep does about a trial or a reference."""

    NEW = "new"
    ADOPT = "adopt"
    """Completed, by this sweep or another: its result is taken as it is."""
    RESUME = "resume"
    """Interrupted: goes on from its last checkpoint."""
    ATTACH = "attach"
    """A worker is at it: followed."""
    RETRY = "retry"
    """Failed or cancelled, and --retry-failed was given."""
    EVALUATE = "evaluate"
    """Completed without an evaluation set that the spec names now: its final checkpoint is evaluated."""
    FAILED = "failed"
    CANCELLED = "cancelled"


NOTHING_TO_DO = frozenset({Action.ADOPT, Action.FAILED, Action.CANCELLED})


@dataclass(frozen=True)
class Row:
    """A setting and a seed of the sweep. Rows with the same identity share one trial."""

    draft: TrialDraft
    run_id: str
    action: Action

    @property
    def name(self) -> str:
        return " ".join(filter(None, [self.draft.arm, self.draft.setting, f"seed={self.draft.seed}"]))


@dataclass(frozen=True)
class Trial:
    """A run of its own: the spec of its rows, with every evaluation set that one of them names."""

    run_dir: RunDir
    spec: ExperimentSpec
    action: Action

    @property
    def eval_sets(self) -> dict[str, str]:
        """Name -> fingerprint of every set that the result must hold."""
        return {s.name: set_fingerprint(s) for s in self.spec.eval.sets}

    def prepare(self, store: Store) -> None:
        """Make the run directory, or bring what does not belong to the identity up to date in it."""
        prepare(self.spec, store)


@dataclass(frozen=True)
class Reference:
    """The evaluation of a model as it is, once for all trials that share it."""

    run_dir: RunDir
    role: str
    config: dict[str, Any]
    spec: ExperimentSpec
    action: Action

    @property
    def model(self) -> str:
        return str(self.config["model"]["name"])

    @property
    def eval_sets(self) -> dict[str, str]:
        """Name -> fingerprint of every set that the result must hold."""
        return {s.name: set_fingerprint(s) for s in self.spec.eval.sets}

    def prepare(self) -> None:
        if read_json(self.run_dir.config) != self.config:
            write_json(self.run_dir.config, self.config)


@dataclass(frozen=True)
class Plan:
    """Everything that a sweep asks for, beside what the store holds of it."""

    sweep: SweepSpec
    rows: tuple[Row, ...]
    """In the order of the YAML: arms, settings, seeds."""
    trials: Mapping[str, Trial]
    """By run id, in the order in which they are run: seed by seed, so that early results cover all arms."""
    references: Mapping[str, Reference]
    no_longer_planned: tuple[str, ...]
    """Run ids of the last plan that this one does not hold. Nothing is done to them."""

    def counts(self) -> dict[str, int]:
        """Trials by action (every action is a key), and in all."""
        counts = {str(action): 0 for action in Action}
        for trial in self.trials.values():
            counts[str(trial.action)] += 1
        return {"trials": len(self.trials), **counts, "no_longer_planned": len(self.no_longer_planned)}

    def limited_to(self, arms: Collection[str]) -> Plan:
        """This plan with the rows of some arms, and their trials."""
        rows = tuple(row for row in self.rows if row.draft.arm in arms)
        kept = {row.run_id for row in rows}
        return replace(self, rows=rows, trials={k: t for k, t in self.trials.items() if k in kept})


def plan_sweep(path: Path | str, store: Store, *, retry_failed: bool = False) -> Plan:
    """Build and validate every trial of a sweep file and compare them with the store.

    Raises UsageError with every problem of the files; nothing has been written then.
    """
    sweep = load_sweep(path)
    drafts = [(draft, plan_trial(draft.spec).run_id) for draft in expand_sweep(path)]
    seed_order = {seed: place for place, seed in enumerate(sweep.seeds)}
    specs: dict[str, ExperimentSpec] = {}
    for draft, run_id in sorted(drafts, key=lambda pair: seed_order[pair[0].seed]):
        specs[run_id] = _with_sets(specs.get(run_id, draft.spec), draft.spec.eval.sets)
    trials = {}
    for run_id, spec in specs.items():
        run_dir = store.trial(run_id)
        action = decide(run_dir, {s.name: set_fingerprint(s) for s in spec.eval.sets}, retry_failed)
        trials[run_id] = Trial(run_dir, spec, action)
    before = (read_json(store.sweep(sweep.name).plan) or {}).get("trials", [])
    return Plan(
        sweep=sweep,
        rows=tuple(Row(draft, run_id, trials[run_id].action) for draft, run_id in drafts),
        trials=trials,
        references=_references(specs.values(), store, retry_failed) if sweep.report.references else {},
        no_longer_planned=tuple(sorted({t["run_id"] for t in before} - set(trials))),
    )


def decide(run_dir: RunDir, eval_sets: Mapping[str, str], retry_failed: bool) -> Action:
    """What is to be done about one run directory."""
    if not run_dir.path.exists():
        return Action.NEW
    state = state_of(run_dir)
    live = live_worker(run_dir) is not None
    if state == TrialState.COMPLETED:
        if not missing_sets(read_json(run_dir.result) or {}, eval_sets):
            return Action.ADOPT
        return Action.ATTACH if live else Action.EVALUATE
    if live or state == TrialState.RUNNING:
        return Action.ATTACH
    if state == TrialState.FAILED:
        return Action.RETRY if retry_failed else Action.FAILED
    if state == TrialState.CANCELLED:
        return Action.RETRY if retry_failed else Action.CANCELLED
    return Action.RESUME if state == TrialState.INTERRUPTED else Action.NEW


def write_plan(plan: Plan, store: Store) -> None:
    """Write plan.json, unless it says the same already."""
    path = store.sweep(plan.sweep.name).plan
    before = read_json(path) or {}
    value = {
        "name": plan.sweep.name,
        "question": plan.sweep.question,
        "created": before.get("created", time.time()),
        "spec": plan.sweep.model_dump(mode="json"),
        "trials": [
            {
                "run_id": row.run_id,
                "arm": row.draft.arm,
                "setting": row.draft.setting,
                "seed": row.draft.seed,
                "overrides": row.draft.overrides,
                "spec": row.draft.spec.model_dump(mode="json"),
                "eval_sets": {s.name: set_fingerprint(s) for s in row.draft.spec.eval.sets},
            }
            for row in plan.rows
        ],
        "references": [
            {"run_id": run_id, "role": reference.role, "model": reference.model}
            for run_id, reference in plan.references.items()
        ],
    }
    if value != before:
        write_json(path, value)


def _references(specs: Iterable[ExperimentSpec], store: Store, retry_failed: bool) -> dict[str, Reference]:
    """Teacher and untrained student of every distinct pair of models and evaluation settings."""
    found: dict[str, Reference] = {}
    seen: set[str] = set()
    for spec in specs:
        shared = canonical_json(_reference_settings(spec))
        if not spec.eval.sets or shared in seen:
            continue
        seen.add(shared)
        for role in ("teacher", "student"):
            config = _reference_config(spec, role)
            run_dir = store.reference(config["run_id"])
            sets = {s.name: set_fingerprint(s) for s in spec.eval.sets}
            found.setdefault(
                run_dir.run_id,
                Reference(run_dir, role, config, spec, decide(run_dir, sets, retry_failed)),
            )
    return found


def _reference_settings(spec: ExperimentSpec) -> dict[str, Any]:
    """What of a spec an evaluation of its untrained models depends on, and the resources."""
    whole = spec.model_dump(mode="json")
    keys = ("student", "teacher", "prompt", "eval", "rollout", "dtype", "grader", "resources")
    return {key: whole[key] for key in keys}


def _reference_config(spec: ExperimentSpec, role: str) -> dict[str, Any]:
    """config.json of a reference. Its id hashes what the evaluation depends on, models by content."""
    settings = _reference_settings(spec)
    model, partner = (spec.teacher, spec.student) if role == "teacher" else (spec.student, spec.teacher)
    evaluation = {key: value for key, value in settings["eval"].items() if key not in ("every", "sets")}
    if evaluation["at_k"] is None:  # as before there was a choice
        del evaluation["at_k"]
    identity = {
        "model": _model_identity(model),
        "partner": _model_identity(partner),
        "prompt": settings["prompt"],
        "eval": evaluation,
        "sets": [[s.name, set_fingerprint(s)] for s in spec.eval.sets],
        "max_prompt_tokens": spec.rollout.max_prompt_tokens,
        "max_new_tokens": spec.eval.max_new_tokens or spec.rollout.max_new_tokens,
        "dtype": spec.dtype,
        **({} if spec.grader == "math_verify" else {"grader": spec.grader}),
    }
    digest = hashlib.sha256(canonical_json(identity).encode()).hexdigest()
    return {
        "run_id": f"{role}-{digest[:10]}",
        "role": role,
        "format": CONFIG_FORMAT,
        "model": model.model_dump(mode="json"),
        "partner": partner.model_dump(mode="json"),
        "prompt": settings["prompt"],
        "eval": settings["eval"],
        "rollout": settings["rollout"],
        "dtype": spec.dtype,
        "grader": spec.grader,
        "resources": settings["resources"],
        "identity": identity,
    }


def _model_identity(model: ModelSpec) -> dict[str, Any]:
    return {"content": model_fingerprint(model), "template": model.template, "thinking": model.thinking}


def _with_sets(spec: ExperimentSpec, sets: list[EvalSet]) -> ExperimentSpec:
    """The spec with further evaluation sets. Two arms that share a trial must mean the same by a name."""
    known = {s.name: s for s in spec.eval.sets}
    for added in sets:
        if added.name in known and set_fingerprint(added) != set_fingerprint(known[added.name]):
            raise UsageError(
                f"eval.sets: two arms that share a trial ({spec.warmup.kind}, seed {spec.seed}) give the name "
                f"'{added.name}' to different sets. Give one of them another name."
            )
    more = [s for s in sets if s.name not in known]
    if not more:
        return spec
    return spec.model_copy(update={"eval": spec.eval.model_copy(update={"sets": [*spec.eval.sets, *more]})})
