"""How long what is left of a sweep will take, told from finished runs of the same shape, always as a range."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trb_lab.driver.action import Action
from trb_lab.driver.estimate_basis import Basis, find_bases
from trb_lab.driver.estimate_work import Work, work_of
from trb_lab.driver.plan import Plan
from trb_lab.driver.search_counts import SearchCounts
from trb_lab.store.run_dir import Store

Unit = Literal["gpu_hours", "core_hours"]
UNITS: Mapping[Unit, str] = {"gpu_hours": "GPU-hours", "core_hours": "core-hours"}
FEW = 5
"""With fewer finished runs the range is from the least to the most; else between the 10th and 90th percentile."""
UNKNOWN = "unknown: no finished run of this shape in the store yet"


@dataclass(frozen=True)
class KindEstimate:
    """One kind of runs."""

    label: str
    """Arm, and of a search what the runs are for."""
    least: int
    """Runs that will be there for certain."""
    most: int
    low: float | None
    """In the estimate's unit; None where nothing is known."""
    high: float | None
    hours: tuple[float, float] | None
    """Time of the runs one after another."""
    longest: tuple[float, float]
    """Hours of the longest single run."""
    basis: str


@dataclass(frozen=True)
class Estimate:
    """What is left to do of a plan. The sums are over what is known."""

    unit: Unit
    low: float
    high: float
    hours: tuple[float, float]
    """Time of all runs one after another."""
    kinds: tuple[KindEstimate, ...]
    not_counted: Mapping[str, int]
    """Evaluations that no estimate is made of: what they are -> how many."""

    @property
    def unknown(self) -> tuple[str, ...]:
        """Kinds of which nothing is known."""
        return tuple(kind.label for kind in self.kinds if kind.low is None)

    @property
    def basis(self) -> str:
        """What the known part rests on."""
        return "; ".join(dict.fromkeys(kind.basis for kind in self.kinds if kind.low is not None))

    def wall_hours(self, slots: int) -> tuple[float, float]:
        """With so many runs at once."""
        known = [kind for kind in self.kinds if kind.hours is not None]
        low, high = (
            max([hours / max(1, slots), *(kind.longest[side] for kind in known)])
            for side, hours in enumerate(self.hours)
        )
        return low, high


def estimate(
    plan: Plan,
    store: Store,
    counts: Mapping[str, SearchCounts] | None = None,
    on_gpu: bool | None = None,
) -> Estimate:
    """Look for finished runs like those that are left, and add up. Changes nothing.

    `counts` are those of the searches, by arm, where they are known already. `on_gpu` says what a spec with
    `device: auto` gets here; None takes what the newest finished run had.
    """
    work = work_of(plan, store, counts)
    bases = find_bases((piece.wanted for piece in work), store, on_gpu)
    gpus = any(run.gpus for basis in bases.values() for run in basis.runs[:1])
    unit: Unit = "gpu_hours" if gpus else "core_hours"
    kinds: dict[tuple[str, Basis], list[tuple[Work, int]]] = {}
    for piece, count in work.items():
        kinds.setdefault((piece.label, bases[piece.wanted]), []).append((piece, count))
    found = tuple(_kind(label, basis, pieces, unit) for (label, basis), pieces in kinds.items())
    known = [kind for kind in found if kind.low is not None and kind.high is not None and kind.hours]
    return Estimate(
        unit=unit,
        low=sum(kind.low or 0.0 for kind in known),
        high=sum(kind.high or 0.0 for kind in known),
        hours=(
            sum(kind.hours[0] for kind in known if kind.hours),
            sum(kind.hours[1] for kind in known if kind.hours),
        ),
        kinds=found,
        not_counted=_not_counted(plan),
    )


def _kind(label: str, basis: Basis, pieces: Sequence[tuple[Work, int]], unit: Unit) -> KindEstimate:
    most = sum(count for _, count in pieces)
    least = sum(count for piece, count in pieces if piece.low is not None)
    if not basis.runs:
        return KindEstimate(label, least, most, None, None, None, (0.0, 0.0), UNKNOWN)
    low = high = seconds_low = seconds_high = longest_low = longest_high = 0.0
    for piece, count in pieces:
        spans = [piece.seconds(run) for run in basis.runs]
        begin, end = spread([s[0] for s in spans])[0], spread([s[1] for s in spans])[1]
        on_gpus = basis.runs[0].gpus > 0
        if unit == "gpu_hours":
            times = [float(piece.gpus if on_gpus else 0)] * len(spans)
        else:
            times = [float(run.threads) for run in basis.runs]
        low += count * spread([s[0] * n for s, n in zip(spans, times, strict=True)])[0] / 3600
        high += count * spread([s[1] * n for s, n in zip(spans, times, strict=True)])[1] / 3600
        seconds_low, seconds_high = seconds_low + count * begin, seconds_high + count * end
        longest_low, longest_high = max(longest_low, begin), max(longest_high, end)
    hours = (seconds_low / 3600, seconds_high / 3600)
    return KindEstimate(
        label, least, most, low, high, hours, (longest_low / 3600, longest_high / 3600), str(basis)
    )


def spread(values: Sequence[float]) -> tuple[float, float]:
    """10th and 90th percentile; the least and the most of few values."""
    ordered = sorted(values)
    if len(ordered) < FEW:
        return ordered[0], ordered[-1]
    return _percentile(ordered, 0.1), _percentile(ordered, 0.9)


def _percentile(ordered: Sequence[float], share: float) -> float:
    at = share * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


def _not_counted(plan: Plan) -> dict[str, int]:
    counts: Counter[str] = Counter()
    done = (Action.ADOPT, Action.FAILED, Action.CANCELLED)
    counts["evaluations of reference models"] = sum(r.action not in done for r in plan.references.values())
    counts["finished trials to evaluate on added sets"] = sum(
        t.action is Action.EVALUATE for t in plan.trials.values()
    )
    return {what: count for what, count in counts.items() if count}


def estimate_text(found: Estimate, slots: int | None = None) -> str:
    """Lines for people; empty where nothing is left to do."""
    if not found.kinds:
        return ""
    not_counted = ", ".join(f"{count} {what}" for what, count in found.not_counted.items())
    extra = f" Not counted: {not_counted}." if not_counted else ""
    if not any(kind.low is not None for kind in found.kinds):
        runs = _runs(sum(k.least for k in found.kinds), sum(k.most for k in found.kinds))
        return f"Left to do: {runs}; how long is {UNKNOWN}.{extra}"
    more = ", and what is unknown" if found.unknown else ""
    total = f"Left to do: {_range(found.low, found.high)} {UNITS[found.unit]}{more}"
    if slots is not None:
        wall = found.wall_hours(slots)
        total += f"; {_time_range(*wall)} with {slots} at once"
    if len(found.kinds) == 1:
        return f"{total} (from {found.basis}).{extra}"
    lines = [f"{total}.{extra}"]
    for kind in found.kinds:
        told = kind.basis
        if kind.low is not None and kind.high is not None:
            told = f"{_range(kind.low, kind.high)} {UNITS[found.unit]} (from {kind.basis})"
        lines.append(f"  {kind.label}: {_runs(kind.least, kind.most)}, {told}")
    return "\n".join(lines)


def estimate_json(found: Estimate) -> dict[str, Any]:
    """All of it, hours."""
    return {
        "unit": found.unit,
        "low": found.low,
        "high": found.high,
        "run_hours": list(found.hours),
        "kinds": [
            {
                "label": kind.label,
                "runs": [kind.least, kind.most],
                "low": kind.low,
                "high": kind.high,
                "run_hours": list(kind.hours) if kind.hours is not None else None,
                "basis": kind.basis,
            }
            for kind in found.kinds
        ],
        "unknown": list(found.unknown),
        "not_counted": dict(found.not_counted),
    }


def _runs(least: int, most: int) -> str:
    if least == most:
        return f"{most} run{'' if most == 1 else 's'}"
    return f"{least} to {most} runs"


def _number(value: float) -> str:
    """Two digits that matter: `0.0042`, `1.3`, `27`, `1400`."""
    if value >= 10:
        return f"{float(f'{value:.2g}'):.0f}" if value >= 100 else f"{value:.0f}"
    return f"{value:.2g}" if value >= 0.001 else "0"


def _range(low: float, high: float) -> str:
    a, b = _number(low), _number(high)
    return a if a == b else f"{a} to {b}"


def _time_range(low: float, high: float) -> str:
    a, b = _time(low), _time(high)
    return a if a == b else f"{a} to {b}"


def _time(hours: float) -> str:
    """`40 s`, `12 min`, `3.4 h`, `2.1 days`."""
    if hours >= 48:
        return f"{_number(hours / 24)} days"
    if hours >= 1.5:
        return f"{_number(hours)} h"
    return f"{hours * 60:.0f} min" if hours >= 1 / 30 else f"{hours * 3600:.0f} s"
