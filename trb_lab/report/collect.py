"""From a sweep's plan and run directories to tidy frames.

Reads files only, so that a report can be made while a sweep runs, after it, and on a machine without torch.
A trial that failed, that runs or that never began is a row like any other: `trials` has exactly one row a
planned trial. Scores are fractions of 1 here; percent appears in tables and figures alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.spec import ExperimentSpec
from trb_lab.store.run_dir import RunDir, Store, read_json
from trb_lab.store.status import TrialState, last_error, state_of

from .costs import COST_COLUMNS, training_cost
from .planned_sets import PlannedSets, keys_of, plain_mean, planned_sets
from .step_columns import CURVE_COLUMNS, CURVE_SCORE, StepColumns, final_sets, read_curve, read_seconds

TRIAL_COLUMNS = [
    "arm",
    "label",
    "setting",
    "kind",
    "seed",
    "run_id",
    "state",
    "error",
    "error_class",
    "traceback",
    "horizon_steps",
    "kl_budget",
    "steps",
    "steps_done",
    "code_version",
    "score_mean",
]
REFERENCE_COLUMNS = ["role", "model", "run_id", "state", "error", "error_class", "traceback", "score_mean"]
SCORE_COLUMNS = ["run_id", "set", "pass_at_1", "stderr", "truncated_share", "length_mean"]
CHECKPOINT_COLUMNS = ["run_id", "updates", "set", "pass_at_1"]
MEAN = "mean"
"""Name of the column that averages the evaluation sets that every planned trial has."""


@dataclass(frozen=True)
class SweepData:
    """Everything a report says, as read from files.

    trials: one row a planned trial (TRIAL_COLUMNS). references: the same columns it shares, one row a
    reference model. scores: one row a (run, evaluation set), trials and references (SCORE_COLUMNS). curves:
    one row a (run, step): CURVE_COLUMNS and CURVE_SCORE, those that any run has. checkpoints: one row a (trial,
    evaluated checkpoint, set that MEAN averages), the final one included. timing: one row a (run, step): `seconds`
    of the step without its evaluation. costs: one row a completed trial with a cost ledger (COST_COLUMNS). sets: the
    plan's evaluation sets, as columns are called. mean_sets: those of them that MEAN averages.
    """

    name: str
    question: str
    plan: dict[str, Any]
    sets: list[str]
    mean_sets: list[str]
    trials: pd.DataFrame
    references: pd.DataFrame
    scores: pd.DataFrame
    curves: pd.DataFrame
    checkpoints: pd.DataFrame
    timing: pd.DataFrame
    costs: pd.DataFrame
    reference: str | None = None
    """Arm that a report's definition names as the reference."""

    @property
    def reference_arm(self) -> str | None:
        """Arm that the others are compared with: as the report or the sweep says, else the first of kind opd."""
        named = self.reference or (self.plan.get("spec") or {}).get("report", {}).get("reference")
        if named is not None:
            return str(named)
        opd = self.trials[self.trials["kind"] == "opd"]["arm"]
        return None if opd.empty else str(opd.iloc[0])

    def curves_of(self, run_ids: Iterable[str]) -> pd.DataFrame:
        """The rows of some runs, in the order of `curves`: their places are looked up once, not searched for."""
        wanted = [self._places[run] for run in dict.fromkeys(run_ids) if run in self._places]
        if not wanted:
            return self.curves.iloc[:0]
        return self.curves.take(np.sort(np.concatenate(wanted)))

    def curve_values(
        self, run_id: str, column: str, first: int = 0, end: float = math.inf, last: int | None = None
    ) -> list[float]:
        """A run's values of one metric in steps first <= step < end, of these rows the last so many; NaN left out."""
        if column not in self.curves or run_id not in self._places:
            return []
        places = self._places[run_id]
        steps = self._array("curves", "step")[places]
        chosen = places[(steps >= first) & (steps < end)]
        values = self._array("curves", column)[chosen if last is None else chosen[-last:]]
        return [float(v) for v in values[~np.isnan(values)]]

    def step_seconds(self, run_id: str, first: int = 0, end: float = math.inf) -> np.ndarray:
        """Seconds of a run's steps in first <= step < end, as `timing` has them; empty where it has none."""
        places = self._timed.get(run_id, np.empty(0, dtype=np.int64))
        steps = self._array("timing", "step")[places]
        return self._array("timing", "seconds")[places[(steps >= first) & (steps < end)]]

    def _array(self, frame: str, column: str) -> np.ndarray:
        key = frame, column
        if key not in self._arrays:
            self._arrays[key] = getattr(self, frame)[column].to_numpy()
        return self._arrays[key]

    @cached_property
    def _arrays(self) -> dict[tuple[str, str], np.ndarray]:
        return {}

    @cached_property
    def _places(self) -> Mapping[str, np.ndarray]:
        """Run id -> numbers of its rows in `curves`."""
        return _rows_by_run(self.curves)

    @cached_property
    def _timed(self) -> Mapping[str, np.ndarray]:
        """The same in `timing`."""
        return _rows_by_run(self.timing)


def _rows_by_run(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    found = frame.groupby("run_id").indices
    return {str(run): np.asarray(places, dtype=np.int64) for run, places in found.items()}


def code_version(run: RunDir) -> str | None:
    """The label of the code that ran the last attempt (version, commit, whether files differed from it)."""
    code = (read_json(run.provenance) or {}).get("code") or {}
    return code.get("label") or code.get("commit") or code.get("version")


def collect(store: Store, sweep_name: str, reference: str | None = None) -> SweepData:
    """Read one sweep; `reference` is the arm to compare with, in place of the sweep's own.

    Raises UsageError for a name without a plan.
    """
    plan = read_plan(store, sweep_name)
    sets = planned_sets(plan)
    arms = (plan.get("spec") or {}).get("arms", {})
    trials, references, scores, checkpoints, costs = [], [], [], [], []
    curves = StepColumns((*CURVE_COLUMNS, CURVE_SCORE))
    timing = StepColumns(("seconds",))
    horizons = Horizons()
    means: dict[str, float | None] = {}
    """Run id -> mean score: two settings may plan the same trial, which is then read once."""
    for planned in plan.get("trials", []):
        run = store.trial(planned["run_id"])
        if run.run_id not in means:
            result = read_json(run.result) or {}
            final = final_sets(result)
            means[run.run_id] = _mean_score(final, sets)
            scores += _score_rows(run, final, sets)
            steps, values, evaluated = read_curve(run, final, sets)
            curves.add(run.run_id, steps, values)
            checkpoints += _with_final(evaluated, run, result, sets)
            costs += training_cost(run, result)
            timed, seconds = read_seconds(run)
            timing.add(run.run_id, timed, {"seconds": seconds})
        label = (arms.get(planned["arm"]) or {}).get("label") or planned["arm"]
        row = _trial_row(planned, str(label), run, horizons)
        trials.append({**row, "score_mean": means[run.run_id]})
    for planned in plan.get("references", []):
        run = store.reference(planned["run_id"])
        final = final_sets(read_json(run.result) or {})
        references.append(
            {
                "role": planned["role"],
                "model": _model_name(planned.get("model")),
                "run_id": run.run_id,
                **_state(run),
                "score_mean": _mean_score(final, sets),
            }
        )
        scores += _score_rows(run, final, sets)
    trial_frame = pd.DataFrame(trials, columns=[c for c in TRIAL_COLUMNS if c != "steps_done"])
    trial_frame["steps_done"] = trial_frame["run_id"].map(curves.steps_done()).fillna(0).astype(int)
    return SweepData(
        name=str(plan.get("name", sweep_name)),
        question=str(plan.get("question", "")),
        plan=plan,
        sets=sets.labels,
        mean_sets=sets.common,
        trials=trial_frame,
        references=pd.DataFrame(references, columns=REFERENCE_COLUMNS),
        scores=pd.DataFrame(scores, columns=SCORE_COLUMNS),
        curves=curves.frame(),
        checkpoints=pd.DataFrame(checkpoints, columns=CHECKPOINT_COLUMNS),
        costs=pd.DataFrame(costs, columns=COST_COLUMNS),
        timing=timing.frame(),
        reference=reference,
    )


def read_plan(store: Store, sweep_name: str) -> dict[str, Any]:
    """The sweep's plan.json. Raises UsageError for a name without one."""
    plan = read_json(store.sweep(sweep_name).plan) if sweep_name else None
    if plan is None:
        names = [s.name for s in store.sweeps()]
        known = ", ".join(names) if names else "none yet; `trb-lab sweep FILE` makes one"
        raise UsageError(
            f"There is no sweep named '{sweep_name}' in this store.{did_you_mean(sweep_name, names)} "
            f"Sweeps here: {known}."
        )
    return plan


def _state(run: RunDir) -> dict[str, Any]:
    state = state_of(run)
    error = {} if state == TrialState.COMPLETED else last_error(run) or {}
    return {"state": str(state), **{k: error.get(k) for k in ("error", "error_class", "traceback")}}


def _trial_row(planned: dict[str, Any], label: str, run: RunDir, horizons: Horizons) -> dict[str, Any]:
    spec = planned.get("spec") or {}
    warmup = spec.get("warmup") or {}
    return {
        "arm": str(planned["arm"]),
        "label": label,
        "setting": str(planned.get("setting") or ""),
        "kind": warmup.get("kind", "opd"),
        "seed": int(planned["seed"]),
        "run_id": run.run_id,
        **_state(run),
        "horizon_steps": horizons.of(spec),
        "kl_budget": warmup.get("kl_budget"),
        "steps": int(spec.get("steps", 0)),
        "code_version": code_version(run),
    }


class Horizons:
    """Steps in which an arm differs from plain distillation, as its own class says; each spec is built once.

    A spec may be one that this installation cannot read (an arm of a package that is not here, a field of another
    version): then what it calls `steps`, as most arms do.
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def of(self, spec: dict[str, Any]) -> int:
        """A spec's horizon; seeds of one setting share it."""
        key = json.dumps({**spec, "seed": 0}, sort_keys=True)
        if key not in self._known:
            self._known[key] = _horizon(spec)
        return self._known[key]


def _horizon(spec: dict[str, Any]) -> int:
    try:
        return ExperimentSpec.model_validate(spec).horizon_steps
    except ValidationError:
        warmup = spec.get("warmup") or {}
        steps = warmup.get("steps") if warmup.get("kind", "opd") != "opd" else 0
        return steps if isinstance(steps, int) else 0


def _model_name(model: Any) -> str:
    return str(model.get("name", "") if isinstance(model, dict) else model or "")


def _mean_score(final: Mapping[str, Mapping[str, Any]], sets: PlannedSets) -> float | None:
    """Over the plan's sets: the mean in result.json covers whatever sets the run holds."""
    found = {label: final[key].get("pass_at_1") for label, key in keys_of(sets.sets, final).items()}
    return plain_mean(found, sets.common)


def _score_rows(
    run: RunDir, final: Mapping[str, Mapping[str, Any]], sets: PlannedSets
) -> list[dict[str, Any]]:
    return [
        {"run_id": run.run_id, "set": label, **{k: final[key].get(k) for k in SCORE_COLUMNS[2:]}}
        for label, key in keys_of(sets.sets, final).items()
    ]


def _with_final(
    evaluated: Mapping[int, Sequence[float]], run: RunDir, result: Mapping[str, Any], sets: PlannedSets
) -> list[dict[str, Any]]:
    """Rows of `checkpoints`: what training measured, and the final checkpoint as the result has it."""
    final = final_sets(result)
    keys = keys_of(sets.sets, final)
    if "steps" in result and all(label in keys for label in sets.common):
        last = [final[keys[label]]["pass_at_1"] for label in sets.common]
        evaluated = {**evaluated, int(result["steps"]): last}
    return [
        {"run_id": run.run_id, "updates": updates, "set": label, "pass_at_1": score}
        for updates, scores in sorted(evaluated.items())
        for label, score in zip(sets.common, scores, strict=True)
    ]


__all__ = ["CURVE_COLUMNS", "CURVE_SCORE", "MEAN", "SweepData", "code_version", "collect", "read_plan"]
