"""What can be told of a worker that has ended, from its run directory and its launcher's word."""

from __future__ import annotations

import re
import signal
from typing import Any

from trb_lab.store.run_dir import RunDir
from trb_lab.store.status import TrialState, attempts, begin_attempt, end_attempt, last_error

from .base import JobStatus, last_lines


def error_line(run_dir: RunDir) -> str:
    """Why the last attempt failed, in one line."""
    return str((last_error(run_dir) or {}).get("error") or "failed without a message; see its log")


def how_it_died(run_dir: RunDir, status: JobStatus) -> str:
    """What can be said of a worker that said nothing: signal or exit code, and its last words."""
    if status.exit_code is None:
        reason = "worker died unseen"
    elif was_killed(status):
        number = -status.exit_code
        try:
            reason = f"worker killed by {signal.Signals(number).name}"
        except ValueError:
            reason = f"worker killed by signal {number}"
    else:
        reason = f"worker exited with code {status.exit_code}"
    printed = next((line.strip() for line in reversed(last_lines(run_dir.log, 20)) if line.strip()), "")
    return f"{reason}; its log ends with: {printed[:300]}" if printed else reason


def record_failure(run_dir: RunDir, error: str, error_class: str = "killed") -> None:
    """Log a failure for a worker that could not do so, so that every reader of the run finds it."""
    events = attempts(run_dir)
    open_attempt = events[-1].get("attempt") if events and events[-1]["event"] == "start" else None
    number = begin_attempt(run_dir) if open_attempt is None else int(open_attempt)
    end_attempt(run_dir, number, TrialState.FAILED, error=error, error_class=error_class)


def signature(error: dict[str, Any]) -> str:
    """The same for one bug whatever its numbers are: the last place of the traceback, and the error without digits."""
    lines = [line.strip() for line in str(error.get("traceback") or "").splitlines() if line.strip()]
    place = next((line for line in reversed(lines) if line.startswith("File ")), "")
    return f"{place}\n{re.sub(r'[0-9]+', '#', str(error.get('error')))}"


def was_killed(status: JobStatus) -> bool:
    """Whether a signal ended the worker."""
    return status.exit_code is not None and status.exit_code < 0


def ended_itself(run_dir: RunDir) -> bool:
    """Whether the last worker saved and ended because it was asked to (rather than being killed)."""
    events = attempts(run_dir)
    return bool(events) and events[-1]["event"] == "end"


def mark(run_dir: RunDir) -> tuple[int, int] | None:
    """Changes whenever something is logged about the run's attempts."""
    try:
        stat = run_dir.attempts.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_size
