"""From a sweep's plan and run directories to tidy frames.

Reads files only, so that a report can be made while a sweep runs, after it, and on a machine without torch.
A trial that failed, that runs or that never began is a row like any other: `trials` has exactly one row a
planned trial. Scores are fractions of 1 here; percent appears in tables and figures alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.spec import ExperimentSpec
from trb_lab.store.run_dir import Store, read_json

from .costs import COST_COLUMNS
from .planned_sets import planned_sets
from .run_reading import SCORE_COLUMNS, RunRead, code_version, mean_score, read_runs, run_state, score_rows
from .step_columns import CURVE_COLUMNS, CURVE_SCORE, StepColumns, final_sets

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

    def curve_points(self, run_id: str, column: str) -> dict[int, float]:
        """Step -> a run's value of one metric; steps without it are absent."""
        if column not in self.curves or run_id not in self._places:
            return {}
        places = self._places[run_id]
        values = self._array("curves", column)[places]
        known = ~np.isnan(values)
        steps = self._array("curves", "step")[places][known]
        return dict(zip(steps.tolist(), values[known].tolist(), strict=True))

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
    def begun(self) -> frozenset[str]:
        """Runs that have rows in `curves`."""
        return frozenset(self._places)

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
    planned_trials = plan.get("trials", [])
    # Two settings may plan the same trial, which is then read once.
    ids = list(dict.fromkeys(str(planned["run_id"]) for planned in planned_trials))
    read = dict(zip(ids, read_runs([store.trial(run_id) for run_id in ids], sets), strict=True))
    for run_id, found in read.items():
        scores += found.scores
        checkpoints += found.checkpoints
        costs += found.costs
        curves.add(run_id, found.steps, found.curves)
        timing.add(run_id, found.timed, {"seconds": found.seconds})
    for planned in planned_trials:
        label = (arms.get(planned["arm"]) or {}).get("label") or planned["arm"]
        trials.append(_trial_row(planned, str(label), read[str(planned["run_id"])], horizons))
    for planned in plan.get("references", []):
        run = store.reference(planned["run_id"])
        final = final_sets(read_json(run.result) or {})
        references.append(
            {
                "role": planned["role"],
                "model": _model_name(planned.get("model")),
                "run_id": run.run_id,
                **run_state(run),
                "score_mean": mean_score(final, sets),
            }
        )
        scores += score_rows(run, final, sets)
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


def _trial_row(planned: dict[str, Any], label: str, run: RunRead, horizons: Horizons) -> dict[str, Any]:
    spec = planned.get("spec") or {}
    warmup = spec.get("warmup") or {}
    return {
        "arm": str(planned["arm"]),
        "label": label,
        "setting": str(planned.get("setting") or ""),
        "kind": warmup.get("kind", "opd"),
        "seed": int(planned["seed"]),
        "run_id": str(planned["run_id"]),
        **run.state,
        "horizon_steps": horizons.of(spec),
        "kl_budget": warmup.get("kl_budget"),
        "steps": int(spec.get("steps", 0)),
        "code_version": run.code_version,
        "score_mean": run.score_mean,
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


__all__ = ["CURVE_COLUMNS", "CURVE_SCORE", "MEAN", "SweepData", "code_version", "collect", "read_plan"]
