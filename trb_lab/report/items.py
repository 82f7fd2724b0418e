"""Item scores of runs: what each problem earned at each evaluated checkpoint, reduced as it is read.

The files of a large sweep hold more rows than a memory does. So one file (one checkpoint, one set) is open at a time,
four of its columns are read, and what is kept of it is its score on either half of the problems. The scores of single
problems are read again when they are asked for.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

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
    final_files: dict[str, tuple[Path, tuple[int, str]]] = field(default_factory=dict)
    """Set -> file with the final checkpoint's scores on it, and the (step, set) that they have there."""
    files: dict[tuple[int, str], tuple[Path, tuple[int, str]]] = field(default_factory=dict)
    """(updates made, set) -> the same of every checkpoint."""

    def final_scores(self, name: str) -> dict[str, float]:
        """Problem -> share of its samples that were right at the final checkpoint."""
        file, key = self.final_files[name]
        return _problem_scores(file)[key]

    def scores_at(self, updates: int, name: str) -> dict[str, float]:
        """The same at any checkpoint; empty where it has no item scores."""
        if (updates, name) not in self.files:
            return {}
        file, key = self.files[updates, name]
        return _problem_scores(file).get(key, {})

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
    labels = {key: label for label, key in keys_of(planned, final).items()}  # both files call a set the same
    items = RunItems()
    for file in sorted(run.items.glob("[!._]*.parquet")):
        for (step, name), scores in _problem_scores(file).items():
            label = labels.get(name)
            if label is not None and step >= 0:
                items.halves[step + 1, label] = halves_of(scores)
                items.files[step + 1, label] = (file, (step, name))
                if step + 1 == steps:
                    items.final_files[label] = (file, (step, name))
    return items


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
