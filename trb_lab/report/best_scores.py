"""Each setting's best score over training, and how its grid lays the settings out: groups, colours, marks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .collect import SweepData
from .settings import Setting, setting_key
from .setup_facts import flatten
from .stats import SeedScores, mean

FIRST_KEYS = ("steps", "kl_budget")
"""Keys that group and colour where an arm has both, as in the paper: the horizon K, then the budget."""


def best_over_training(data: SweepData, settings: Sequence[Setting]) -> dict[str, SeedScores]:
    """Key of a setting -> seed -> highest mean over the evaluation sets of any evaluated checkpoint, of seeds that
    completed; empty where there is none.
    """
    measured: dict[tuple[str, int], list[float]] = {}
    columns = (data.checkpoints[c].tolist() for c in ("run_id", "updates", "pass_at_1"))
    for run, updates, score in zip(*columns, strict=True):
        measured.setdefault((str(run), updates), []).append(float(score))
    best: dict[str, float] = {}
    for (run, _), scores in measured.items():
        score = mean(scores)
        best[run] = max(best.get(run, score), score)
    return {
        s.key: {
            seed: best[run]
            for seed, run in sorted(s.run_ids.items())
            if s.states[seed] == "completed" and run in best
        }
        for s in settings
    }


@dataclass(frozen=True)
class Place:
    """Where a setting stands in its arm's panel."""

    group: str
    colour: str
    """Value of the second key; empty where there is none."""
    mark: str
    """Values of all further keys; empty where there are none."""


@dataclass(frozen=True)
class Layout:
    """An arm's grid: which key does what, and each setting's place."""

    group_key: str
    colour_key: str
    mark_key: str
    places: dict[str, Place]
    """Setting key -> place."""

    def values(self, what: str) -> list[str]:
        """Distinct `group`, `colour` or `mark` of the settings, numbers by size, others as they come."""
        return ordered(getattr(p, what) for p in self.places.values())


def grid_layout(data: SweepData, settings: Sequence[Setting]) -> Layout:
    """The layout of one arm's settings, by the keys in which they differ."""
    keys = {s.key for s in settings}
    points: dict[str, dict[str, str]] = {}
    for trial in data.plan.get("trials", []):
        key = setting_key(trial["arm"], trial.get("setting") or "")
        if key in keys and key not in points:
            points[key] = {k: value_text(v) for k, v in flatten(trial.get("overrides") or {}).items()}
    every = list(dict.fromkeys(k for p in points.values() for k in p))
    vary = [k for k in every if len({p.get(k) for p in points.values()}) > 1]
    short = {k: k.rpartition(".")[2] for k in vary}
    if set(FIRST_KEYS) <= set(short.values()):
        vary.sort(key=lambda k: FIRST_KEYS.index(short[k]) if short[k] in FIRST_KEYS else len(FIRST_KEYS))
    group, colour, *others = [*vary, "", ""][: max(2, len(vary))]
    places = {
        key: Place(
            p.get(group, "–") if group else "",
            p.get(colour, "–") if colour else "",
            ", ".join(p.get(k, "–") for k in others),
        )
        for key, p in points.items()
    }
    return Layout(short.get(group, ""), short.get(colour, ""), ", ".join(short[k] for k in others), places)


def value_text(value: Any) -> str:
    """A value as tables write it."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def ordered(values: Any) -> list[str]:
    """Each value once; by size where all are numbers, else in the order in which they come."""
    found = list(dict.fromkeys(values))
    try:
        return sorted(found, key=float)
    except ValueError:
        return found
