"""What the trials had in common, what each arm changed, which code ran, what failed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pandas as pd

from .collect import SweepData
from .settings import Setting, setting_key

# Not about the result: the seed is the repetition, and a trial's own name and machine say nothing of it.
LEFT_OUT = ("seed", "name", "resources", "checkpoint")


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted keys; leaves as compact JSON, strings bare."""
    if isinstance(value, dict) and value:
        flat: dict[str, str] = {}
        for key, inner in value.items():
            flat |= flatten(inner, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


def _flat_specs(data: SweepData) -> dict[str, dict[str, str]]:
    """Key of a setting -> its flat spec without LEFT_OUT; evaluation sets as a list of names.

    By setting, not by run: settings that share a trial say different things of it.
    """
    trials = {setting_key(str(t["arm"]), str(t.get("setting") or "")): t for t in data.plan.get("trials", [])}
    specs = {}
    for key, trial in trials.items():
        spec = {k: v for k, v in (trial.get("spec") or {}).items() if k not in LEFT_OUT}
        if "sets" in (spec.get("eval") or {}):
            spec["eval"] = {**spec["eval"], "sets": ", ".join(s["name"] for s in spec["eval"]["sets"])}
        specs[key] = flatten(spec)
    return specs


def shared_settings(data: SweepData) -> dict[str, str]:
    """Dotted key -> value, of what every planned trial has alike."""
    specs = list(_flat_specs(data).values())
    if not specs:
        return {}
    return {k: v for k, v in specs[0].items() if all(s.get(k) == v for s in specs[1:])}


def changed_settings(data: SweepData, settings: list[Setting]) -> dict[str, dict[str, str]]:
    """Key of a setting -> the dotted keys of its spec that not every trial shares."""
    specs, shared = _flat_specs(data), shared_settings(data)
    return {s.key: {k: v for k, v in specs[s.key].items() if k not in shared} for s in settings}


def code_versions(trials: Iterable[pd.DataFrame]) -> dict[str, int]:
    """Label of the code -> number of trials that ran it, the commonest first; each trial counts once."""
    runs = {run: v for t in trials for run, v in zip(t["run_id"], t["code_version"], strict=True)}
    found = Counter(str(v) for v in runs.values() if isinstance(v, str))
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def failures(data: SweepData) -> list[dict[str, str]]:
    """Every trial and reference that did not complete and has something to say: state, error, traceback."""
    rows = []
    for frame in (data.references, data.trials):
        for row in frame.to_dict("records"):
            if row["state"] in ("failed", "cancelled", "interrupted"):
                title = (
                    row.get("role") or f"{row['label']} {row['setting']}".strip() + f", seed {row['seed']}"
                )
                text = {
                    k: "" if pd.isna(row[k]) else str(row[k]) for k in ("error", "error_class", "traceback")
                }
                rows.append({"title": str(title), "run_id": row["run_id"], "state": row["state"], **text})
    return rows
