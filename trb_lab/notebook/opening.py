"""From names to runs: what a store holds under them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.report.collect import read_plan
from trb_lab.report.planned_sets import planned_sets
from trb_lab.store.plans import planned
from trb_lab.store.run_dir import Store, read_json

from .run_frames import Run, Runs


def open_store(given: Store | Path | str | None) -> Store:
    """The store; raises UsageError where there is no such folder."""
    store = given if isinstance(given, Store) else Store.locate(given)
    if not store.root.is_dir():
        raise UsageError(
            f"there is no store at {store.root}. Name its folder (store=...), or set TRB_LAB_STORE before "
            "Python starts."
        )
    return store


def open_runs(store: Store, names: Sequence[str] | None) -> Runs:
    """Runs of these sweeps in the order of their plans; of the whole store where it is None, by id."""
    if names is None:
        return Runs(store, tuple(_every_trial(store)))
    if not names:
        raise UsageError(
            "an empty list of sweeps: name at least one, or none at all for every trial of the store"
        )
    found: list[Run] = []
    for name in dict.fromkeys(names):
        found += _of_sweep(store, name)
    return Runs(store, tuple(found))


def _of_sweep(store: Store, name: str) -> Iterator[Run]:
    known = [sweep.name for sweep in store.sweeps()]
    if name not in known:
        there = f"Sweeps there: {', '.join(known)}." if known else "It holds no sweep yet."
        raise UsageError(f"no sweep '{name}' in {store.root}.{did_you_mean(name, known)} {there}")
    plan = planned(store.sweep(name)) or read_plan(store, name)
    sets = planned_sets(plan)
    arms = (plan.get("spec") or {}).get("arms") or {}
    for row in plan.get("trials", []):
        label = (arms.get(row["arm"]) or {}).get("label") or row["arm"]
        yield Run(
            name,
            row["run_id"],
            row["arm"],
            row.get("setting") or "",
            str(label),
            row["seed"],
            row["spec"],
            sets,
        )


def _every_trial(store: Store) -> Iterator[Run]:
    """Without a plan an arm is what the warmup's kind says, and a run's mean is over its own evaluation sets."""
    for run in store.trials():
        config: Mapping[str, Any] = read_json(run.config) or {}
        spec = config.get("spec") or {}
        kind = str((spec.get("warmup") or {}).get("kind", "opd"))
        sets = planned_sets({"trials": [{"spec": spec}]})
        yield Run("", run.run_id, kind, "", kind, int(spec.get("seed", 0)), spec, sets)
