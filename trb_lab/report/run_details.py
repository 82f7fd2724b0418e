"""What the page tells about one run: the content of its drawer.

Specs are kept as what a source's trials share and what is a run's own. Rollouts are read for the first seed of a
setting alone, at most MAX_SAMPLED settings and PROMPTS prompts, so that a thousand runs cost no thousand sample files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from trb_lab.store.run_dir import RunDir, read_json

from .collect import CURVE_COLUMNS, CURVE_SCORE
from .excerpts import LIKELY, POSSIBLE, Excerpt, matched_pairs, samples_at
from .mlflow_links import mlflow_links
from .page_data import rounded
from .planned_sets import keys_of, planned_sets
from .plot_curves import drawn_settings
from .settings import Setting, reference_setting
from .setup_facts import flatten
from .sources import Source

PROMPTS = 2
MAX_SAMPLED = 40
"""Settings whose rollouts are kept: those that figures draw, then the plan's first."""
LAST_STEPS = 10
ERROR_CHARACTERS = 20_000
"""Of a traceback; the run's log has the rest."""


def run_details(sources: Sequence[Source]) -> dict[str, Any]:
    """{"runs", "references", "shared", "environments", "samples", "mlflow", "marks"}, ready for JSON.

    A run of several sources is told as the first has it. `mlflow` is a list, one entry a source, as `shared` is.
    """
    runs: dict[str, Any] = {}
    environments: dict[str, int] = {}
    kept: list[dict[str, Any]] = []
    samples: dict[str, list[dict[str, Any]]] = {}
    shared, mlflow = [], []
    for number, source in enumerate(sources):
        links = mlflow_links(source.store.sweep(source.data.name))
        mlflow.append(None if links is None else {"address": links.address, "local": links.local})
        found, alike = _runs(source, number)
        shared.append(alike)
        for run_id, entry in found.items():
            if run_id in runs:
                continue
            folder = source.store.reference(run_id) if "role" in entry else source.store.trial(run_id)
            entry["environment"] = _environment(folder, environments, kept)
            entry["path"] = links.path(run_id) if links else None
            runs[run_id] = entry
        for run_id, rows in _samples(source).items():
            samples.setdefault(run_id, rows)
    return {
        "runs": runs,
        "shared": shared,
        "environments": kept,
        "samples": samples,
        "mlflow": mlflow,
        "marks": [POSSIBLE, LIKELY],
        "last": LAST_STEPS,
    }


def _runs(source: Source, number: int) -> tuple[dict[str, Any], dict[str, str]]:
    """(run id -> what its drawer says, what all trials' specs share)."""
    data = source.data
    planned = data.plan.get("trials", [])
    flat = [flatten(trial.get("spec") or {}) for trial in planned]
    alike = {k: v for k, v in flat[0].items() if all(f.get(k) == v for f in flat[1:])} if flat else {}
    specs: dict[str, dict[str, str]] = {}
    for trial, spec in zip(planned, flat, strict=True):
        specs.setdefault(trial["run_id"], spec)
    reference = reference_setting(source.settings)
    titles: dict[str, list[str]] = {}
    for setting in source.settings:
        for run_id in setting.run_ids.values():
            titles.setdefault(run_id, []).append(setting.title)
    sets = planned_sets(data.plan).sets
    measured = _measured(data.curves)
    runs: dict[str, Any] = {}
    for row in data.trials.to_dict("records"):
        run_id = row["run_id"]
        if run_id in runs:
            continue
        other = None if reference is None else reference.run_ids.get(int(row["seed"]))
        runs[run_id] = {
            "source": number,
            "settings": list(dict.fromkeys(titles.get(run_id, []))),
            "arm": row["label"],
            "seed": int(row["seed"]),
            "steps": [int(row["steps_done"]), int(row["steps"])],
            **_ending(row),
            "code": row["code_version"] if isinstance(row["code_version"], str) else None,
            "scores": _scores(source.store.trial(run_id), sets),
            "metrics": measured.get(run_id, {}),
            "own": {k: v for k, v in specs[run_id].items() if k not in alike},
            "reference": other,
            "diff": spec_difference(specs[other], specs[run_id])
            if other in specs and other != run_id
            else None,
        }
    for row in data.references.to_dict("records"):
        runs.setdefault(
            row["run_id"],
            {
                "source": number,
                "settings": [f"{row['role']} ({row['model']})" if row["model"] else str(row["role"])],
                "role": str(row["role"]),
                **_ending(row),
                "scores": _scores(source.store.reference(row["run_id"]), sets),
            },
        )
    return runs, alike


def _ending(row: Mapping[Any, Any]) -> dict[str, Any]:
    told = {k: None if pd.isna(row[k]) else str(row[k]) for k in ("error", "error_class", "traceback")}
    if told["traceback"] is not None:
        told["traceback"] = told["traceback"][-ERROR_CHARACTERS:]
    return {"state": str(row["state"]), **told}


def spec_difference(reference: Mapping[str, str], spec: Mapping[str, str]) -> dict[str, Any]:
    """Flat specs -> {"changed": {key: [reference's, this one's]}, "added": {key: value}, "removed": {key: value}}."""
    keys = sorted({*reference, *spec})
    return {
        "changed": {
            k: [reference[k], spec[k]]
            for k in keys
            if k in reference and k in spec and reference[k] != spec[k]
        },
        "added": {k: spec[k] for k in keys if k not in reference},
        "removed": {k: reference[k] for k in keys if k not in spec},
    }


def _scores(run: RunDir, sets: Sequence[Any]) -> list[list[Any]]:
    """[set, pass@1, standard error, problems, samples] of each planned set that the result holds."""
    final = ((read_json(run.result) or {}).get("final") or {}).get("sets") or {}
    rows = []
    for label, key in keys_of(sets, final).items():
        entry = final[key]
        numbers = [rounded(entry.get(k)) for k in ("pass_at_1", "stderr")]
        rows.append([label, *numbers, entry.get("num_problems"), entry.get("num_samples")])
    return rows


def _measured(curves: pd.DataFrame) -> dict[str, dict[str, list[float | None]]]:
    """Run id -> metric -> [last value, mean of its last LAST_STEPS steps]."""
    columns = [c for c in (CURVE_SCORE, *CURVE_COLUMNS) if c in curves]
    if not columns:
        return {}
    found: dict[str, dict[str, list[float | None]]] = {}
    groups = curves.groupby("run_id", sort=False)
    last = groups[columns].last()
    mean = groups.tail(LAST_STEPS).groupby("run_id", sort=False)[columns].mean()
    for column in columns:
        means = mean[column].to_dict()
        for run_id, value in last[column].dropna().to_dict().items():
            values = [rounded(float(value)), rounded(float(means[run_id]))]
            found.setdefault(str(run_id), {})[column] = values
    return found


def _environment(run: RunDir, known: dict[str, int], kept: list[dict[str, Any]]) -> int | None:
    """Position in `kept` of the machine and the packages that ran it; runs mostly share a few."""
    written = read_json(run.provenance)
    if not written:
        return None
    host = {k: v for k, v in (written.get("host") or {}).items() if not isinstance(v, dict | list)}
    device = written.get("device") or {}
    told = {
        "python": str(written.get("python") or ""),
        "machine": {k: str(v) for k, v in host.items()},
        "device": ", ".join([str(device.get("kind") or ""), *map(str, device.get("names") or [])]),
        "packages": {str(k): str(v) for k, v in (written.get("packages") or {}).items()},
    }
    key = repr(told)
    if key not in known:
        known[key] = len(kept)
        kept.append(told)
    return known[key]


def _samples(source: Source) -> dict[str, list[dict[str, Any]]]:
    """Run id -> its first responses of step 0, and the reference's to the same prompts; first seeds alone."""
    reference = reference_setting(source.settings)
    drawn = {s.key for s in drawn_settings(source.data, source.settings)}
    order = sorted(source.settings, key=lambda s: (not s.is_reference, s.key not in drawn))[:MAX_SAMPLED]
    read: dict[str, pd.DataFrame] = {}

    def first_rows(run_id: str) -> pd.DataFrame:
        if run_id not in read:
            read[run_id] = samples_at(source.store.trial(run_id), 0)
        return read[run_id]

    found: dict[str, list[dict[str, Any]]] = {}
    for setting in order:
        seed, run_id = min(setting.run_ids.items())
        rows = first_rows(run_id)
        if rows.empty or run_id in found:
            continue
        other = _other(reference, setting, seed)
        beside = first_rows(other) if other else rows
        pairs = matched_pairs(("", other or run_id, beside), ("", run_id, rows), most=PROMPTS)
        found[run_id] = [
            {
                "prompt": pair.prompt,
                "gold": pair.gold,
                "own": response_data(pair.responses[1]),
                "reference": response_data(pair.responses[0]) if other else None,
            }
            for pair in pairs
        ]
    return {run_id: rows for run_id, rows in found.items() if rows}


def _other(reference: Setting | None, setting: Setting, seed: int) -> str | None:
    """The reference's run of the seed, None where that is this run."""
    run_id = reference.run_ids.get(seed) if reference is not None else None
    return None if run_id == setting.run_ids[seed] else run_id


def response_data(response: Excerpt) -> dict[str, Any]:
    """Tokens as parallel lists: text, redraw probability, student's and teacher's log-prob; positions redrawn."""
    columns = list(zip(*(t.numbers for t in response.tokens), strict=True)) or [(), (), ()]
    numbers = [[rounded(v, 3) for v in column] for column in columns]
    return {
        "run": response.run_id,
        "correct": response.correct,
        "cut": response.cut,
        "tokens": [t.text for t in response.tokens],
        "redraw": numbers[0] if any(v is not None for v in numbers[0]) else None,
        "student": numbers[1] if any(v is not None for v in numbers[1]) else None,
        "teacher": numbers[2] if any(v is not None for v in numbers[2]) else None,
        "redrawn": [i for i, t in enumerate(response.tokens) if t.redrawn],
    }
