"""The candidates of a search, put together from its log and the run directories."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trb_lab.search.measures import Measured
from trb_lab.spec.search_arm import SearchArm
from trb_lab.store.run_dir import RunDir, Store
from trb_lab.store.search_log import Decision

RunState = Literal["waiting", "running", "paused", "completed", "failed", "cancelled", "interrupted"]
CandidateState = Literal["running", "paused", "complete", "failed"]
ENDED_BADLY = ("failed", "cancelled")


@dataclass
class SearchRun:
    """One run of a candidate (or of the reference, for a confirmation)."""

    row: Mapping[str, Any]
    run_dir: RunDir
    state: RunState = "waiting"
    steps_done: int = 0
    measured: Measured = field(default_factory=Measured)
    error: str | None = None
    whole: bool = False
    """Never paused: something else wants all of it."""

    @property
    def run_id(self) -> str:
        return self.run_dir.run_id

    @property
    def seed(self) -> int:
        return int(self.row["seed"])

    @property
    def eval_sets(self) -> dict[str, str]:
        return dict(self.row["eval_sets"])


@dataclass
class Candidate:
    """One setting of a search. Its value is the mean over seeds."""

    number: int
    decision: Decision
    arm: SearchArm
    runs: dict[int, SearchRun]
    """Seed -> run: the starting seeds first, then what the race added."""
    allowed: int
    """Updates that its starting runs may make: a stop, or the whole run's steps."""

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.decision.params)

    @property
    def setting(self) -> str:
        return self.arm.setting(self.number, self.params)

    @property
    def starting(self) -> list[SearchRun]:
        """Runs that it stands or falls with: those that it was proposed with, whatever the seeds are now."""
        return [self.runs[int(row["seed"])] for row in self.decision.rows]

    @property
    def state(self) -> CandidateState:
        runs = self.starting
        if any(run.state in ENDED_BADLY for run in runs):
            return "failed"
        if all(run.state == "completed" for run in runs):
            return "complete"
        if self.allowed < self.arm.steps and all(self._waits(run) for run in runs):
            return "paused"
        return "running"

    def _waits(self, run: SearchRun) -> bool:
        return run.state == "completed" or (run.state == "paused" and run.steps_done >= self.allowed)

    @property
    def is_active(self) -> bool:
        """Whether a worker is at one of its runs, or is going to be."""
        return any(run.state in ("waiting", "running") for run in self.runs.values())

    def values(self, quantity: str) -> dict[int, float]:
        """Seed -> the quantity, of the completed runs."""
        return {
            seed: run.measured.values[quantity]
            for seed, run in self.runs.items()
            if run.state == "completed" and quantity in run.measured.values
        }

    def mean(self, quantity: str) -> float | None:
        """Over its completed runs; None before every starting seed has one."""
        found = self.values(quantity)
        if self.state != "complete" or not found:
            return None
        return statistics.fmean(found.values())

    def at_stops(self) -> dict[int, float]:
        """Stop -> mean of the first goal over the starting seeds, where all of them have reached it."""
        found = {}
        for stop in self.arm.stops:
            values = [run.measured.stops.get(stop) for run in self.starting]
            known = [v for v in values if v is not None]
            if known and len(known) == len(values):
                found[stop] = statistics.fmean(known)
        return found

    @property
    def error(self) -> str | None:
        """Why it failed."""
        return next((run.error or run.state for run in self.starting if run.state in ENDED_BADLY), None)


def candidates_of(arm: SearchArm, decided: Sequence[Decision], store: Store) -> dict[int, Candidate]:
    """The candidates that the log names, in order, their runs not looked at yet."""
    found: dict[int, Candidate] = {}
    for decision in decided:
        if decision.number is None:
            continue
        if decision.event == "proposal":
            runs = {int(row["seed"]): SearchRun(row, store.trial(row["run_id"])) for row in decision.rows}
            first = arm.stops[0] if arm.stops else arm.steps
            found.setdefault(decision.number, Candidate(decision.number, decision, arm, runs, first))
        elif decision.event == "replicate" and decision.number in found:
            for row in decision.rows:
                run = SearchRun(row, store.trial(row["run_id"]), whole=True)
                found[decision.number].runs.setdefault(run.seed, run)
    return found
