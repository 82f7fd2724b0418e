"""What a report reads of a run's steps: columns of metrics.jsonl and timing.jsonl, gathered run by run into one frame.

A thousand runs of some hundred steps are hundreds of thousands of lines. So a line is parsed once, only what a report
shows is kept of it, and all runs fill one frame, not one each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from trb_lab.store.metrics import read_metrics
from trb_lab.store.run_dir import RunDir

from .planned_sets import PlannedSets, curve_columns, plain_mean

CURVE_SCORE = "score"
"""Column of the curves: mean over the sets that every planned trial has, during training."""
CURVE_COLUMNS = (
    "rollout/reward",
    "rollout/length_mean",
    "rollout/truncated_share",
    "rollout/support_auroc",
    "train/reverse_kl",
    "policy/schedule",
    "policy/kl_mean",
    "policy/beta_mean",
    "policy/redraw_rate",
    "policy/teacher_entropy",
    "policy/teacher_logprob",
)
"""What a report reads of metrics.jsonl besides scores; the rest would fill the memory for nothing."""

Columns = Mapping[str, np.ndarray]
"""Name -> float64, one value a step, NaN where the step has none."""


class StepColumns:
    """Rows of (run, step), gathered run by run."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._runs: list[str] = []
        self._steps: list[np.ndarray] = []
        self._columns: list[Columns] = []

    def add(self, run_id: str, steps: np.ndarray, columns: Columns) -> None:
        """The rows of one run; columns that it has nothing of may be absent."""
        if len(steps):
            self._runs.append(run_id)
            self._steps.append(steps)
            self._columns.append(columns)

    def steps_done(self) -> dict[str, int]:
        """Run id -> last step and one."""
        return {run: int(steps.max()) + 1 for run, steps in zip(self._runs, self._steps, strict=True)}

    def frame(self) -> pd.DataFrame:
        """Columns run_id, step and those of `names` that any run has."""
        if not self._runs:
            return pd.DataFrame(columns=["run_id", "step"])
        lengths = [len(steps) for steps in self._steps]
        found: dict[str, Any] = {
            "run_id": np.repeat(np.array(self._runs, dtype=object), lengths),
            "step": np.concatenate(self._steps),
        }
        for name in self.names:
            if any(name in columns for columns in self._columns):
                parts = [
                    columns[name] if name in columns else np.full(length, np.nan)
                    for columns, length in zip(self._columns, lengths, strict=True)
                ]
                found[name] = np.concatenate(parts)
        return pd.DataFrame(found)


def final_sets(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`final.sets` of a result.json; empty where there is none."""
    return (result.get("final") or {}).get("sets") or {}


def read_curve(
    run: RunDir, final: Mapping[str, Mapping[str, Any]], sets: PlannedSets
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[int, list[float]]]:
    """Steps, their CURVE_COLUMNS and CURVE_SCORE as far as the run has any, and updates made -> score on each set that
    is averaged, for the checkpoints that were evaluated on all of them.

    `final` are the sets of the run's result.
    """
    lines = [line for line in read_metrics(run.metrics) if "step" in line]
    steps = np.array([line["step"] for line in lines], dtype=np.int64)
    present = [name for name in CURVE_COLUMNS if any(name in line for line in lines)]
    try:
        rows = [[line[name] for name in present] for line in lines]
    except KeyError:  # a metric that only some steps have
        rows = [[line.get(name) for name in present] for line in lines]
    values = np.array(rows, dtype=float)
    columns = {name: values[:, place].copy() for place, name in enumerate(present)}
    measured = curve_columns(sets, final, lines[-1] if lines else {}) or []
    score = np.full(len(lines), np.nan)
    evaluated = {}
    for place, line in enumerate(lines if measured else ()):
        if measured[0] in line:
            mean = plain_mean(line, measured)
            if mean is not None:
                score[place] = mean
                evaluated[int(line["step"]) + 1] = [float(line[key]) for key in measured]
    if evaluated:
        columns[CURVE_SCORE] = score
    return steps, columns, evaluated


def read_seconds(run: RunDir) -> tuple[np.ndarray, np.ndarray]:
    """Steps and the seconds of each without its evaluation; a step that was repeated after a resume counts as last
    timed.
    """
    last: dict[int, float] = {}
    for line in read_metrics(run.timing):
        seconds = line.get("seconds") or {}
        if "step" in line and seconds.get("total") is not None:
            last[int(line["step"])] = float(seconds["total"]) - float(seconds.get("eval") or 0.0)
    steps = sorted(last)
    return np.array(steps, dtype=np.int64), np.array([last[step] for step in steps], dtype=float)
