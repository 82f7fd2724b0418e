"""From a sweep's plan and run directories to tidy frames.

Reads files only, so that a report can be made while a sweep runs, after it, and on a machine without torch.
A trial that failed, that runs or that never began is a row like any other: `trials` has exactly one row a
planned trial. Scores are fractions of 1 here; percent appears in tables and figures alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.store.metrics import read_metrics
from trb_lab.store.run_dir import RunDir, Store, read_json
from trb_lab.store.status import last_error, state_of

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
MEAN = "mean"
"""Name of the column that averages the evaluation sets."""


@dataclass(frozen=True)
class SweepData:
    """Everything a report says, as read from files.

    trials: one row a planned trial (TRIAL_COLUMNS). references: the same columns it shares, one row a
    reference model. scores: one row a (run, evaluation set), trials and references (SCORE_COLUMNS). curves:
    one row a (run, step), the values of metrics.jsonl as columns. timing: one row a (run, step): `seconds`
    of the step without its evaluation.
    """

    name: str
    question: str
    plan: dict[str, Any]
    sets: list[str]
    trials: pd.DataFrame
    references: pd.DataFrame
    scores: pd.DataFrame
    curves: pd.DataFrame
    timing: pd.DataFrame

    @property
    def reference_arm(self) -> str | None:
        """Arm that the others are compared with: as the sweep says, else the first of kind opd."""
        named = (self.plan.get("spec") or {}).get("report", {}).get("reference")
        if named is not None:
            return str(named)
        opd = self.trials[self.trials["kind"] == "opd"]["arm"]
        return None if opd.empty else str(opd.iloc[0])


def code_version(run: RunDir) -> str | None:
    """The label of the code that ran the last attempt (version, commit, whether files differed from it)."""
    code = (read_json(run.provenance) or {}).get("code") or {}
    return code.get("label") or code.get("commit") or code.get("version")


def collect(store: Store, sweep_name: str) -> SweepData:
    """Read one sweep. Raises UsageError for a name without a plan."""
    sweep = store.sweep(sweep_name)
    plan = read_json(sweep.plan) if sweep_name else None
    if plan is None:
        names = [s.name for s in store.sweeps()]
        known = ", ".join(names) if names else "none yet; `trb-lab sweep FILE` makes one"
        raise UsageError(
            f"There is no sweep named '{sweep_name}' in this store.{did_you_mean(sweep_name, names)} "
            f"Sweeps here: {known}."
        )
    arms = (plan.get("spec") or {}).get("arms", {})
    trials, references, scores, curves, timing = [], [], [], [], []
    seen: set[str] = set()
    for planned in plan.get("trials", []):
        run = store.trial(planned["run_id"])
        label = (arms.get(planned["arm"]) or {}).get("label") or planned["arm"]
        row = _trial_row(planned, str(label), run)
        if run.run_id not in seen:  # two settings may plan the same trial
            seen.add(run.run_id)
            scores += _score_rows(run)
            metrics = read_metrics(run.metrics)
            curves += [{"run_id": run.run_id, **m} for m in metrics if "step" in m]
            timing += _timing_rows(run)
        trials.append(row)
    for planned in plan.get("references", []):
        run = store.reference(planned["run_id"])
        references.append(
            {
                "role": planned["role"],
                "model": _model_name(planned.get("model")),
                "run_id": run.run_id,
                **_state(run),
                "score_mean": _mean_score(run),
            }
        )
        scores += _score_rows(run)
    curve_frame = pd.DataFrame(curves) if curves else pd.DataFrame(columns=["run_id", "step"])
    done = curve_frame.groupby("run_id")["step"].max() + 1
    trial_frame = pd.DataFrame(trials, columns=[c for c in TRIAL_COLUMNS if c != "steps_done"])
    trial_frame["steps_done"] = trial_frame["run_id"].map(done).fillna(0).astype(int)
    score_frame = pd.DataFrame(scores, columns=SCORE_COLUMNS)
    return SweepData(
        name=str(plan.get("name", sweep_name)),
        question=str(plan.get("question", "")),
        plan=plan,
        sets=_set_names(plan, score_frame),
        trials=trial_frame,
        references=pd.DataFrame(references, columns=REFERENCE_COLUMNS),
        scores=score_frame,
        curves=curve_frame,
        timing=pd.DataFrame(timing, columns=["run_id", "step", "seconds"]),
    )


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
        "horizon_steps": int(warmup.get("steps", 0)) if warmup.get("kind", "opd") != "opd" else 0,
        "kl_budget": warmup.get("kl_budget"),
        "steps": int(spec.get("steps", 0)),
        "code_version": code_version(run),
        "score_mean": _mean_score(run),
    }


def _model_name(model: Any) -> str:
    return str(model.get("name", "") if isinstance(model, dict) else model or "")


def _final(run: RunDir) -> dict[str, Any]:
    return (read_json(run.result) or {}).get("final") or {}


def _mean_score(run: RunDir) -> float | None:
    return _final(run).get("mean_pass_at_1")


def _score_rows(run: RunDir) -> list[dict[str, Any]]:
    sets = _final(run).get("sets") or {}
    return [
        {"run_id": run.run_id, "set": name, **{k: s.get(k) for k in SCORE_COLUMNS[2:]}}
        for name, s in sets.items()
    ]


def _timing_rows(run: RunDir) -> list[dict[str, Any]]:
    """Seconds of each step without its evaluation; a step that was repeated after a resume counts as last
    timed.
    """
    last: dict[int, float] = {}
    for line in read_metrics(run.timing):
        seconds = line.get("seconds") or {}
        if "step" in line and seconds.get("total") is not None:
            last[int(line["step"])] = float(seconds["total"]) - float(seconds.get("eval") or 0.0)
    return [{"run_id": run.run_id, "step": step, "seconds": value} for step, value in sorted(last.items())]


def _set_names(plan: dict[str, Any], scores: pd.DataFrame) -> list[str]:
    """Evaluation sets in the order of the specs, then any others that were found."""
    names: list[str] = []
    for planned in plan.get("trials", []):
        for entry in ((planned.get("spec") or {}).get("eval") or {}).get("sets") or []:
            if entry["name"] not in names:
                names.append(entry["name"])
    return names + sorted(set(scores["set"]) - set(names))
