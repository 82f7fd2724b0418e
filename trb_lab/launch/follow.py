"""Follows jobs to their end: starts them, starts killed ones again, and says what became of each.

The launcher knows who is alive, the run directory what came of it. Here the two are put together.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from trb_lab.failpoints import reach
from trb_lab.store.locks import Lost
from trb_lab.store.pauses import pause_after, set_pause
from trb_lab.store.run_dir import newest_checkpoint, read_json
from trb_lab.store.status import (
    TrialState,
    last_error,
    missing_sets,
    state_of,
)
from trb_lab.store.status import cancel as mark_cancelled

from . import claim
from .base import End, Job, JobStatus, Launcher, Phase
from .endings import ended_itself, error_line, how_it_died, mark, record_failure, signature, was_killed
from .progress import ProgressReader

MAX_RESTARTS = 2
"""Times that a killed worker is started again within one driver run."""
SAME_FAILURES = 3
"""So many trials that fail alike, before any has succeeded, and no more are started."""

TAKEN_AWAY = {
    End.TIME_LIMIT: "its job reached the time limit",
    End.NODE_FAILURE: "its node failed",
    End.PREEMPTED: "its job was preempted",
}
"""Ends that are the cluster's doing: the trial goes on from its checkpoint."""

Standing = Literal["waiting", "running", "paused", "completed", "failed", "interrupted", "cancelled"]


@dataclass
class Member:
    """One job on its way."""

    job: Job
    steps: int = 0
    """Training steps of the whole run; 0 where the job trains nothing."""
    eval_sets: Mapping[str, str] = field(default_factory=dict)
    """Evaluation sets that the result must hold: name -> fingerprint."""
    until: int | None = None
    """Updates after which it pauses (its search decides what then); None trains to the end."""
    standing: Standing = "waiting"
    error: str | None = None
    restarts: int = 0
    began: float | None = None
    """Clock of the last start that was seen here."""
    began_at_step: int | None = None
    """Updates that were made when it was first seen to run."""
    seconds: float = 0.0
    """Time that its workers have run, as far as seen here."""
    status: JobStatus | None = None
    """What the launcher said last."""
    began_with: tuple[str | None] | None = None
    """The newest checkpoint when its present worker began; None where that was not seen."""
    progress: ProgressReader = field(init=False)

    def __post_init__(self) -> None:
        self.progress = ProgressReader(self.job.run_dir)

    @property
    def run_id(self) -> str:
        return self.job.run_id

    @property
    def ended(self) -> bool:
        return self.standing not in ("waiting", "running")


@dataclass(frozen=True)
class Event:
    """Something that happened to a member, with what there is to say about it."""

    member: Member
    what: Literal["started", "attached", "waits", "restarts", "ended"]
    detail: str = ""


class Fleet:
    """All jobs of one driver run. Call `tick` about once a second until `done`."""

    def __init__(self, launcher: Launcher, members: Sequence[Member]) -> None:
        """Submits every member in the given order, and attaches to those that have a live worker."""
        self.launcher = launcher
        self.members = {member.run_id: member for member in members}
        self.stopping = False
        self.restarts: int = getattr(launcher, "restarts", MAX_RESTARTS)
        """Times that a trial is started again after its cluster took its job."""
        self.halted: str | None = None
        """The traceback that the first trials had in common, once nothing more is started because of it."""
        self.succeeded_before = False
        """Whether a trial is known to have completed, or to have paused at its stop: the code works, and nothing is
        halted. Set it where that was before this fleet began."""
        self._events: list[Event] = []
        self._marks: dict[str, tuple[int, int] | None] = {}
        live = {m.run_id for m in members if claim.live_worker(m.job.run_dir) is not None}
        # Those that live hold their slots already, so they come before anything new.
        for member in members:
            if member.run_id in live:
                self._attach(member)
        for member in members:
            if member.run_id not in live:
                self._submit(member)

    def add(self, member: Member) -> None:
        """Start (or attach to) one more job; one that has ended here may come again, such as a paused one."""
        self.members[member.run_id] = member
        if claim.live_worker(member.job.run_dir) is not None:
            self._attach(member)
        else:
            self._submit(member)

    def extend(self, member: Member, until: int | None) -> None:
        """Let a job train on until more updates are made (None: to its end). It never gets less than it has."""
        if member.until is not None and (until is None or until > member.until):
            member.until = until
            set_pause(member.job.run_dir, until)

    @property
    def free(self) -> int:
        """Jobs that could start at once."""
        return max(0, self.launcher.slots - sum(not m.ended for m in self.members.values()))

    @property
    def done(self) -> bool:
        """Whether nothing is left to wait for (while stopping, not for workers that others lead)."""
        left = (m for m in self.members.values() if not m.ended)
        return all(self.stopping and claim.led_by_other(m.job.run_dir) for m in left)

    def tick(self) -> list[Event]:
        """Move everything on by one look; returns what happened, in order."""
        self._drop_cancelled()
        for run_id, status in list(self.launcher.poll().items()):
            member = self.members.get(run_id)
            if member is None or member.ended:
                continue
            member.status = status
            if status.phase is Phase.RUNNING and member.standing == "waiting":
                self._begin(member, "started")
            elif status.phase is Phase.WAITING and member.standing == "running":
                self._pause(member, status)
            elif status.phase is Phase.ENDED:
                reach("driver.result.before")
                self._settle(member, status)
                reach("driver.result.after")
        for member in self.members.values():
            if member.standing == "running":
                member.progress.read()
        events, self._events = self._events, []
        return events

    def stop(self, *, kill: bool = False) -> None:
        """Start nothing more and ask the workers to save and end (`kill`: end at once, and resume later).

        Workers that were started by hand, or by a driver of another sweep that lives, are left alone.
        """
        self.stopping = True
        for member in self.members.values():
            if member.standing == "waiting":
                self.launcher.cancel(member.run_id)
                member.standing = "interrupted"
            elif member.standing == "running" and not claim.led_by_other(member.job.run_dir):
                self.launcher.cancel(member.run_id, kill=kill)

    def _submit(self, member: Member) -> None:
        member.job.prepare()  # now, so that a waiting trial can be looked at and cancelled
        if member.steps:
            set_pause(member.job.run_dir, member.until)
        self._marks[member.run_id] = mark(member.job.run_dir)
        self.launcher.submit(member.job)

    def _attach(self, member: Member) -> None:
        after = pause_after(member.job.run_dir) if member.steps else None
        if after is not None and (member.until is None or after < member.until):
            set_pause(member.job.run_dir, member.until)  # whoever started it wanted less of it
        self._marks[member.run_id] = mark(member.job.run_dir)
        self.launcher.attach(member.job)
        self._begin(member, "attached")

    def _begin(self, member: Member, what: Literal["started", "attached"]) -> None:
        member.standing, member.began = "running", time.monotonic()
        done = member.progress.read().done
        member.began_with = (newest_checkpoint(member.job.run_dir),) if what == "started" else None
        member.began_at_step = done if member.began_at_step is None else member.began_at_step
        self._events.append(Event(member, what))

    def _pause(self, member: Member, status: JobStatus) -> None:
        """The cluster put a running job back into its queue."""
        self._stop_clock(member)
        member.standing = "waiting"
        self._events.append(Event(member, "waits", status.where))

    def _stop_clock(self, member: Member) -> None:
        if member.began is not None:
            member.seconds += time.monotonic() - member.began
            member.began = None

    def _drop_cancelled(self) -> None:
        """Take out of the queue what somebody cancelled since it was put there."""
        for member in self.members.values():
            if member.standing != "waiting" or mark(member.job.run_dir) == self._marks[member.run_id]:
                continue
            # Else the mark stays: a worker that comes and goes between two looks has logged something since.
            if state_of(member.job.run_dir) == TrialState.CANCELLED:
                self.launcher.cancel(member.run_id)
                self._end(member, "cancelled")

    def _settle(self, member: Member, status: JobStatus) -> None:
        """The worker is gone: what came of it?"""
        run_dir = member.job.run_dir
        self._stop_clock(member)
        member.progress.read()
        if claim.live_worker(run_dir) is not None:  # ours found another at work and left
            self._attach(member)
            return
        state = state_of(run_dir)
        # Nothing was logged since the submission: what state_of tells is of the attempt before.
        silent = mark(run_dir) == self._marks[member.run_id]
        if state == TrialState.COMPLETED:
            self._settle_completed(member, status)
        elif state == TrialState.PAUSED and not silent:
            self._settle_paused(member)
        elif state == TrialState.FAILED and not silent:
            self._end(member, "failed", error_line(run_dir))
        elif state == TrialState.CANCELLED and not silent:
            self._end(member, "cancelled")
        elif status.end is End.CANCELLED:
            if state != TrialState.CANCELLED:
                mark_cancelled(run_dir, f"its job {status.job} was cancelled")
            self._end(member, "cancelled")
        elif status.end in TAKEN_AWAY and not self.stopping:
            self._settle_taken_away(member, status)
        elif status.end is End.OUT_OF_MEMORY:
            self._fail(
                member,
                f"its job {status.job} ran out of memory: raise resources.mem or the profile's mem",
                "oom",
            )
        elif self.stopping or self._was_asked(member, status, silent):
            self._end(member, "interrupted", "its worker was asked to stop")
        else:
            self._settle_died(member, status, silent)

    def _was_asked(self, member: Member, status: JobStatus, silent: bool) -> bool:
        """Whether somebody wanted the worker to stop."""
        run_dir = member.job.run_dir
        if self.launcher.outlives_driver:  # a cluster signals workers for reasons of its own
            return run_dir.stop_request.exists()
        # SIGTERM ends a worker that has not set up its handler yet.
        return (ended_itself(run_dir) and not silent) or status.exit_code == -signal.SIGTERM

    def _settle_completed(self, member: Member, status: JobStatus) -> None:
        run_dir = member.job.run_dir
        missing = missing_sets(read_json(run_dir.result) or {}, member.eval_sets)
        if not missing:
            self._end(member, "completed")
        elif self.stopping:
            self._end(member, "interrupted", f"not yet evaluated on {', '.join(missing)}")
        elif status.end is End.CANCELLED or (self.launcher.outlives_driver and run_dir.stop_request.exists()):
            self._end(member, "cancelled", f"not evaluated on {', '.join(missing)}")
        elif status.end in TAKEN_AWAY and member.restarts < self.restarts:
            self._restart(member, TAKEN_AWAY[status.end])
        elif member.restarts < MAX_RESTARTS and (status.exit_code in (0, None) or was_killed(status)):
            self._restart(member, f"evaluates {', '.join(missing)}")
        else:
            self._end(
                member,
                "failed",
                f"not evaluated on {', '.join(missing)}: {how_it_died(member.job.run_dir, status)}",
            )

    def _settle_paused(self, member: Member) -> None:
        """It stands where a search wanted it to: ours, or another one that shares the run."""
        done = member.progress.latest.done
        if self.stopping or (member.until is not None and done >= member.until):
            self._end(member, "paused", f"after {done} steps")
        elif member.restarts < MAX_RESTARTS:
            self._restart(member, f"another sweep's search paused it after {done} steps")
        else:
            self._end(member, "interrupted", f"another sweep's search keeps pausing it after {done} steps")

    def _settle_died(self, member: Member, status: JobStatus, silent: bool) -> None:
        """No result, and no word from the worker about its end: it was killed, or could not begin."""
        reason = how_it_died(member.job.run_dir, status)
        fenced = status.exit_code == Lost.exit_code  # another worker had the trial, and has left since
        could_not_begin = (
            silent and not fenced and not was_killed(status) and status.exit_code not in (0, None)
        )
        if not could_not_begin and member.restarts < MAX_RESTARTS:
            self._restart(member, reason)
            return
        if not could_not_begin:
            reason = f"{member.restarts + 1} workers died in a row, the last: {reason}"
        self._fail(member, reason, "killed")

    def _settle_taken_away(self, member: Member, status: JobStatus) -> None:
        """The cluster ended it. It goes on from its checkpoint, unless that leads nowhere."""
        assert status.end is not None
        reason = TAKEN_AWAY[status.end] + (f" ({status.job})" if status.job else "")
        saved = (newest_checkpoint(member.job.run_dir),)
        if status.end is End.TIME_LIMIT and member.steps and member.began_with == saved:
            self._fail(
                member,
                f"{reason} before one more step was saved: raise `time`",
                "time_limit",
            )
        elif member.restarts >= self.restarts:
            kind = "time_limit" if status.end is End.TIME_LIMIT else "node_failure"
            self._fail(member, f"{reason}, and it was started again {member.restarts} times before", kind)
        else:
            self._restart(member, reason)

    def _fail(self, member: Member, reason: str, error_class: str) -> None:
        record_failure(member.job.run_dir, reason, error_class)
        self._end(member, "failed", reason)

    def _restart(self, member: Member, why: str) -> None:
        member.restarts += 1
        member.standing = "waiting"
        self._submit(member)
        self._events.append(Event(member, "restarts", why))

    def _end(self, member: Member, standing: Standing, error: str | None = None) -> None:
        member.standing, member.error = standing, error
        # Kept, because one that has paused may be at work again by the time that others fail.
        self.succeeded_before |= member.steps > 0 and standing in ("completed", "paused")
        self._events.append(Event(member, "ended", error or ""))
        if standing == "failed" and self.halted is None:
            self._halt_if_all_fail_alike()

    def _halt_if_all_fail_alike(self) -> None:
        """Start nothing more where the first trials have died of the same error in the code."""
        trials = [m for m in self.members.values() if m.steps]
        failed = [m for m in trials if m.standing == "failed"]
        if len(failed) != SAME_FAILURES or self.succeeded_before:
            return
        errors = [last_error(m.job.run_dir) or {} for m in failed]
        if any(e.get("error_class") != "code" for e in errors) or len({signature(e) for e in errors}) > 1:
            return
        self.halted = str(errors[0].get("traceback") or errors[0].get("error"))
        for member in self.members.values():
            if member.standing == "waiting":
                self.launcher.cancel(member.run_id)
                member.standing = "interrupted"
