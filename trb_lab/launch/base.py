"""What every launcher does: submit, attach, poll, cancel, logs.

A launcher starts workers and says which are alive. It never decides what a run's state is: that is read from
the run directory, where the worker leaves it. So inline, process and cluster launchers share one interface
and one conformance suite (tests/launch/conformance.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

from trb_lab.spec.experiment import ResourcesSpec
from trb_lab.store.run_dir import RunDir


@dataclass(frozen=True)
class Job:
    """One worker to be run on one run directory. Its key everywhere is the directory's run id."""

    run_dir: RunDir
    verb: Literal["run", "eval"] = "run"
    """`run` trains a trial, `eval` evaluates a reference model."""
    resources: ResourcesSpec = field(default_factory=lambda: ResourcesSpec.model_validate({}))

    prepare: Callable[[], object] = lambda: None
    """Makes the run directory ready; called again just before the worker starts, should somebody have removed it."""

    @property
    def run_id(self) -> str:
        return self.run_dir.run_id


class Phase(StrEnum):
    """Where a job stands with its launcher."""

    WAITING = "waiting"
    """Accepted, not started."""
    RUNNING = "running"
    """A worker lives, or may live: what cannot be known counts as alive."""
    ENDED = "ended"
    """No worker lives. What came of it stands in the run directory."""


SILENT = "Slurm does not answer"
"""A job's `where` while its cluster cannot be asked."""


class End(StrEnum):
    """What ended a job, as far as its launcher can tell."""

    EXITED = "exited"
    """The worker left by itself; `exit_code` says how."""
    CANCELLED = "cancelled"
    """Somebody took it away on purpose."""
    TIME_LIMIT = "time_limit"
    OUT_OF_MEMORY = "out_of_memory"
    NODE_FAILURE = "node_failure"
    PREEMPTED = "preempted"
    """A job of higher priority took its place, and it was not put back into the queue."""
    UNSEEN = "unseen"
    """It is gone, and nobody can say why."""


@dataclass(frozen=True)
class JobStatus:
    """What a launcher knows of one job."""

    phase: Phase
    exit_code: int | None = None
    """Of an ended worker; minus the signal's number when one killed it; None where nobody could see it."""
    end: End | None = None
    """Set for an ended job by launchers that know more than an exit code."""
    where: str = ""
    """The node that a job runs on, or why it waits."""
    job: str = ""
    """The cluster's own name for it, such as `1234_5`."""


class Launcher(Protocol):
    """Starts workers. Calls come from one thread."""

    name: str
    """`inline`, `local` or `slurm`."""
    slots: int
    """Jobs at once, attached ones included."""
    poll_seconds: float
    """How often a look is worth its cost."""
    outlives_driver: bool
    """Whether jobs that wait or run go on when the driver leaves (they are a cluster's, not this machine's)."""

    settled: frozenset[str]
    """Runs of which the launcher found, when it was made, that they ended for good while nobody looked."""

    def submit(self, job: Job) -> None:
        """Queue a job. Its run id may be submitted again once it has ended, not before (ValueError)."""

    def attach(self, job: Job) -> None:
        """Follow a worker that somebody else started; it takes a slot for as long as it lives."""

    def poll(self) -> Mapping[str, JobStatus]:
        """Start what there is room for; tell every job's status by run id."""

    def cancel(self, run_id: str, *, kill: bool = False) -> None:
        """Take a waiting job out of the queue; ask a running one to save and end (`kill`: end it at once).

        Returns at once: poll tells when the job has ended. An ended job is left alone.
        """

    def logs(self, run_id: str, lines: int = 50) -> list[str]:
        """The last lines that the job's worker printed."""

    def close(self) -> None:
        """The driver leaves. Jobs stay as they are."""


def last_lines(path: Path, lines: int) -> list[str]:
    """The last `lines` lines of a log; empty where there is none. Reads the end of the file only."""
    if lines <= 0:
        return []
    try:
        with open(path, "rb") as f:
            f.seek(0, 2)
            start = max(0, f.tell() - 400 * lines)
            f.seek(start)
            text = f.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return list(deque(text.splitlines(), maxlen=lines))
