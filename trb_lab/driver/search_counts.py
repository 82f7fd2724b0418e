"""How far a search has come: what the plan tells, and what the estimate of the rest is made from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from trb_lab.driver.candidates import Candidate, SearchRun
from trb_lab.driver.plan import PlannedSearch
from trb_lab.driver.search_state import SearchState
from trb_lab.launch.progress import ProgressReader
from trb_lab.store.run_dir import RunDir, Store, newest_checkpoint
from trb_lab.store.status import TrialState

ENDED = ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class SearchCounts:
    """A search as it stands."""

    planned: PlannedSearch
    candidates: Mapping[int, Candidate]
    """By number; those that the space still holds."""
    confirmations: tuple[SearchRun, ...]
    """Runs of the last confirmation."""

    @property
    def asked(self) -> int:
        """Candidates that a sampler proposed: they count towards `trials`."""
        return self._of("ask")

    @property
    def known(self) -> int:
        """Settings that finished trials of the store had tried before."""
        return self._of("warm")

    @property
    def grid(self) -> int:
        """Settings of the arm's grid."""
        return self._of("grid")

    def _of(self, origin: str) -> int:
        return sum(c.decision.origin == origin for c in self.candidates.values())

    @property
    def left(self) -> int:
        """Candidates that are still to be asked for."""
        return max(0, self.planned.arm.spec.trials - self.asked)

    def states(self) -> dict[str, int]:
        """Candidates by state; every state is a key."""
        counts = dict.fromkeys(("complete", "paused", "failed", "running"), 0)
        for candidate in self.candidates.values():
            counts[candidate.state] += 1
        return counts

    def sentence(self) -> str:
        """`trb: search (tpe) of 40 settings, 12 asked for (and 3 known before): 5 complete, 6 paused, ...`."""
        arm = self.planned.arm
        more = [(self.known, "known before"), (self.grid, "of the grid")]
        beside = ", ".join(f"{count} {what}" for count, what in more if count)
        asked = f"{self.asked} asked for" + (f" (and {beside})" if beside else "")
        states = ", ".join(f"{count} {state}" for state, count in self.states().items())
        return (
            f"{arm.name}: search ({arm.spec.sampler.kind}) of {arm.spec.trials} settings, {asked}: {states}"
        )

    def certain(self) -> list[tuple[str, list[SearchRun]]]:
        """What is decided already and not done: settings, with the runs that have something to do."""
        found = []
        for candidate in self.candidates.values():
            runs = [run for run in candidate.runs.values() if is_open(candidate, run)]
            if runs:
                found.append((candidate.setting, runs))
        for run in self.confirmations:
            if run.state not in ENDED:
                found.append((f"confirmation of {run.row['arm']} {run.row['setting']}".rstrip(), [run]))
        return found

    def as_json(self) -> dict[str, Any]:
        """What `--dry-run --json` says of it, all numbers of candidates."""
        spec = self.planned.arm.spec
        return {
            "sampler": spec.sampler.kind,
            "trials": spec.trials,
            "asked": self.asked,
            "known": self.known,
            "grid": self.grid,
            "left": self.left,
            **self.states(),
            "certain": [
                {"setting": setting, "runs": [{"run_id": r.run_id, "seed": r.seed, "state": r.state} for r in runs]}
                for setting, runs in self.certain()
            ],
        }  # fmt: skip


def is_open(candidate: Candidate, run: SearchRun) -> bool:
    """Whether a run of a candidate is to go on without any further decision."""
    if run.state in ENDED or candidate.state == "failed":
        return False
    return run.state != "paused" or run.whole or run.steps_done < candidate.allowed


def counts_of(search: SearchState) -> SearchCounts:
    """A search that was read already."""
    return SearchCounts(search.planned, search.candidates, tuple(search.confirmations))


def count_search(planned: PlannedSearch, store: Store, whole: Collection[str] = ()) -> SearchCounts:
    """Read how a search stands. `whole`: run ids that the plan wants to their end anyway."""
    return counts_of(SearchState(planned, store, whole))


def steps_done(run_dir: RunDir, state: TrialState) -> int | None:
    """Updates that need not be made again; None for a completed run."""
    if state is TrialState.COMPLETED:
        return None
    if state is TrialState.NEW:
        return 0
    if state is TrialState.RUNNING:
        return ProgressReader(run_dir).read().done
    name = newest_checkpoint(run_dir) or ""
    return int(name.removeprefix("step_")) if name.removeprefix("step_").isdigit() else 0
