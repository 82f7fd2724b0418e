"""The life of a worker inside a run directory: lease, attempt, signals, provenance, how it ended."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from trb_lab.errors import LabError
from trb_lab.failpoints import reach
from trb_lab.store import locks
from trb_lab.store.disk import DiskTrouble, disk_trouble
from trb_lab.store.metrics import NonFiniteMetric
from trb_lab.store.run_dir import RunDir, write_json
from trb_lab.store.status import TrialState, begin_attempt, end_attempt

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class Stopped(LabError):
    """The run was asked to stop and has saved its state."""

    exit_code = 130


class Interrupted(Stopped):
    """Raised in the middle of interruptible work: what it was at is lost, nothing that was complete is."""

    def __init__(self) -> None:
        super().__init__("stopped; the same command goes on from here")


class Paused(LabError):
    """The run has come as far as its search lets it for now, and has saved its state."""

    exit_code = 0


class RunLost(LabError):
    """An alarm rang; `error_class` is its name."""

    def __init__(self, error_class: str, message: str) -> None:
        self.error_class = error_class
        super().__init__(message)


@dataclass
class StopFlag:
    """Raised by the first stop signal. Clusters repeat signals, so only a second Ctrl-C ends the process at once."""

    raised: bool = False
    _interrupts: bool = field(default=False, repr=False)
    _from_keyboard: int = field(default=0, repr=False)

    def __call__(self) -> bool:
        return self.raised

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._from_keyboard += number == signal.SIGINT
        if self._from_keyboard > 1:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.raised = True
        if self._interrupts:
            self._interrupts = False  # once: a repeated signal must not disturb what the first one set off
            raise Interrupted

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """The block may be dropped at any moment: a stop signal raises Interrupted inside it, an earlier one at once.

        For work that only computes. What writes files, or changes the state that a checkpoint holds, is not for it.
        """
        self._interrupts = True
        try:
            if self.raised:
                raise Interrupted
            yield
        finally:
            self._interrupts = False

    @contextmanager
    def installed(self) -> Iterator[StopFlag]:
        """Handle the stop signals for the block (in the main thread; elsewhere nobody can send us one)."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        old = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


@dataclass(frozen=True)
class Attempt:
    """What a worker has while it lives."""

    number: int
    stop: StopFlag
    fence: Callable[[], None]
    """Raises locks.Lost when another worker has the run directory now. Call it before anything is written there."""


def error_class(error: BaseException) -> str:
    """One of store.status.ERROR_CLASSES: what the report and `sweep --retry-failed` tell apart."""
    if isinstance(error, RunLost):
        return error.error_class
    if isinstance(error, NonFiniteMetric):
        return "nan"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "oom"
    if isinstance(error, DiskTrouble):
        return "disk"
    return "user" if isinstance(error, LabError) else "code"


@contextmanager
def lease_of(run_dir: RunDir) -> Iterator[locks.Lease]:
    """The run directory's lease for the block. Raises Locked when another worker is at it.

    In a cluster's job (TRB_LAB_JOB, TRB_LAB_INCARNATION) it is taken from the job's earlier incarnations, which the
    cluster has ended, and a worker of another machine that gives no sign of life is waited for.
    """
    job, incarnation = os.environ.get("TRB_LAB_JOB"), int(os.environ.get("TRB_LAB_INCARNATION") or 0)

    def is_earlier(owner: Mapping[str, Any]) -> bool:
        return owner.get("job") == job and owner.get("incarnation", incarnation) < incarnation

    what = f"run {run_dir.run_id}"
    if job is None:
        with locks.hold(run_dir.lock, what) as lease:
            yield lease
        return
    note, patience = {"job": job, "incarnation": incarnation}, locks.LEASE_SECONDS + locks.BEAT_SECONDS
    with locks.hold(run_dir.lock, what, note=note, may_take=is_earlier, wait=patience) as lease:
        yield lease


@contextmanager
def attempt_at(run_dir: RunDir) -> Iterator[Attempt]:
    """One attempt: the block runs with the lease held, and its end is logged whatever it is.

    `Paused` ends it as paused, `Stopped` as interrupted, any other exception as failed; a normal end as completed
    (write result.json before). Raises Locked when another worker is at it. `Lost` leaves everything to the worker that
    came after.
    """
    with lease_of(run_dir) as lease, StopFlag().installed() as stop:
        reach("worker.start.after")
        number = begin_attempt(run_dir)

        def end(state: TrialState, **how: str) -> None:
            lease.check()
            end_attempt(run_dir, number, state, **how)

        try:
            yield Attempt(number, stop, lease.check)
        except locks.Lost:
            raise
        except Paused:
            end(TrialState.PAUSED)
            raise
        except Stopped as stopped:
            end(TrialState.INTERRUPTED, error=str(stopped))
            raise
        except KeyboardInterrupt:
            end(TrialState.INTERRUPTED, error="interrupted from the keyboard")
            raise
        except BaseException as error:
            trouble = disk_trouble(error)
            failed = trouble or error
            text = str(failed) if isinstance(failed, LabError) else f"{type(error).__name__}: {error}"
            how = {"error": text, "error_class": error_class(failed), "traceback": traceback.format_exc()}
            if trouble is None:
                end(TrialState.FAILED, **how)
                raise
            try:
                end(TrialState.FAILED, **how)
            except OSError:
                # No room for that line either: the attempt stays open, and the next one begins all the same.
                print(f"{run_dir.attempts} could not be written either.")
            raise trouble from error
        end(TrialState.COMPLETED)


def write_result(run_dir: RunDir, result: Mapping[str, Any], fence: Callable[[], None]) -> None:
    """Write result.json: from then on the trial is completed."""
    fence()
    reach("worker.result.before")
    write_json(run_dir.result, result)
    reach("worker.result.after")
