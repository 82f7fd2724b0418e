"""Which evaluation sets a sweep is about, and where a run's files hold their scores.

Sweeps share trials, so a run's result may hold sets that this sweep never asked for, and another sweep may
mean something else by the same name. A report compares settings on what its own plan names: sets are told
apart by what they hold (their fingerprint), by name only in plans that say no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .stats import mean

Identity = tuple[str, str | None]
"""Name and fingerprint of a set as a plan gives them."""


@dataclass(frozen=True)
class PlannedSet:
    """An evaluation set of the plan. `label` is its column: the name, unless the plan gives it to several."""

    name: str
    fingerprint: str | None
    label: str


@dataclass(frozen=True)
class PlannedSets:
    """All sets of a plan in its order, and the labels of those that every trial has: what is averaged."""

    sets: list[PlannedSet]
    common: list[str]

    @property
    def labels(self) -> list[str]:
        return [s.label for s in self.sets]


def planned_sets(plan: Mapping[str, Any]) -> PlannedSets:
    """The evaluation sets of a plan.json."""
    trials = [_identities(trial) for trial in plan.get("trials", [])]
    every = list(dict.fromkeys(identity for trial in trials for identity in trial))
    names = [name for name, _ in every]
    sets = [
        PlannedSet(name, print_, name if names.count(name) == 1 else f"{name}@{print_}")
        for name, print_ in every
    ]
    everywhere = set(every).intersection(*trials)
    return PlannedSets(sets, [s.label for s in sets if (s.name, s.fingerprint) in everywhere])


def _identities(trial: Mapping[str, Any]) -> list[Identity]:
    prints = trial.get("eval_sets") or {}
    listed = ((trial.get("spec") or {}).get("eval") or {}).get("sets") or []
    names = [str(s["name"]) for s in listed]
    return [(name, prints.get(name)) for name in dict.fromkeys([*names, *prints])]


def keys_of(sets: Sequence[PlannedSet], final: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Label of a planned set -> key of its entry in a result's `final.sets`; sets without one are absent."""
    found = {}
    for planned in sets:
        candidates = [planned.name, *sorted(final)]
        if planned.fingerprint is None:
            candidates = [planned.name]
        for key in candidates:
            if key in final and planned.fingerprint in (None, final[key].get("fingerprint")):
                found[planned.label] = key
                break
    return found


def curve_columns(
    planned: PlannedSets, final: Mapping[str, Mapping[str, Any]], last: Mapping[str, Any]
) -> list[str] | None:
    """Keys of metrics.jsonl whose mean is the run's score; None where the run did not measure them all.

    `last` is the last line. A result that holds several sets of one name does not say which of them was
    measured during training; its entry agrees with the last line, from which it was made.
    """
    keys = keys_of(planned.sets, final)
    names = {s.label: s.name for s in planned.sets}
    columns = []
    for label in planned.common:
        key = keys.get(label) if final else names[label]
        if key is None:
            return None
        name = key.partition("@")[0]
        shared = any(k.startswith(f"{name}@") for k in final)
        if shared and any(last.get(f"eval/{name}/{m}") != final[key].get(m) for m in ("pass_at_1", "stderr")):
            return None
        columns.append(f"eval/{name}/pass_at_1")
    return columns or None


def plain_mean(values: Mapping[str, Any], keys: Sequence[str]) -> float | None:
    """Mean over the keys; None where one is missing, or where there are none."""
    found = [values.get(k) for k in keys]
    known = [float(v) for v in found if v is not None]
    return mean(known) if known and len(known) == len(found) else None
