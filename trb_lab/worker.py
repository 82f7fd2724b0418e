"""The life of a worker inside a run directory: lock, attempt, signals, provenance, how it ended."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from trb_lab.errors import LabError
from trb_lab.store import locks
from trb_lab.store.metrics import NonFiniteMetric
from trb_lab.store.run_dir import RunDir
from trb_lab.store.status import TrialState, begin_attempt, end_attempt

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class Stopped(LabError):
    """The run was asked to stop and has saved its state."""

    exit_code = 130


class RunLost(LabError):
    """An alarm rang; `error_class` is its name."""

    def __init__(self, error_class: str, message: str) -> None:
        self.error_class = error_class
        super().__init__(message)


@dataclass
class StopFlag:
    """Set by the first stop signal; the second one ends the process at once."""

    raised: bool = False

    def __call__(self) -> bool:
        return self.raised

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.raised:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.raised = True

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


def error_class(error: BaseException) -> str:
    """One of store.status.ERROR_CLASSES: what the report and `sweep --retry-failed` tell apart."""
    if isinstance(error, RunLost):
        return error.error_class
    if isinstance(error, NonFiniteMetric):
        return "nan"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "oom"
    return "user" if isinstance(error, LabError) else "code"


@contextmanager
def attempt_at(run_dir: RunDir) -> Iterator[tuple[int, StopFlag]]:
    """One attempt: the block runs with the lock held, and its end is logged whatever it is.

    Yields the attempt's number and the stop flag. `Stopped` ends it as interrupted, any other exception as failed;
    a normal end as completed (write result.json before). Raises Locked when another worker is at it.
    """
    with locks.hold(run_dir.lock, f"run {run_dir.run_id}"):
        number = begin_attempt(run_dir)
        with StopFlag().installed() as flag:
            try:
                yield number, flag
            except Stopped as stop:
                end_attempt(run_dir, number, TrialState.INTERRUPTED, error=str(stop))
                raise
            except KeyboardInterrupt:
                end_attempt(run_dir, number, TrialState.INTERRUPTED, error="interrupted from the keyboard")
                raise
            except BaseException as error:
                end_attempt(
                    run_dir,
                    number,
                    TrialState.FAILED,
                    error=f"{type(error).__name__}: {error}"
                    if not isinstance(error, LabError)
                    else str(error),
                    error_class=error_class(error),
                    traceback=traceback.format_exc(),
                )
                raise
            end_attempt(run_dir, number, TrialState.COMPLETED)
