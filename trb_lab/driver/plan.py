"""What a sweep consists of, and what is left to do about each part of it.

A plan is a pure reading of the YAML and the store: making one changes nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trb_lab.driver.action import Action, decide
from trb_lab.driver.references import Reference, plan_references
from trb_lab.driver.retry import classes_of
from trb_lab.driver.search_context import context_of
from trb_lab.errors import UsageError
from trb_lab.launch.base import JobStatus
from trb_lab.spec import ExperimentSpec, SweepSpec
from trb_lab.spec.dataset import EvalSet
from trb_lab.spec.search_arm import SearchArm
from trb_lab.spec.sweeps import TrialDraft, expand_searches, expand_sweep, load_sweep
from trb_lab.store.pauses import set_pause
from trb_lab.store.plans import planned
from trb_lab.store.run_dir import RunDir, Store, read_json, write_json
from trb_lab.store.search_log import Decision, decisions, rows_of
from trb_lab.store.status import TrialState, state_of
from trb_lab.trial import plan_trial, prepare, set_fingerprint


@dataclass(frozen=True)
class Row:
    """A setting and a seed of the sweep. Rows with the same identity share one trial."""

    draft: TrialDraft
    run_id: str
    action: Action

    @property
    def name(self) -> str:
        return " ".join(filter(None, [self.draft.arm, self.draft.setting, f"seed={self.draft.seed}"]))

    def as_json(self) -> dict[str, Any]:
        """What tells it from the others."""
        return told_apart(self.draft, self.run_id)


@dataclass(frozen=True)
class Trial:
    """A run of its own: the spec of its rows, with every evaluation set that one of them names."""

    run_dir: RunDir
    spec: ExperimentSpec
    action: Action
    error_class: str | None = None
    """Why it is failed, cancelled or retried: one of retry.CLASSES."""

    @property
    def eval_sets(self) -> dict[str, str]:
        """Name -> fingerprint of every set that the result must hold."""
        return {s.name: set_fingerprint(s) for s in self.spec.eval.sets}

    def prepare(self, store: Store) -> None:
        """Make the run directory, or bring what does not belong to the identity up to date in it."""
        set_pause(prepare(self.spec, store), None)  # all of it is wanted, whatever a search says


@dataclass(frozen=True)
class PlannedSearch:
    """An arm's search, and what it has decided so far."""

    sweep: str
    arm: SearchArm
    context: str
    """See search_context.py."""
    decisions: tuple[Decision, ...]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Plan rows of the runs that it has come to ask for."""
        return rows_of(self.decisions)

    def as_of_now(self, store: Store) -> PlannedSearch:
        """The same, with what another driver has decided since this was read; itself where that is nothing."""
        log = store.sweep(self.sweep).search_log(self.arm.name)
        now = tuple(decisions(log, self.context))
        return self if now == self.decisions else replace(self, decisions=now)


@dataclass(frozen=True)
class Plan:
    """Everything that a sweep asks for, beside what the store holds of it."""

    sweep: SweepSpec
    rows: tuple[Row, ...]
    """In the order of the YAML: arms, settings, seeds."""
    trials: Mapping[str, Trial]
    """By run id, in the order in which they are run: seed by seed, so that early results cover all arms."""
    references: Mapping[str, Reference]
    searches: Mapping[str, PlannedSearch]
    """By arm: settings that are asked for as results come in."""
    no_longer_planned: tuple[str, ...]
    """Run ids of the last plan that this one does not hold, and those that were dropped before and have not ended.
    Nothing is done to them."""
    previous: Mapping[str, Any] = field(default_factory=dict)
    """The last plan as its files have it (store.plans.planned); empty where there was none."""

    def counts(self) -> dict[str, int]:
        """Trials by action (every action is a key), and in all."""
        counts = {str(action): 0 for action in Action}
        for trial in self.trials.values():
            counts[str(trial.action)] += 1
        return {"trials": len(self.trials), **counts, "no_longer_planned": len(self.no_longer_planned)}

    def left_alone(self) -> Counter[str]:
        """Failed and cancelled trials that nothing is done about, by class (`unknown` where nobody gave one)."""
        alone = (Action.FAILED, Action.CANCELLED)
        return Counter(t.error_class or "unknown" for t in self.trials.values() if t.action in alone)

    def limited_to(self, arms: Collection[str]) -> Plan:
        """This plan with the rows of some arms, and their trials."""
        rows = tuple(row for row in self.rows if row.draft.arm in arms)
        kept = {row.run_id for row in rows}
        return replace(
            self,
            rows=rows,
            trials={k: t for k, t in self.trials.items() if k in kept},
            searches={arm: search for arm, search in self.searches.items() if arm in arms},
        )


def plan_sweep(
    path: Path | str,
    store: Store,
    *,
    retry_failed: bool | Collection[str] = False,
    places: Mapping[str, JobStatus] | None = None,
) -> Plan:
    """Build and validate every trial of a sweep file and compare them with the store.

    `retry_failed` may name classes (retry.CLASSES); True stands for all. `places` tells what a cluster holds.
    Raises UsageError with every problem of the files; nothing has been written then.
    """
    retry = classes_of(retry_failed)
    sweep = load_sweep(path)
    drafts = [(draft, plan_trial(draft.spec).run_id) for draft in expand_sweep(path)]
    seed_order = {seed: place for place, seed in enumerate(sweep.seeds)}
    specs: dict[str, ExperimentSpec] = {}
    for draft, run_id in sorted(drafts, key=lambda pair: seed_order[pair[0].seed]):
        specs[run_id] = _with_sets(specs.get(run_id, draft.spec), draft.spec.eval.sets)
    trials = {}
    for run_id, spec in specs.items():
        run_dir = store.trial(run_id)
        sets = {s.name: set_fingerprint(s) for s in spec.eval.sets}
        trials[run_id] = Trial(run_dir, spec, *decide(run_dir, sets, retry, places or {}))
    directory = store.sweep(sweep.name)
    searches, logs = {}, {}
    for name, arm in expand_searches(path).items():
        context = context_of(arm)
        logs[name] = list(decisions(directory.search_log(name)))
        searches[name] = PlannedSearch(
            sweep.name, arm, context, tuple(d for d in logs[name] if d.context == context)
        )
    previous = planned(directory, logs) or {}
    before = {row["run_id"] for row in previous.get("trials", [])} | set(previous.get("removed", []))
    now = set(trials).union(*({row["run_id"] for row in search.rows} for search in searches.values()))
    evaluated = [*specs.values(), *(e for search in searches.values() for e in search.arm.examples)]
    references = plan_references(evaluated, store, retry, places or {}) if sweep.report.references else {}
    return Plan(
        sweep=sweep,
        rows=tuple(Row(draft, run_id, trials[run_id].action) for draft, run_id in drafts),
        trials=trials,
        references=references,
        searches=searches,
        no_longer_planned=tuple(sorted(before - now)),
        previous=previous,
    )


def told_apart(draft: TrialDraft, run_id: str) -> dict[str, Any]:
    """What tells a row from the others."""
    return {
        "run_id": run_id,
        "arm": draft.arm,
        "setting": draft.setting,
        "seed": draft.seed,
        "overrides": draft.overrides,
    }


def plan_row(draft: TrialDraft, run_id: str) -> dict[str, Any]:
    """A row as plan.json has it."""
    return {
        **told_apart(draft, run_id),
        "spec": draft.spec.model_dump(mode="json"),
        "eval_sets": {s.name: set_fingerprint(s) for s in draft.spec.eval.sets},
    }


def write_plan(plan: Plan, store: Store) -> None:
    """Write plan.json, unless it says the same already."""
    path = store.sweep(plan.sweep.name).plan
    before = read_json(path) or {}
    value = {
        "name": plan.sweep.name,
        "question": plan.sweep.question,
        "created": before.get("created", time.time()),
        "spec": plan.sweep.model_dump(mode="json"),
        "trials": [plan_row(row.draft, row.run_id) for row in plan.rows],
        "references": [
            {"run_id": run_id, "role": reference.role, "model": reference.model}
            for run_id, reference in plan.references.items()
        ],
    }
    if plan.searches:
        value["searches"] = {name: {"context": search.context} for name, search in plan.searches.items()}
    # The next plan would not know of them any more.
    if removed := [run_id for run_id in plan.no_longer_planned if _is_unfinished(store.trial(run_id))]:
        value["removed"] = removed
    if value != before:
        write_json(path, value)


def _is_unfinished(run_dir: RunDir) -> bool:
    """Whether it was begun, or is about to be, and has not come to an end."""
    over = (TrialState.COMPLETED, TrialState.CANCELLED, TrialState.FAILED)
    return run_dir.path.exists() and state_of(run_dir) not in over


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
