"""What a search reads of a run: the quantities of its goals and constraints, and the value at each stop.

Read from the run directory alone. What was read is kept in a cache (`search/ARM.values.json`), by the size and time
of the files that it came from and by the evaluation sets that were asked for, so that a search of ten thousand runs is
taken up in seconds; without the cache everything is read again.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trb_lab.errors import did_you_mean
from trb_lab.spec.search import SCORE, Over, SearchSpec
from trb_lab.store.metrics import iter_lines
from trb_lab.store.run_dir import RunDir, read_json, write_atomic

_REDUCE: Mapping[str, Callable[[list[float]], float]] = {
    "last": lambda values: values[-1],
    "mean": statistics.fmean,
    "max": max,
    "min": min,
}
_MEMORY = "cost/peak_memory_gib"
_ROLLOUT = "cost/rollout_seconds"


@dataclass(frozen=True)
class Measured:
    """What one run's files say."""

    values: Mapping[str, float] = field(default_factory=dict)
    """Quantity (a goal's or a constraint's metric) -> value; empty before the run has completed."""
    stops: Mapping[int, float] = field(default_factory=dict)
    """Steps done -> value of the first goal, at the stops that the run has reached."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Metric that a completed run does not have -> a sentence that says so, with what it has."""


@dataclass(frozen=True)
class Quantity:
    """A number to be had of a finished run."""

    metric: str
    over: Over


def quantities(spec: SearchSpec) -> list[Quantity]:
    """Everything that the search wants to know of a run, goals first."""
    goals = [Quantity(goal.metric, goal.over) for goal in spec.goals]
    return goals + [Quantity(metric, bound.over) for metric, bound in spec.constraints.items()]


def key_of(quantity: Quantity) -> str:
    """`policy/kl_mean (max)`: a metric may be bounded by its largest value and optimised at its last."""
    return f"{quantity.metric} ({quantity.over})"


class Measures:
    """Reads runs, remembering what it has read."""

    def __init__(self, spec: SearchSpec, stops: Sequence[int], cache: Path) -> None:
        self._quantities = quantities(spec)
        self._goal = self._quantities[0]
        self._stops = tuple(stops)
        self._cache = cache
        self._asked = [[key_of(q) for q in self._quantities], list(self._stops)]
        self._known = self._kept()
        self._changed = False

    def _kept(self) -> dict[str, Any]:
        """What was read before; nothing where the cache is not there, torn, or of other questions."""
        try:
            kept = json.loads(self._cache.read_text(encoding="utf-8"))
            return dict(kept["runs"]) if kept["asked"] == self._asked else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def of(self, run_dir: RunDir, eval_sets: Mapping[str, str]) -> Measured:
        """What the run's files say now. `eval_sets` are those that `score` averages: name -> fingerprint."""
        stamp = [
            _stamp(run_dir.result),
            _stamp(run_dir.metrics),
            [list(s) for s in sorted(eval_sets.items())],
        ]
        known = self._known.get(run_dir.run_id)
        if known is None or known["stamp"] != stamp:
            found = self._read(run_dir, eval_sets)
            reached = {str(step): value for step, value in found.stops.items()}
            entry = {"stamp": stamp, "values": dict(found.values), "stops": reached}
            self._known[run_dir.run_id] = (
                {**entry, "missing": dict(found.missing)} if found.missing else entry
            )
            self._changed = True
            return found
        stops = {int(step): value for step, value in known["stops"].items()}
        return Measured(known["values"], stops, known.get("missing", {}))

    def save(self) -> None:
        """Keep what was read for the next time."""
        if self._changed:
            write_atomic(self._cache, json.dumps({"asked": self._asked, "runs": self._known}))
            self._changed = False

    def _read(self, run_dir: RunDir, eval_sets: Mapping[str, str]) -> Measured:
        result = read_json(run_dir.result)
        if result is None and not self._stops:
            return Measured()
        lines = [line for _, line in iter_lines(run_dir.metrics) if "step" in line]
        stops = {}
        for stop in self._stops:
            value = _at(self._goal, [line for line in lines if line["step"] < stop], eval_sets)
            if value is not None and lines and lines[-1]["step"] >= stop - 1:
                stops[stop] = value
        if result is None:
            return Measured({}, stops)
        values, missing = {}, {}
        for quantity in self._quantities:
            found = _of_result(quantity, run_dir, result, eval_sets)
            if found is None:
                found = _at(quantity, lines, eval_sets)
            if found is None:
                known = sorted({key for line in lines for key in line} - {"step"})
                missing[quantity.metric] = (
                    f"The search wants `{quantity.metric}` of its runs, and {run_dir.run_id} has no such metric."
                    f"{did_you_mean(quantity.metric, known)} It has: {', '.join(known) or 'none'}."
                )
            else:
                values[key_of(quantity)] = found
        return Measured(values, stops, missing)


def _stamp(path: Path) -> list[int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return [stat.st_mtime_ns, stat.st_size]


def _at(quantity: Quantity, lines: Iterable[Mapping[str, Any]], eval_sets: Mapping[str, str]) -> float | None:
    """The quantity over some lines of metrics.jsonl; None where no line has it."""
    if quantity.metric == SCORE:
        columns = [f"eval/{name}/pass_at_1" for name in eval_sets]
        found = [
            statistics.fmean(line[c] for c in columns)
            for line in lines
            if columns and all(c in line for c in columns)
        ]
    else:
        found = [float(line[quantity.metric]) for line in lines if line.get(quantity.metric) is not None]
    return float(_REDUCE[quantity.over](found)) if found else None


def _of_result(
    quantity: Quantity, run_dir: RunDir, result: Mapping[str, Any], eval_sets: Mapping[str, str]
) -> float | None:
    """What result.json knows better than metrics.jsonl: the final score of each set, and costs."""
    if quantity.metric == SCORE and quantity.over == "last":
        entries = ((result.get("final") or {}).get("sets") or {}).values()
        scores = {entry.get("fingerprint"): entry.get("pass_at_1") for entry in entries}
        if eval_sets and all(scores.get(print_) is not None for print_ in eval_sets.values()):
            return statistics.fmean(scores[print_] for print_ in eval_sets.values())
        return None
    if not quantity.metric.startswith("cost/"):
        return None
    if quantity.metric == _MEMORY:
        peaks = [line["memory_bytes"] for _, line in iter_lines(run_dir.timing) if "memory_bytes" in line]
        return max(peaks) / 2**30 if peaks else None
    cost = result.get("cost") or {}
    if quantity.metric == _ROLLOUT:
        return float((cost.get("phases") or {}).get("rollout", {}).get("seconds", 0.0)) if cost else None
    value = (cost.get("total") or {}).get(quantity.metric.removeprefix("cost/"))
    return None if value is None else float(value)
