"""Item scores of runs: what each problem earned at each evaluated checkpoint, reduced as it is read.

The files of a large sweep hold more rows than a memory does. So one file (one checkpoint, one set) is open at a time, four of
its columns are read, and what is kept of it is its score on either half of the problems, and for the final checkpoint the score
of each problem.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from trb_lab.store.run_dir import RunDir, Store, read_json

from .collect import SweepData
from .planned_sets import PlannedSet, keys_of, planned_sets
from .stats import mean

COLUMNS = ["step", "set", "problem", "correct"]


@dataclass(frozen=True)
class Halves:
    """Score of one checkpoint on one set: over the problems of half A, over those of half B, and how many they are."""

    a: float
    num_a: int
    b: float
    num_b: int


@dataclass
class RunItems:
    """What is kept of a run's item scores; sets by the labels of the plan."""

    halves: dict[tuple[int, str], Halves] = field(default_factory=dict)
    """(updates made, set) -> its scores on the two halves."""
    final: dict[str, dict[str, float]] = field(default_factory=dict)
    """Set -> problem -> share of its samples that were right at the final checkpoint."""

    def checkpoints(self, sets: Sequence[str]) -> list[int]:
        """Updates made, of the checkpoints that have item scores on all of these sets."""
        updates = {u for u, _ in self.halves}
        return sorted(u for u in updates if all((u, s) in self.halves for s in sets))


@lru_cache(maxsize=1 << 18)
def in_half_a(problem: str) -> bool:
    """Which half a problem belongs to: a coin keyed by its id, so the same for every arm, seed and set that has it."""
    return hashlib.sha256(problem.encode()).digest()[0] % 2 == 0


def halves_of(scores: Mapping[str, float]) -> Halves:
    """The two halves' means of problem -> score; nan for a half without problems."""
    a = [v for k, v in scores.items() if in_half_a(k)]
    b = [v for k, v in scores.items() if not in_half_a(k)]
    return Halves(mean(a) if a else math.nan, len(a), mean(b) if b else math.nan, len(b))


def collect_items(store: Store, data: SweepData) -> dict[str, RunItems]:
    """Run id -> item scores, of completed trials; runs without any are absent."""
    planned = planned_sets(data.plan).sets
    found = {}
    for trial in data.trials.drop_duplicates("run_id").to_dict("records"):
        if trial["state"] == "completed":
            items = read_items(store.trial(trial["run_id"]), planned, int(trial["steps"]))
            if items.halves:
                found[str(trial["run_id"])] = items
    return found


def read_items(run: RunDir, planned: Sequence[PlannedSet], steps: int) -> RunItems:
    """One run's item scores on the plan's sets; `steps` is what makes a checkpoint the final one."""
    final = ((read_json(run.result) or {}).get("final") or {}).get("sets") or {}
    labels = _labels(planned, final)
    items = RunItems()
    for file in sorted((run.path / "items.parquet").glob("*.parquet")):
        for (step, name), scores in _problem_scores(file).items():
            label = labels.get(name)
            if label is not None and step >= 0:
                items.halves[step + 1, label] = halves_of(scores)
                if step + 1 == steps:
                    items.final[label] = scores
    for name, label in labels.items():
        if any(key.startswith(f"{name}@") for key in final):
            _drop_unless_meant(items, label, final[keys_of(planned, final)[label]])
    return items


def _labels(planned: Sequence[PlannedSet], final: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Name of a set in the item scores -> its label in the plan."""
    return {key.partition("@")[0]: label for label, key in keys_of(planned, final).items()}


def _drop_unless_meant(items: RunItems, label: str, entry: Mapping[str, Any]) -> None:
    """Where a result holds several sets of one name, only scores that agree with the planned one's are its own."""
    scores = items.final.get(label)
    if scores is None or not math.isclose(mean(scores.values()), float(entry["pass_at_1"]), abs_tol=1e-9):
        items.final.pop(label, None)
        for key in [k for k in items.halves if k[1] == label]:
            del items.halves[key]


def _problem_scores(file: Path) -> dict[tuple[int, str], dict[str, float]]:
    """(step, set) -> problem -> share of its samples that were right; empty for a file that cannot be read."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        table = pq.read_table(file, columns=COLUMNS)
    except (OSError, ArrowException):  # its checkpoint then counts as one without item scores
        return {}
    counted = table.group_by(["step", "set", "problem"]).aggregate([("correct", "mean")]).to_pydict()
    found: dict[tuple[int, str], dict[str, float]] = {}
    for step, name, problem, share in zip(
        counted["step"], counted["set"], counted["problem"], counted["correct_mean"], strict=True
    ):
        found.setdefault((step, name), {})[problem] = share
    return found
