"""What a search left behind: the summaries beside a sweep's plan, as the report reads them.

A summary is one JSON file an arm, written by the driver; docs/files.md says what is in it. Values are in the metric's
own units here (scores are fractions of 1); percent appears in tables, figures and sentences alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trb_lab.store.run_dir import read_json

from .cost_table import quantity
from .stats import Difference, Interval, SeedScores, difference, mean, t_interval

COMPLETE, PAUSED, FAILED, RUNNING = "complete", "paused", "failed", "running"
SUFFIX = ".summary.json"


@dataclass(frozen=True)
class Goal:
    """A metric, and which way it should go."""

    metric: str
    direction: str

    @property
    def is_percent(self) -> bool:
        """Whether people read it in percent: scores are fractions."""
        return self.metric == "score" or self.metric.endswith("pass_at_1")

    @property
    def maximize(self) -> bool:
        return self.direction == "maximize"

    @property
    def scale(self) -> float:
        """What a value is multiplied with before it is shown."""
        return 100.0 if self.is_percent else 1.0

    @property
    def title(self) -> str:
        """Name of a column or an axis."""
        return f"{self.metric} (%)" if self.is_percent else self.metric

    def better(self, value: float) -> float:
        """A number that is the larger the better the value is."""
        return value if self.maximize else -value

    def number(self, value: float) -> str:
        """Without a unit, for tables: `35.1`, or three digits that matter."""
        return f"{100 * value:.1f}" if self.is_percent else number(value)

    def words(self, value: float) -> str:
        """With its unit, for sentences: `35.1 %`."""
        return f"{self.number(value)} %" if self.is_percent else self.number(value)

    def change(self, value: float) -> str:
        """A difference with its sign, in points where the metric is in percent."""
        text = f"{100 * value:+.1f}" if self.is_percent else ("+" if value > 0 else "") + number(value)
        return "0.0" if text in ("-0.0", "+0.0") else text

    def interval(self, interval: Interval) -> str:
        """`35.1 ± 2.0`, for tables."""
        text = self.number(interval.mean)
        return text if interval.half_width is None else f"{text} ± {self.number(interval.half_width)}"

    def gap(self, gap: Difference) -> str:
        """`+1.2 [-3.0, +5.4]`, for tables."""
        text = self.change(gap.mean)
        if gap.half_width is None:
            return text
        low, high = gap.mean - gap.half_width, gap.mean + gap.half_width
        return f"{text} [{self.change(low)}, {self.change(high)}]"


def number(value: float) -> str:
    """Three digits that matter, with a unit letter where it is large."""
    if value == 0:
        return "0"
    return ("-" if value < 0 else "") + quantity(abs(value))


@dataclass(frozen=True)
class Candidate:
    """One setting that the search tried, with all its runs on the selection seeds."""

    number: int
    origin: str
    setting: str
    params: dict[str, Any]
    state: str
    values: dict[str, dict[int, float]]
    """Metric -> seed -> value, finished runs only."""
    stops: dict[int, float]
    """Training steps done -> value there, mean over the starting seeds."""
    constraints: dict[str, float]
    feasible: bool
    error: str | None
    runs: list[dict[str, Any]] = field(default_factory=list)

    def of(self, goal: Goal) -> SeedScores:
        return self.values.get(goal.metric, {})

    def interval(self, goal: Goal) -> Interval | None:
        """Over its finished seeds; None where none has finished."""
        values = self.of(goal)
        return t_interval([values[s] for s in sorted(values)]) if values else None

    def mean(self, goal: Goal) -> float | None:
        values = self.of(goal)
        return mean(values.values()) if values else None

    @property
    def last_stop(self) -> int | None:
        """Steps done at its last stop; None where it has reached none."""
        return max(self.stops, default=None)

    @property
    def run_ids(self) -> list[str]:
        return [str(r["run_id"]) for r in self.runs]


@dataclass(frozen=True)
class Confirmed:
    """A winner, or the reference arm, on the fresh seeds. `number` is None for an arm that was not searched."""

    arm: str
    number: int | None
    setting: str
    runs: list[dict[str, Any]]
    values: dict[str, dict[int, float]]

    def of(self, goal: Goal) -> SeedScores:
        return self.values.get(goal.metric, {})

    @property
    def run_ids(self) -> list[str]:
        return [str(r["run_id"]) for r in self.runs]

    @property
    def states(self) -> list[str]:
        return [str(r["state"]) for r in self.runs]


@dataclass(frozen=True)
class Search:
    """One arm's search. `raw` is the summary as it was read."""

    slug: str
    """The arm's name as file names and links of the page can hold it; unique within a sweep."""
    goals: tuple[Goal, ...]
    candidates: list[Candidate]
    confirmation: list[Confirmed]
    raw: dict[str, Any]

    @property
    def arm(self) -> str:
        return str(self.raw["arm"])

    @property
    def label(self) -> str:
        return str(self.raw.get("label") or self.arm)

    @property
    def goal(self) -> Goal:
        """The goal, or the first of several."""
        return self.goals[0]

    @property
    def steps(self) -> int:
        return int(self.raw["steps"])

    @property
    def stops(self) -> list[int]:
        """Steps at which runs pause; empty without pruning."""
        return [int(s) for s in self.raw.get("stops") or []]

    @property
    def front(self) -> list[int]:
        return [int(n) for n in self.raw.get("front") or []]

    @property
    def verdicts(self) -> dict[int, dict[str, Any]]:
        return {int(v["number"]): v for v in self.raw.get("race") or []}

    def name(self, key: str) -> str:
        """A parameter's short name."""
        return str((self.raw.get("names") or {}).get(key, key))

    def by_number(self, number: int | None) -> Candidate | None:
        return next((c for c in self.candidates if c.number == number), None)

    def in_state(self, state: str) -> list[Candidate]:
        return [c for c in self.candidates if c.state == state]

    @property
    def measured(self) -> list[Candidate]:
        """Complete, with a value for every goal."""
        return [c for c in self.in_state(COMPLETE) if all(c.of(g) for g in self.goals)]

    @property
    def comparable(self) -> list[Candidate]:
        """Measured, and inside the constraints: what a best one is chosen from."""
        return [c for c in self.measured if c.feasible]

    @property
    def best(self) -> Candidate | None:
        return self.by_number(self.raw.get("best"))

    def ranked(self) -> list[Candidate]:
        """Every candidate: those that a best one is chosen from first (of several goals: the front), best first, then
        those outside the constraints, then paused ones (the furthest first), then the rest.
        """
        front = set(self.front) if len(self.goals) > 1 else set()
        order = {COMPLETE: 1, PAUSED: 3, RUNNING: 4, FAILED: 5}

        def key(c: Candidate) -> tuple[float, float, float, int]:
            place = order.get(c.state, 5)
            if c.state == COMPLETE:
                place = 2 if not c.feasible else 0 if c.number in front else 1
            value, stop = c.mean(self.goal), c.last_stop
            if value is not None or stop is None:
                good = math.inf if value is None else -self.goal.better(value)
                return (place, 0, good, c.number)
            return (place, -stop, -self.goal.better(c.stops[stop]), c.number)

        return sorted(self.candidates, key=key)

    @property
    def winners(self) -> list[Confirmed]:
        """This arm's settings on fresh seeds."""
        return [c for c in self.confirmation if c.arm == self.arm and c.number is not None]

    def reference(self, arm: str | None) -> Confirmed | None:
        """The row of the arm that others are compared with; None where that is this arm, or was not run."""
        others = [c for c in self.confirmation if c not in self.winners]
        return next((c for c in others if c.arm == arm), others[0] if others else None)


def fresh_difference(ours: Confirmed, theirs: Confirmed, goal: Goal) -> Difference | None:
    """Paired over the fresh seeds that both have finished; None where there is none, or both are the same runs."""
    common = set(ours.of(goal)) & set(theirs.of(goal))
    if not common or set(ours.run_ids) <= set(theirs.run_ids):
        return None
    a, b = ({s: side.of(goal)[s] for s in common} for side in (ours, theirs))
    return difference(a, b)


def read_searches(
    folder: Path, arms: Iterable[str] = (), planned: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Search]:
    """The searches of a sweep from its folder of summaries, which need not exist; in the order of `arms`.

    `planned` are the plan's `searches`: a summary of another context tells of a search that is no more, and is left
    out, as one is whose arm is no longer searched. One that names no context stays, as all do where `planned` is None.
    """
    found = [read_json(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
    order = {arm: i for i, arm in enumerate(arms)}
    summaries = sorted(
        (s for s in found if s and (planned is None or _is_planned(s, planned))),
        key=lambda s: (order.get(s["arm"], len(order)), str(s["arm"])),
    )
    searches: list[Search] = []
    for raw in summaries:
        slug = re.sub(r"[^A-Za-z0-9_.-]", "-", str(raw["arm"]))
        while any(s.slug == slug for s in searches):
            slug += "-2"
        searches.append(_search(raw, slug))
    return searches


def _is_planned(summary: Mapping[str, Any], planned: Mapping[str, Mapping[str, Any]]) -> bool:
    context = summary.get("context")
    return context is None or context == planned.get(str(summary["arm"]), {}).get("context")


def _search(raw: dict[str, Any], slug: str) -> Search:
    return Search(
        slug=slug,
        goals=tuple(Goal(str(g["metric"]), str(g["direction"])) for g in raw["goals"]),
        candidates=sorted((_candidate(c) for c in raw.get("candidates") or []), key=lambda c: c.number),
        confirmation=[
            Confirmed(
                arm=str(c["arm"]),
                number=c.get("number"),
                setting=str(c.get("setting") or ""),
                runs=list(c.get("runs") or []),
                values=_values(c.get("values")),
            )
            for c in raw.get("confirmation") or []
        ],
        raw=raw,
    )


def _candidate(raw: dict[str, Any]) -> Candidate:
    return Candidate(
        number=int(raw["number"]),
        origin=str(raw.get("origin", "ask")),
        setting=str(raw.get("setting") or f"#{raw['number']}"),
        params=dict(raw.get("params") or {}),
        state=str(raw["state"]),
        values=_values(raw.get("values")),
        stops={int(k): float(v) for k, v in (raw.get("stops") or {}).items() if v is not None},
        constraints={k: float(v) for k, v in (raw.get("constraints") or {}).items() if v is not None},
        feasible=raw.get("feasible") is not False,
        error=raw.get("error"),
        runs=list(raw.get("runs") or []),
    )


def _values(raw: Mapping[str, Mapping[str, float | None]] | None) -> dict[str, dict[int, float]]:
    return {
        metric: {int(seed): float(v) for seed, v in sorted(by_seed.items()) if v is not None}
        for metric, by_seed in (raw or {}).items()
    }
