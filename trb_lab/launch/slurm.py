"""Trials as Slurm jobs: keeps a cluster supplied within its limits, and follows what it was given.

submitit writes the batch script, calls sbatch and starts our supervisor (slurm_task.py) on the node. Everything
else that it offers (states, results, requeues) is done from files and Slurm's own words (slurm_jobs.py), because a
driver may die at any moment and another must find what it left.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

from trb_lab.failpoints import reach
from trb_lab.spec.cluster import ClusterProfile
from trb_lab.spec.experiment import ResourcesSpec
from trb_lab.store.run_dir import Store
from trb_lab.store.status import TrialState, state_of
from trb_lab.store.status import cancel as mark_cancelled

from . import batches, claim, slurm_commands
from .base import End, Job, JobStatus, Phase, last_lines
from .batches import Batch, Piece
from .endings import record_failure
from .slurm_cancel import cancel_places
from .slurm_commands import SlurmError
from .slurm_jobs import UNBORN_SECONDS, JobBook, Place
from .slurm_submit import Full, Refused, Unanswered, require_submitit, sbatch

FULL_SECONDS = 15.0
"""After the cluster took no more jobs, the next try waits so long, and longer each time."""
MOST_FULL_SECONDS = 300.0
HELD = "requeued held"
"""Of the reason that Slurm gives for a job that it could not launch again (its node came back too soon, say)."""


def worker_argv(job: Job) -> list[str]:
    """The worker's command on a node; the interpreter is the supervisor's own (see Piece)."""
    return ["-m", "trb_lab.cli", job.verb, "--run-dir", str(job.run_dir.path)]


class SlurmLauncher:
    """Keeps a cluster supplied with jobs, within its limits, and follows them."""

    name = "slurm"
    outlives_driver = True

    def __init__(
        self,
        store: Store,
        profile: ClusterProfile,
        sweep: str,
        slots: int | None = None,
        command: Callable[[Job], list[str]] = worker_argv,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        """`slots` bounds our jobs in the queue, running ones included; None takes the profile's `max_jobs`.

        `check` is called before each submission, and raises where another driver has taken over. Raises SlurmError
        where Slurm cannot be reached.
        """
        self.store, self.profile, self.sweep = store, profile, sweep
        self.most_jobs = slots or profile.max_jobs
        self.slots = min(self.most_jobs or 10**6, profile.array_parallelism) * profile.pack_parallel
        self.poll_seconds = profile.poll_seconds
        self.restarts = profile.restarts
        self.waits_for = ""
        """Why nothing more is submitted at present."""
        self._command, self._check = command, check
        require_submitit()
        self._array_size = slurm_commands.largest_array()
        self._book = JobBook(store, sweep)
        self._jobs: dict[str, Job] = {}
        self._waiting: dict[str, Job] = {}
        self._placed: dict[str, tuple[str, int]] = {}
        """Run id -> token and index of the job element that has it."""
        self._attached: dict[str, Job] = {}
        self._ended: dict[str, JobStatus] = {}
        self._places: list[Place] = []
        self._released: set[str] = set()
        self._unwanted: dict[str, bool] = {}
        """Run ids to cancel at the next look, and whether to kill: one scancel for all of them."""
        self._profiles: dict[ResourcesSpec, ClusterProfile] = {}
        self._next_try, self._pause, self._chunk = 0.0, FULL_SECONDS, self._array_size
        self._look()
        newest = {place.run: place for place in self._places}.values()
        self.settled = frozenset(place.run_id for place in newest if _learn(store, place))

    def submit(self, job: Job) -> None:
        self._accept(job)
        self._waiting[job.run_id] = job

    def attach(self, job: Job) -> None:
        self._accept(job)
        self._attached[job.run_id] = job

    def poll(self) -> Mapping[str, JobStatus]:
        self._close_batches()  # of the last look: by now the follower has written down how they ended
        self._look()
        self._cancel_unwanted()
        self._adopt()
        if self._waiting and time.monotonic() >= self._next_try:
            self._feed()
        statuses = {
            **self._ended,
            **{run_id: JobStatus(Phase.WAITING, where=self.waits_for) for run_id in self._waiting},
        }
        current = {(p.batch.token, p.index, p.run_id): p.status for p in self._places}
        for run_id, (token, index) in list(self._placed.items()):
            # A place that is no longer listed was closed by another driver, which had seen it end.
            status = current.get((token, index, run_id), JobStatus(Phase.ENDED, end=End.UNSEEN))
            statuses[run_id] = status
            if status.phase is Phase.ENDED:
                del self._placed[run_id]
                self._ended[run_id] = status
        for run_id, job in list(self._attached.items()):
            if claim.live_worker(job.run_dir) is not None:
                statuses[run_id] = JobStatus(Phase.RUNNING)
            else:
                del self._attached[run_id]
                statuses[run_id] = self._ended[run_id] = self._last_word(run_id)
        return statuses

    def cancel(self, run_id: str, *, kill: bool = False) -> None:
        if self._waiting.pop(run_id, None) is not None:
            self._ended[run_id] = JobStatus(Phase.ENDED)
        elif run_id in self._attached:
            claim.send_signal(self._attached[run_id].run_dir, 9 if kill else 15)
        elif run_id in self._placed:
            self._unwanted[run_id] = kill

    def logs(self, run_id: str, lines: int = 50) -> list[str]:
        return last_lines(self._jobs[run_id].run_dir.log, lines)

    def close(self) -> None:
        """The jobs are the cluster's, and stay, but for those that were to be cancelled."""
        self._cancel_unwanted()

    def submit_all(self) -> tuple[int, int]:
        """Submit what fits now, and come back: how many trials have a job, and how many are left."""
        self._adopt()
        self._feed()
        until = time.monotonic() + 2 * UNBORN_SECONDS
        while any(p.batch.job_id is None for p in self._places) and time.monotonic() < until:
            time.sleep(self.poll_seconds)  # sbatch was not answered: nobody will look for the job later
            self.poll()
        return len(self._jobs) - len(self._waiting), len(self._waiting)

    def job_ids(self) -> list[str]:
        """Slurm's ids of this sweep's trials, as far as they are not over."""
        live = [p for p in self._places if p.batch.sweep == self.sweep and p.status.phase is not Phase.ENDED]
        return sorted({p.batch.job_id for p in live if p.batch.job_id})

    def _accept(self, job: Job) -> None:
        if job.run_id in self._waiting or job.run_id in self._placed or job.run_id in self._attached:
            raise ValueError(f"{job.run_id} is already submitted")
        self._ended.pop(job.run_id, None)
        self._jobs[job.run_id] = job

    def _look(self) -> None:
        self._places = self._book.look()
        for job in {p.status.job for p in self._places if HELD in p.status.where} - self._released:
            self._released.add(job)  # once: what is held again has a reason that we do not know
            with contextlib.suppress(SlurmError):
                slurm_commands.release(job)

    def _adopt(self) -> None:
        """Follow jobs that hold our runs already, whoever submitted them, and workers that somebody else leads."""
        live = {p.run_id: (p.batch.token, p.index) for p in self._places if p.status.phase is not Phase.ENDED}
        for run_id in [*self._waiting, *self._attached]:
            if run_id in live:
                self._placed[run_id] = live[run_id]
                self._waiting.pop(run_id, None)
                self._attached.pop(run_id, None)
        for run_id, job in list(self._waiting.items()):
            if claim.live_worker(job.run_dir) is not None:
                self._attached[run_id] = self._waiting.pop(run_id)

    def _cancel_unwanted(self) -> None:
        for kill in (False, True):
            chosen = {run_id for run_id, killed in self._unwanted.items() if killed is kill}
            if chosen:
                cancel_places(self.store, self._places, chosen, kill)
        self._unwanted.clear()

    def _last_word(self, run_id: str) -> JobStatus:
        """How a run ended whose worker seemed to live on for a while, as one on another node does until its
        heartbeat is stale."""
        told = [p.status for p in self._places if p.run_id == run_id and p.status.phase is Phase.ENDED]
        told = [status for status in told if status.end not in (None, End.EXITED)]
        return told[-1] if told else JobStatus(Phase.ENDED)

    def _close_batches(self) -> None:
        """Of this sweep alone: the driver of another one has to see first how its jobs ended."""
        found: dict[str, list[Place]] = {}
        for place in self._places:
            found.setdefault(place.batch.token, []).append(place)
        for places in found.values():
            batch = places[0].batch
            if batch.sweep != self.sweep or batch.what != "trials":
                continue
            if batch.job_id is None:
                if self._book.never_submitted(batch):
                    self._take_back(batch)
            elif all(p.status.phase is Phase.ENDED and p.run_id not in self._attached for p in places):
                batches.close(batch)

    def _take_back(self, batch: Batch) -> None:
        """Its sbatch was never answered and the cluster does not know it: its runs wait again."""
        batches.discard(batch)
        for run_id, (token, _) in list(self._placed.items()):
            if token == batch.token:
                del self._placed[run_id]
                self._waiting[run_id] = self._jobs[run_id]

    def _feed(self) -> None:
        """Submit what there is room for, one array for each need of resources."""
        groups: dict[ResourcesSpec, list[Job]] = {}
        for job in self._waiting.values():
            groups.setdefault(job.resources, []).append(job)
        for resources, jobs in groups.items():
            if resources not in self._profiles:
                self._profiles[resources] = self.profile.for_trial(resources)
            profile = self._profiles[resources]
            while jobs:
                size = min(self._room(), self._chunk) * profile.pack
                if size <= 0:
                    self.waits_for = f"waits for one of our {self.most_jobs} jobs in the queue to end"
                    return
                part, jobs = jobs[:size], jobs[size:]
                try:
                    self._submit(profile, part)
                except Full as full:
                    if len(part) > profile.pack:  # perhaps fewer fit
                        self._chunk = max(1, len(part) // profile.pack // 2)
                        jobs = part + jobs
                        continue
                    self._wait(f"the cluster takes no more jobs of ours now: {full}")
                    return
                except Unanswered as error:
                    self._wait(str(error))
                    return
                self.waits_for, self._pause = "", FULL_SECONDS
                self._chunk = min(2 * self._chunk, self._array_size)

    def _wait(self, why: str) -> None:
        self.waits_for = why
        self._next_try = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, MOST_FULL_SECONDS)

    def _room(self) -> int:
        """Job elements that may still be submitted under our own bound."""
        if self.most_jobs is None:
            return 10**6
        held = set(self._placed.values())
        return max(0, self.most_jobs - len(held) - len(self._attached))

    def _submit(self, profile: ClusterProfile, jobs: Sequence[Job]) -> None:
        """One sbatch. Whatever comes of it, the batch record tells the next driver."""
        self._check()
        for job in jobs:
            job.prepare()
            job.run_dir.stop_request.unlink(missing_ok=True)  # of an earlier job, which has obeyed
        pieces = [self._piece(job) for job in jobs]
        elements = [pieces[i : i + profile.pack] for i in range(0, len(pieces), profile.pack)]
        reach("driver.claim.before")
        names = [[str(piece.run) for piece in element] for element in elements]
        batch = batches.create(self.store, self.sweep, "trials", profile.name or "", names)
        reach("driver.claim.after")
        try:
            job_id = sbatch(self.store, batch, profile, elements)
        except Full:
            batches.discard(batch)
            raise
        except Refused as error:
            batches.discard(batch)
            if self._placed and "job submit limit" in str(error):  # old Slurm names no limit, but means one
                raise Full(str(error)) from None
            raise
        except Unanswered:
            self._place(
                batch, jobs, profile.pack
            )  # it counts as submitted until Slurm says that it never was
            raise
        batch = batches.submitted(batch, job_id)
        reach("driver.id.after")
        self._place(batch, jobs, profile.pack)

    def _place(self, batch: Batch, jobs: Sequence[Job], pack: int) -> None:
        for number, job in enumerate(jobs):
            del self._waiting[job.run_id]
            index = number // pack
            self._placed[job.run_id] = (batch.token, index)
            run = batch.elements[index][number % pack]
            name = batch.element(index) if batch.job_id else ""
            self._places.append(
                Place(batch, index, run, JobStatus(Phase.WAITING, where="submitted", job=name))
            )

    def _piece(self, job: Job) -> Piece:
        run = job.run_dir.path.relative_to(self.store.root)
        return Piece(self._command(job), str(job.run_dir.log), str(run))


def _learn(store: Store, place: Place) -> bool:
    """Write down how a job ended that nobody followed, where its worker could not say so itself.

    Returns whether that settles the trial: it is cancelled, or failed, and not to be run without being asked for.
    """
    run_dir, job = batches.run_dir(store, place.run), f"Slurm job {place.status.job}"
    if place.status.phase is not Phase.ENDED or not run_dir.path.exists():
        return False
    # A paused one whose search let it go on waits in the queue as a new one does.
    if state_of(run_dir) not in (TrialState.NEW, TrialState.INTERRUPTED, TrialState.PAUSED):
        return False
    if place.status.end is End.OUT_OF_MEMORY:
        record_failure(run_dir, f"{job} ran out of memory", "oom")
        return True
    if place.status.end is End.CANCELLED:
        mark_cancelled(run_dir, f"{job} was cancelled")
        return True
    return False
