"""A sweep cut down to the trials that a source of a definition asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.spec.report import SourceSpec
from trb_lab.store.identity import flatten

from .collect import SweepData


def cut_down(data: SweepData, source: SourceSpec, name: str) -> SweepData:
    """Only the trials of the source's arms, seeds and `where`; `name` is its key, for messages.

    Raises UsageError for arms, seeds and keys that the sweep has not, and where no trial is left.
    """
    plan, trials = data.plan.get("trials", []), data.trials
    _refuse_unknown(plan, source, f"sources.{name}", data.name)
    keep = [_fits(t, source) for t in plan]
    if all(keep):
        return data
    if not any(keep):
        raise UsageError(
            f"sources.{name}: no trial of {data.name} has all of it: arms {source.arms or 'all'}, seeds "
            f"{source.seeds or 'all'}, where {source.where}. Leave something out."
        )
    kept = {t["run_id"] for t, k in zip(plan, keep, strict=True) if k}
    frames = {
        field: (frame := getattr(data, field))[frame["run_id"].isin(kept)].reset_index(drop=True)
        for field in ("curves", "checkpoints", "timing", "costs")
    }
    scores = data.scores[data.scores["run_id"].isin(kept | set(data.references["run_id"]))]
    return replace(
        data,
        plan={**data.plan, "trials": [t for t, k in zip(plan, keep, strict=True) if k]},
        trials=trials[keep].reset_index(drop=True),
        scores=scores.reset_index(drop=True),
        **frames,
    )


def _refuse_unknown(plan: list[dict[str, Any]], source: SourceSpec, where: str, sweep: str) -> None:
    arms = list(dict.fromkeys(t["arm"] for t in plan))
    for arm in [*(source.arms or ()), *([source.reference] if source.reference else ())]:
        if arm not in arms:
            hint = did_you_mean(arm, arms)
            raise UsageError(f"{where}: {sweep} has no arm '{arm}'.{hint} Arms: {', '.join(arms)}.")
    if source.reference and source.arms and source.reference not in source.arms:
        raise UsageError(
            f"{where}: the reference '{source.reference}' is none of its arms ({', '.join(source.arms)}). Add it, or "
            "leave `reference` out."
        )
    seeds = sorted({int(t["seed"]) for t in plan})
    for seed in source.seeds or ():
        if seed not in seeds:
            raise UsageError(f"{where}: {sweep} has no seed {seed}. Seeds: {', '.join(map(str, seeds))}.")
    keys = dict.fromkeys(key for t in plan for key in flatten(t.get("spec") or {}))
    for key, value in source.where.items():
        if isinstance(value, Mapping):
            raise UsageError(
                f"{where}.where: {key} is a mapping. Name dotted keys instead: "
                f"{', '.join(f'{key}.{inner}: {v}' for inner, v in flatten(dict(value)).items())}."
            )
        if key not in keys:
            hint = did_you_mean(key, keys)
            raise UsageError(f"{where}.where: no trial of {sweep} has the key '{key}'.{hint}")


def _fits(trial: Mapping[str, Any], source: SourceSpec) -> bool:
    if source.arms is not None and trial["arm"] not in source.arms:
        return False
    if source.seeds is not None and trial["seed"] not in source.seeds:
        return False
    flat = flatten(trial.get("spec") or {})
    return all(key in flat and _is(flat[key], value) for key, value in source.where.items())


def _is(found: Any, wanted: Any) -> bool:
    """Whether a value is the wanted one, or one of the wanted; numbers by value, true and false apart from 1 and 0."""
    if _equal(found, wanted):
        return True
    return isinstance(wanted, list) and any(_equal(found, w) for w in wanted)


def _equal(a: Any, b: Any) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)
