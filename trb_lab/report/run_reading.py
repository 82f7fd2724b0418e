"""What a report reads of each run's directory: scores, curves, times, cost and state; of many runs by two processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from trb_lab.store.run_dir import RunDir, read_json
from trb_lab.store.status import TrialState, last_error, state_of

from .costs import training_cost
from .forked import Forked, outcome, worthwhile
from .planned_sets import PlannedSets, keys_of, plain_mean
from .step_columns import final_sets, read_curve, read_seconds

SCORE_COLUMNS = ["run_id", "set", "pass_at_1", "stderr", "truncated_share", "length_mean"]
AT_ONCE = 25
"""Runs that a process takes at a time: so many that little is sent, so few that both end at nearly the same time."""


@dataclass(frozen=True)
class RunRead:
    """One run. scores, checkpoints, costs: rows of these frames of SweepData."""

    state: dict[str, Any]
    """state, error, error_class, traceback."""
    code_version: str | None
    score_mean: float | None
    scores: list[dict[str, Any]]
    checkpoints: list[dict[str, Any]]
    costs: list[dict[str, Any]]
    steps: np.ndarray
    curves: dict[str, np.ndarray]
    """Name -> float64, one value a step of `steps`."""
    timed: np.ndarray
    seconds: np.ndarray
    """Of each step of `timed`."""


def read_runs(runs: Sequence[RunDir], sets: PlannedSets) -> list[RunRead]:
    """All of them, in their order."""
    if not worthwhile(len(runs)):
        return [read_run(run, sets) for run in runs]
    parts = [runs[i : i + AT_ONCE] for i in range(0, len(runs), AT_ONCE)]

    def read_part(number: int) -> list[RunRead]:
        return [read_run(run, sets) for run in parts[number]]

    with Forked(read_part) as forked:
        coming = [forked.submit(number) for number in range(len(parts))]
        _import_meanwhile()
        return [run for future in coming for run in outcome(future)]


def _import_meanwhile() -> None:
    """What a report needs next, while children read. Where it is not installed, whoever needs it says so."""
    with suppress(ImportError):
        import matplotlib.backends.backend_agg
        import matplotlib.backends.backend_pdf
        import matplotlib.backends.backend_svg
        import matplotlib.pyplot  # noqa: F401
        import scipy.special  # noqa: F401


def read_run(run: RunDir, sets: PlannedSets) -> RunRead:
    """Everything there is now of one trial."""
    result = read_json(run.result) or {}
    final = final_sets(result)
    steps, curves, evaluated = read_curve(run, final, sets)
    timed, seconds = read_seconds(run)
    return RunRead(
        state=run_state(run),
        code_version=code_version(run),
        score_mean=mean_score(final, sets),
        scores=score_rows(run, final, sets),
        checkpoints=_with_final(evaluated, run, result, sets),
        costs=training_cost(run, result),
        steps=steps,
        curves=curves,
        timed=timed,
        seconds=seconds,
    )


def run_state(run: RunDir) -> dict[str, Any]:
    """state, error, error_class, traceback."""
    state = state_of(run)
    error = {} if state == TrialState.COMPLETED else last_error(run) or {}
    return {"state": str(state), **{k: error.get(k) for k in ("error", "error_class", "traceback")}}


def code_version(run: RunDir) -> str | None:
    """The label of the code that ran the last attempt (version, commit, whether files differed from it)."""
    code = (read_json(run.provenance) or {}).get("code") or {}
    return code.get("label") or code.get("commit") or code.get("version")


def mean_score(final: Mapping[str, Mapping[str, Any]], sets: PlannedSets) -> float | None:
    """Over the plan's sets: the mean in result.json covers whatever sets the run holds."""
    found = {label: final[key].get("pass_at_1") for label, key in keys_of(sets.sets, final).items()}
    return plain_mean(found, sets.common)


def score_rows(
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
