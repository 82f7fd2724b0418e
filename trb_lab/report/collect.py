"""From a sweep's plan and run directories to tidy frames.

Reads files only, so that a report can be made while a sweep runs, after it, and on a machine without torch.
A trial that failed, that runs or that never began is a row like any other: `trials` has exactly one row a
planned trial. Scores are fractions of 1 here; percent appears in tables and figures alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from pydantic import ValidationError

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.spec import ExperimentSpec
from trb_lab.store.metrics import iter_lines
from trb_lab.store.run_dir import RunDir, Store, read_json
from trb_lab.store.status import last_error, state_of

from .costs import COST_COLUMNS, training_cost
from .planned_sets import PlannedSets, curve_columns, keys_of, plain_mean, planned_sets

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
CURVE_SCORE = "score"
"""Column of the curves: the same mean, during training."""
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
    curves = [pd.DataFrame(columns=["run_id", "step"])]
    timing = [pd.DataFrame(columns=["run_id", "step", "seconds"])]
    seen: set[str] = set()
    for planned in plan.get("trials", []):
        run = store.trial(planned["run_id"])
        label = (arms.get(planned["arm"]) or {}).get("label") or planned["arm"]
        trials.append({**_trial_row(planned, str(label), run), "score_mean": _mean_score(run, sets)})
        if run.run_id not in seen:  # two settings may plan the same trial
            seen.add(run.run_id)
            scores += _score_rows(run, sets)
            curve, evaluated = _curve(run, sets)
            curves.append(curve)
            checkpoints += _with_final(evaluated, run, sets)
            costs += training_cost(run)
            timing.append(_timing(run))
    for planned in plan.get("references", []):
        run = store.reference(planned["run_id"])
        references.append(
            {
                "role": planned["role"],
                "model": _model_name(planned.get("model")),
                "run_id": run.run_id,
                **_state(run),
                "score_mean": _mean_score(run, sets),
            }
        )
        scores += _score_rows(run, sets)
    curve_frame = _stacked(curves)
    done = curve_frame.groupby("run_id")["step"].max() + 1
    trial_frame = pd.DataFrame(trials, columns=[c for c in TRIAL_COLUMNS if c != "steps_done"])
    trial_frame["steps_done"] = trial_frame["run_id"].map(done).fillna(0).astype(int)
    return SweepData(
        name=str(plan.get("name", sweep_name)),
        question=str(plan.get("question", "")),
        plan=plan,
        sets=sets.labels,
        mean_sets=sets.common,
        trials=trial_frame,
        references=pd.DataFrame(references, columns=REFERENCE_COLUMNS),
        scores=pd.DataFrame(scores, columns=SCORE_COLUMNS),
        curves=curve_frame,
        checkpoints=pd.DataFrame(checkpoints, columns=CHECKPOINT_COLUMNS),
        costs=pd.DataFrame(costs, columns=COST_COLUMNS),
        timing=_stacked(timing),
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


def _stacked(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """All rows; the first frame names the columns of an empty result."""
    filled = [f for f in frames if not f.empty]
    return pd.concat(filled, ignore_index=True) if filled else frames[0]


def _state(run: RunDir) -> dict[str, Any]:
    error = last_error(run) or {}
    return {"state": str(state_of(run)), **{k: error.get(k) for k in ("error", "error_class", "traceback")}}


def _trial_row(planned: dict[str, Any], label: str, run: RunDir) -> dict[str, Any]:
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
        "horizon_steps": _horizon(spec),
        "kl_budget": warmup.get("kl_budget"),
        "steps": int(spec.get("steps", 0)),
        "code_version": code_version(run),
    }


def _horizon(spec: dict[str, Any]) -> int:
    """Steps in which the arm differs from plain distillation, as its own class says.

    The spec may be one that this installation cannot read (an arm of a package that is not here, a field of
    another version): then what it calls `steps`, as most arms do.
    """
    try:
        return ExperimentSpec.model_validate(spec).horizon_steps
    except ValidationError:
        warmup = spec.get("warmup") or {}
        steps = warmup.get("steps") if warmup.get("kind", "opd") != "opd" else 0
        return steps if isinstance(steps, int) else 0


def _model_name(model: Any) -> str:
    return str(model.get("name", "") if isinstance(model, dict) else model or "")


def _final_sets(run: RunDir) -> dict[str, dict[str, Any]]:
    return ((read_json(run.result) or {}).get("final") or {}).get("sets") or {}


def _mean_score(run: RunDir, sets: PlannedSets) -> float | None:
    """Over the plan's sets: the mean in result.json covers whatever sets the run holds."""
    final = _final_sets(run)
    found = {label: final[key].get("pass_at_1") for label, key in keys_of(sets.sets, final).items()}
    return plain_mean(found, sets.common)


def _score_rows(run: RunDir, sets: PlannedSets) -> list[dict[str, Any]]:
    final = _final_sets(run)
    return [
        {"run_id": run.run_id, "set": label, **{k: final[key].get(k) for k in SCORE_COLUMNS[2:]}}
        for label, key in keys_of(sets.sets, final).items()
    ]


def _curve(run: RunDir, sets: PlannedSets) -> tuple[pd.DataFrame, dict[int, list[float]]]:
    """One row a step, read line by line (columns that the run has nothing of are absent), and updates made ->
    score on each set that is averaged, for the checkpoints that were evaluated on all of them.
    """
    rows: list[dict[str, Any]] = []
    measured: list[dict[str, Any]] = []
    last: dict[str, Any] = {}
    for _, line in iter_lines(run.metrics):
        if "step" in line:
            last = line
            rows.append({k: line[k] for k in ("step", *CURVE_COLUMNS) if k in line})
            measured.append(
                {k: v for k, v in line.items() if k.startswith("eval/") and k.endswith("/pass_at_1")}
            )
    columns = curve_columns(sets, _final_sets(run), last) or []
    evaluated = {}
    for row, scores in zip(rows, measured, strict=True):
        score = plain_mean(scores, columns)
        if score is not None:
            row[CURVE_SCORE] = score
            evaluated[int(row["step"]) + 1] = [float(scores[c]) for c in columns]
    frame = pd.DataFrame(rows)
    frame.insert(0, "run_id", run.run_id)
    return frame, evaluated


def _with_final(evaluated: dict[int, list[float]], run: RunDir, sets: PlannedSets) -> list[dict[str, Any]]:
    """Rows of `checkpoints`: what training measured, and the final checkpoint as the result has it."""
    result = read_json(run.result) or {}
    keys = keys_of(sets.sets, _final_sets(run))
    if "steps" in result and all(label in keys for label in sets.common):
        final = [_final_sets(run)[keys[label]]["pass_at_1"] for label in sets.common]
        evaluated = {**evaluated, int(result["steps"]): final}
    return [
        {"run_id": run.run_id, "updates": updates, "set": label, "pass_at_1": score}
        for updates, scores in sorted(evaluated.items())
        for label, score in zip(sets.common, scores, strict=True)
    ]


def _timing(run: RunDir) -> pd.DataFrame:
    """Seconds of each step without its evaluation; a step that was repeated after a resume counts as last
    timed.
    """
    last: dict[int, float] = {}
    for _, line in iter_lines(run.timing):
        seconds = line.get("seconds") or {}
        if "step" in line and seconds.get("total") is not None:
            last[int(line["step"])] = float(seconds["total"]) - float(seconds.get("eval") or 0.0)
    return pd.DataFrame(
        {"run_id": run.run_id, "step": sorted(last), "seconds": [last[s] for s in sorted(last)]}
    )
