"""What a run of a sweep does about one run directory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum

from trb_lab.driver.retry import ending_class, is_wanted
from trb_lab.launch.base import JobStatus, Phase
from trb_lab.launch.claim import live_worker
from trb_lab.store.run_dir import RunDir, read_json
from trb_lab.store.status import TrialState, missing_sets, state_of


class Action(StrEnum):
    """What a run of the sweep does about a trial or a reference."""

    NEW = "new"
    ADOPT = "adopt"
    """Completed, by this sweep or another: its result is taken as it is."""
    RESUME = "resume"
    """Interrupted, or paused by a search: goes on from its last checkpoint."""
    ATTACH = "attach"
    """A worker is at it, or a cluster has its job: followed."""
    RETRY = "retry"
    """Failed or cancelled in a way that --retry-failed names."""
    EVALUATE = "evaluate"
    """Completed without an evaluation set that the spec names now: its final checkpoint is evaluated."""
    FAILED = "failed"
    CANCELLED = "cancelled"


NOTHING_TO_DO = frozenset({Action.ADOPT, Action.FAILED, Action.CANCELLED})


def decide(
    run_dir: RunDir, eval_sets: Mapping[str, str], retry: Collection[str], places: Mapping[str, JobStatus]
) -> tuple[Action, str | None]:
    """What is to be done about one run directory, and the class of its end where it failed or was cancelled."""
    if not run_dir.path.exists():
        return Action.NEW, None
    state = state_of(run_dir)
    place = places.get(run_dir.run_id)
    live = live_worker(run_dir) is not None or (place is not None and place.phase is not Phase.ENDED)
    if state == TrialState.COMPLETED:
        if not missing_sets(read_json(run_dir.result) or {}, eval_sets):
            return Action.ADOPT, None
        return (Action.ATTACH if live else Action.EVALUATE), None
    if live or state == TrialState.RUNNING:
        return Action.ATTACH, None
    if state in (TrialState.FAILED, TrialState.CANCELLED):
        kind = ending_class(run_dir, state)
        return (Action.RETRY if is_wanted(kind, retry) else Action(state.value)), kind
    begun = state in (TrialState.INTERRUPTED, TrialState.PAUSED)
    return (Action.RESUME if begun else Action.NEW), None
