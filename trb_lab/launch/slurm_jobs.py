"""What became of the jobs in a store's batch records: Slurm's word and the files', put together.

Slurm says which elements live, the elements' own logs which of their runs have begun or are over, the run
directories what came of it. Where Slurm does not answer, contradicts itself or names a state that nobody knows,
a job counts as alive: a second worker would be worse than a late one.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from trb_lab.store.run_dir import Store

from . import slurm_commands as slurm
from .base import SILENT, End, JobStatus, Phase
from .batches import Batch, BatchFiles, Event, close, submitted
from .slurm_commands import Line, SlurmError
from .slurm_pickles import name_pickles
from .slurm_states import Standing, standing

GONE_SECONDS = 60.0
"""A job that the queue no longer shows counts as gone after so long, if the accounting cannot say how it ended."""
UNBORN_SECONDS = 60.0
"""A job whose submission nobody answered counts as never submitted, if it has not shown up after so long."""


@dataclass(frozen=True)
class Place:
    """One run in one job element."""

    batch: Batch
    index: int
    run: str
    status: JobStatus

    @property
    def run_id(self) -> str:
        return self.run.rpartition("/")[2]


@dataclass
class JobBook:
    """Follows every open batch of a store. `look` asks Slurm once for all of them."""

    store: Store
    sweep: str | None = None
    """The sweep whose driver asks: it alone notes ids that were lost, since it holds the sweep's lease."""
    patient: bool = True
    """Wait before a job counts as gone. A single look has no time for that."""
    problem: str | None = None
    """Why the last look at Slurm failed, if it did."""
    _files: BatchFiles = field(init=False)
    _last: dict[tuple[str, int], Standing] = field(default_factory=dict)
    """The newest standing of each (token, element); what has ended stays so."""
    _missing_since: dict[tuple[str, int], float] = field(default_factory=dict)
    _unborn_since: dict[str, float] = field(default_factory=dict)
    _noted_for_good: dict[tuple[str, int], dict[str, Event]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._files = BatchFiles(self.store)

    def look(self) -> list[Place]:
        """The place of every run in an open batch. Never raises for a Slurm that does not answer."""
        batches = self._files.open()
        if not batches:
            self.problem = None
            return []
        try:
            lines = {(line.element, line.name): line for line in slurm.queue()}
            self.problem = None
        except SlurmError as error:
            lines, self.problem = None, str(error)
        batches = [self._identified(batch, lines) for batch in batches]
        if lines is not None:
            self._take(batches, lines)
            for batch in batches:  # a driver's or a report's: nobody has to see how it ended
                if batch.what != "trials" and (self.never_submitted(batch) or not self.lives(batch, 0)):
                    close(batch)
        return [place for batch in batches for place in self._places(batch)]

    def lives(self, batch: Batch, index: int) -> bool:
        return not self._standing(batch, index).over

    def never_submitted(self, batch: Batch) -> bool:
        """Whether a batch without an id has not shown up in the queue for long enough to be given up."""
        since = self._unborn_since.get(batch.token)
        if batch.job_id is not None or since is None:
            return False
        # A driver that died long ago was not answered since.
        return max(time.monotonic() - since, time.time() - batch.created) >= UNBORN_SECONDS

    def _identified(self, batch: Batch, lines: dict[tuple[str, str], Line] | None) -> Batch:
        """A batch whose id was never noted, with the id that Slurm knows by its name."""
        if batch.job_id is not None or lines is None:
            return batch
        ids = {element.split("_")[0] for element, name in lines if name == batch.name}
        job_id = max(ids, key=int) if ids else None
        if job_id is None:
            try:
                job_id = slurm.job_named(batch.name, since=batch.created)
            except SlurmError:
                return batch
        if job_id is None:
            self._unborn_since.setdefault(batch.token, time.monotonic())
            return batch
        self._unborn_since.pop(batch.token, None)
        if batch.sweep != self.sweep:  # its own driver may be in the middle of the submission
            return replace(batch, job_id=job_id)
        name_pickles(batch, job_id)
        return submitted(batch, job_id)

    def _take(self, batches: Sequence[Batch], lines: dict[tuple[str, str], Line]) -> None:
        """Note what the queue says, and ask the accounting for what it no longer shows."""
        missing: list[tuple[Batch, int]] = []
        for batch in batches:
            for index in range(len(batch.elements) if batch.job_id is not None else 0):
                key = (batch.token, index)
                if key in self._last and self._last[key].over:
                    continue
                line = lines.get((batch.element(index), batch.name))
                if line is None:  # it is gone, or the id is somebody else's by now
                    missing.append((batch, index))
                else:
                    self._last[key] = standing(line.state, line.reason, line.node)
                    self._missing_since.pop(key, None)
        if missing:
            self._ask_accounting(missing)

    def _ask_accounting(self, missing: Sequence[tuple[Batch, int]]) -> None:
        try:
            known = {
                (line.element, line.name): line
                for line in slurm.accounting({str(b.job_id) for b, _ in missing})
            }
        except SlurmError:
            known = {}  # no accounting on this cluster, or none now: the queue and the files have to do
        for batch, index in missing:
            key = (batch.token, index)
            line = known.get((batch.element(index), batch.name))
            told = None if line is None else standing(line.state, node=line.node)
            since = self._missing_since.setdefault(key, time.monotonic())
            if told is not None and told.over:
                self._last[key] = told
            elif not self.patient or time.monotonic() - since >= GONE_SECONDS:
                # The queue is the authority on what lives; the accounting lags, or never heard of it.
                self._last[key] = Standing(Phase.ENDED, End.UNSEEN)
            else:
                self._last[key] = replace(
                    self._standing(batch, index), where="left the queue; how is not known yet"
                )

    def _standing(self, batch: Batch, index: int) -> Standing:
        known = self._last.get((batch.token, index))
        if known is not None:
            return known if self.problem is None or known.over else replace(known, where=SILENT)
        if batch.job_id is None:
            return Standing(Phase.WAITING, where="submitted; the cluster has not named it yet")
        return Standing(Phase.RUNNING, where=SILENT if self.problem else "")

    def _places(self, batch: Batch) -> Iterator[Place]:
        for index, runs in enumerate(batch.elements):
            element = self._standing(batch, index)
            events = self._noted(batch, index, element)
            job = batch.element(index) if batch.job_id is not None else ""
            for run in runs:
                status = _of_run(element, events.get(run), len(runs) > 1)
                yield Place(batch, index, run, replace(status, job=job))

    def _noted(self, batch: Batch, index: int, element: Standing) -> dict[str, Event]:
        """What an element has noted of its runs; that of one that is over is read once."""
        key = (batch.token, index)
        if key not in self._noted_for_good:
            found = batch.log(index).last()
            if not element.over:
                return found
            self._noted_for_good[key] = found
        return self._noted_for_good[key]


def _of_run(element: Standing, event: Event | None, packed: bool) -> JobStatus:
    """Where a run stands, from its element's standing and the last that the element noted of it."""
    if event is not None and event.event == "end":
        if event.exit_code != -signal.SIGKILL:
            return JobStatus(Phase.ENDED, event.exit_code, End.EXITED, event.node)
        if element.over:  # only Slurm can tell whether memory was the reason
            memory = element.end is End.OUT_OF_MEMORY
            return JobStatus(
                Phase.ENDED, event.exit_code, End.OUT_OF_MEMORY if memory else End.EXITED, event.node
            )
        return JobStatus(Phase.RUNNING, where=event.node)
    # Its turn never came: nothing is noted of it, or that its job had to end first (which has no exit code).
    unbegun = event is None or (event.event == "interrupted" and event.exit_code is None)
    if element.over and packed and unbegun and element.end in (End.TIME_LIMIT, End.OUT_OF_MEMORY):
        return JobStatus(Phase.ENDED, None, End.PREEMPTED, element.where)
    if element.over:
        # A worker that saved and left says why; else it is as Slurm says.
        saved = event is not None and event.event == "interrupted" and element.end in (End.EXITED, End.UNSEEN)
        end = event.end if saved and event is not None else element.end
        return JobStatus(Phase.ENDED, None, End.UNSEEN if end is End.EXITED else end, element.where)
    if element.phase is Phase.RUNNING and packed and (event is None or event.event != "start"):
        return JobStatus(Phase.WAITING, where=f"its turn in the job on {element.where}".strip())
    return JobStatus(element.phase, where=element.where)


def places(store: Store) -> dict[str, JobStatus]:
    """The live state of every run in an open batch, by run id; the newest where several hold it.

    Empty where nothing was submitted; asks Slurm twice at most, and not at all then.
    """
    return {place.run_id: place.status for place in JobBook(store, patient=False).look()}


def command_jobs(store: Store, sweep: str, what: str = "driver") -> dict[str, JobStatus]:
    """Jobs of a sweep that run no trial (its driver, its report) and have not ended, by job id."""
    book = JobBook(store, patient=False)
    book.look()
    found = {}
    for batch in BatchFiles(store).open():
        if batch.sweep == sweep and batch.what == what and batch.job_id is not None and book.lives(batch, 0):
            element = book._standing(batch, 0)
            found[batch.job_id] = JobStatus(element.phase, where=element.where, job=batch.job_id)
    return found
