"""The state of a trial, told from its files alone, and the attempts log that it is told from.

result.json alone means completed; a held worker lock means running; else the last line of attempts.jsonl
decides.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from trb_lab.errors import LabError

from . import locks
from .processes import is_alive, on_this_host
from .run_dir import RunDir, append_line, read_json

CLAIM_SECONDS = 30.0
"""How long a launcher's claim counts before the worker has taken its lock."""


class TrialState(StrEnum):
    NEW = "new"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    PAUSED = "paused"
    """Saved and ended at a step that its search named; goes on when the search says so."""
    CANCELLED = "cancelled"


LEGAL: dict[TrialState, frozenset[TrialState]] = {
    TrialState.NEW: frozenset({TrialState.RUNNING, TrialState.CANCELLED}),
    TrialState.RUNNING: frozenset(
        {
            TrialState.COMPLETED,
            TrialState.FAILED,
            TrialState.INTERRUPTED,
            TrialState.PAUSED,
            TrialState.CANCELLED,
        }
    ),
    TrialState.PAUSED: frozenset({TrialState.RUNNING, TrialState.CANCELLED}),
    TrialState.INTERRUPTED: frozenset({TrialState.RUNNING, TrialState.CANCELLED}),
    TrialState.FAILED: frozenset({TrialState.RUNNING, TrialState.CANCELLED}),
    TrialState.CANCELLED: frozenset({TrialState.RUNNING}),
    TrialState.COMPLETED: frozenset(),
}
"""Where a trial may go from each state. A completed trial stays completed."""

ERROR_CLASSES = (
    "code",
    "oom",
    "nan",
    "length_explosion",
    "kl_blow_up",
    "user",
    "disk",
    "killed",
    "time_limit",
    "node_failure",
)


class IllegalTransition(LabError):
    """A state that cannot follow the present one."""


def check_transition(run_dir: RunDir, old: TrialState, new: TrialState) -> None:
    """Raises IllegalTransition, which names what is allowed."""
    if new not in LEGAL[old]:
        allowed = ", ".join(sorted(LEGAL[old])) or "nothing"
        raise IllegalTransition(f"{run_dir.path}: a {old} trial cannot become {new} (allowed: {allowed}).")


def attempts(run_dir: RunDir) -> list[dict[str, Any]]:
    """Every event of attempts.jsonl in order; lines that a dying worker tore are left out."""
    try:
        text = run_dir.attempts.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    events = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") in ("start", "end"):
            events.append(event)
    return events


def attempt_count(run_dir: RunDir) -> int:
    """How many attempts have begun."""
    return sum(event["event"] == "start" for event in attempts(run_dir))


def _append(run_dir: RunDir, event: dict[str, Any]) -> None:
    append_line(run_dir.attempts, json.dumps(event, sort_keys=True, allow_nan=False))


def _logged_state(events: list[dict[str, Any]]) -> TrialState:
    """The state that the attempts log tells, when no worker lives."""
    if not events:
        return TrialState.NEW
    last = events[-1]
    if last["event"] == "start":
        return TrialState.INTERRUPTED
    try:
        state = TrialState(last.get("state", "interrupted"))
    except ValueError:
        return TrialState.INTERRUPTED
    # Ended as completed and no result.json: somebody removed it, and a resume writes it again.
    return TrialState.INTERRUPTED if state is TrialState.COMPLETED else state


def _claimed(run_dir: RunDir, events: list[dict[str, Any]]) -> bool:
    """Whether a launcher has just started a worker that has not taken its lock yet."""
    try:
        claim = read_json(run_dir.claim)
        age = time.time() - float(claim["time"])
        pid = int(claim["pid"])
    except (ValueError, TypeError, KeyError):
        return False
    if age > CLAIM_SECONDS or (events and events[-1].get("time", 0.0) >= claim["time"]):
        return False  # too old, or the worker that it announced has come and gone
    return is_alive(pid) if on_this_host(claim.get("host")) else True


def state_of(run_dir: RunDir) -> TrialState:
    """The trial's state now. A completed run is completed whatever else its directory holds."""
    if run_dir.result.exists():
        return TrialState.COMPLETED
    if locks.is_held(run_dir.lock):
        return TrialState.RUNNING
    events = attempts(run_dir)
    if _claimed(run_dir, events):
        return TrialState.RUNNING
    # The worker may have finished between the first look and the lock's release.
    return TrialState.COMPLETED if run_dir.result.exists() else _logged_state(events)


def last_error(run_dir: RunDir) -> dict[str, Any] | None:
    """Why the last attempt did not complete: `{"attempt", "error_class", "error", "traceback"}`, or None.

    A worker that died without a word is `error_class` "killed". The values may be None, except `error`.
    """
    events = attempts(run_dir)
    if not events or state_of(run_dir) in (TrialState.COMPLETED, TrialState.RUNNING):
        return None
    last = events[-1]
    if last["event"] == "start":
        who = f"process {last.get('pid', '?')} on {last.get('host', '?')}"
        who += f", in job {last['job']}" if "job" in last else ""
        text = f"the worker ({who}) died without a word: killed, out of memory, or its machine went away"
        return {"attempt": last.get("attempt"), "error_class": "killed", "error": text, "traceback": None}
    if not last.get("error"):
        return None
    return {key: last.get(key) for key in ("attempt", "error_class", "error", "traceback")}


def missing_sets(result: dict[str, Any], wanted: Mapping[str, str]) -> list[str]:
    """Names of the wanted sets (name -> fingerprint) that a result.json has no score of."""
    entries = (((result.get("final") or {}).get("sets")) or {}).values()
    scored = {entry.get("fingerprint") for entry in entries}
    return sorted(name for name, print_ in wanted.items() if print_ not in scored)


def begin_attempt(run_dir: RunDir) -> int:
    """Log the start of an attempt and return its 1-based number. Called by the worker that holds the lock.

    Raises IllegalTransition for a completed trial.
    """
    events = attempts(run_dir)
    old = TrialState.COMPLETED if run_dir.result.exists() else _logged_state(events)
    check_transition(run_dir, old, TrialState.RUNNING)
    number = max((int(e.get("attempt", 0)) for e in events), default=0) + 1
    stamp: dict[str, Any] = {"time": time.time(), "pid": os.getpid(), "host": socket.gethostname()}
    if job := os.environ.get("TRB_LAB_JOB"):
        stamp["job"] = job
    _append(run_dir, {"attempt": number, "event": "start", **stamp})
    return number


def end_attempt(
    run_dir: RunDir,
    attempt: int,
    state: TrialState | str,
    *,
    error: str | None = None,
    error_class: str | None = None,
    traceback: str | None = None,
) -> None:
    """Log how the attempt ended. Write result.json before a `completed` end; `error` is cut to one line.

    Raises IllegalTransition when the attempt is not open or the state is not an end.
    """
    state = TrialState(state)
    if error_class is not None and error_class not in ERROR_CLASSES:
        raise ValueError(f"error_class is {error_class!r}, allowed are {ERROR_CLASSES}")
    check_transition(run_dir, TrialState.RUNNING, state)
    events = attempts(run_dir)
    if not events or events[-1]["event"] != "start" or events[-1].get("attempt") != attempt:
        raise IllegalTransition(f"{run_dir.path}: attempt {attempt} is not open, it cannot end as {state}.")
    event: dict[str, Any] = {"attempt": attempt, "event": "end", "time": time.time(), "state": str(state)}
    if error is not None:
        event["error"] = (error.strip().splitlines() or [""])[0]
    if error_class is not None:
        event["error_class"] = error_class
    if traceback is not None:
        event["traceback"] = traceback
    _append(run_dir, event)


def cancel(run_dir: RunDir, reason: str | None = None) -> None:
    """Mark a trial that nobody runs as cancelled; a running one raises IllegalTransition."""
    old = state_of(run_dir)
    if old is TrialState.RUNNING:
        raise IllegalTransition(f"{run_dir.path} is running: stop its worker, then cancel it.")
    check_transition(run_dir, old, TrialState.CANCELLED)
    number = max((int(e.get("attempt", 0)) for e in attempts(run_dir)), default=0)
    event: dict[str, Any] = {"attempt": number, "event": "end", "time": time.time(), "state": "cancelled"}
    if reason:
        event["error"] = reason
    _append(run_dir, event)
