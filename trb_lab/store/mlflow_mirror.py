"""The mirror: what the files of a store hold, shown in MLflow, once or as they grow.

Files are the truth, MLflow is the view: this may die at any moment, and a dead server delays and loses
nothing. One process writes at a time (mirror.lock, taken for one pass).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from .mlflow_pass import Mirror, SyncStatus
from .processes import is_alive, start_ticks
from .run_dir import Store

POLL_SECONDS = 2.0
LONGEST_BACKOFF_SECONDS = 60.0
GRACE_SECONDS = 60.0
"""How long follow mode still tries a dead server after the process it follows has gone."""
BUSY_SECONDS = 60.0
"""How long a one-shot sync waits for another writer's pass to end."""

Echo = Callable[[str], None]


def sync_store(
    store: Store,
    tracking_uri: str | None = None,
    sweep: str | None = None,
    *,
    follow: bool = False,
    until_pid: int | None = None,
    deadline_seconds: float | None = None,
    poll_seconds: float = POLL_SECONDS,
    stop: Callable[[], bool] | None = None,
    echo: Echo | None = None,
) -> SyncStatus:
    """Show in MLflow what the store's files hold, once or (`follow`) as they grow.

    One-shot: waits up to BUSY_SECONDS (or `deadline_seconds`) for another writer, then returns a status; `ok`
    is False when the server does not answer; nothing is lost: the next sync catches up.
    Follow: polls until `until_pid` has gone, no trial runs and everything is shown (a dead server is tried
    for GRACE_SECONDS more), or until `stop()` is true (one last pass is made), or until `deadline_seconds`
    are over.

    Raises MissingExtra without MLflow, UsageError for a sweep that the store does not have.
    """
    mirror = Mirror(store, tracking_uri, sweep)
    say = echo or (lambda text: None)
    if follow:
        return _follow(mirror, until_pid, deadline_seconds, poll_seconds, stop or (lambda: False), say)
    give_up = time.monotonic() + (BUSY_SECONDS if deadline_seconds is None else deadline_seconds)
    while True:
        status = mirror.sync_once()
        if status.ok or not (status.reason or "").startswith("busy") or time.monotonic() > give_up:
            break
        time.sleep(0.5)
    if not status.ok:
        say(f"MLflow is behind ({status.reason}). Files are complete; `trb-lab sync` catches up.")
    return status


def _follow(
    mirror: Mirror,
    until_pid: int | None,
    deadline_seconds: float | None,
    poll_seconds: float,
    stop: Callable[[], bool],
    say: Echo,
) -> SyncStatus:
    began = time.monotonic()
    started = start_ticks(until_pid) if until_pid is not None else None
    gone_since: float | None = None
    pause = poll_seconds
    behind = False
    while True:
        # Looked at before the pass, so that the pass after the last sign of life sees everything.
        stopped = stop()
        if until_pid is not None and gone_since is None and not is_alive(until_pid, started):
            gone_since = time.monotonic()
        status = mirror.sync_once()
        unreachable = (status.reason or "").startswith("unreachable")
        if unreachable != behind:
            behind = unreachable
            say(f"MLflow is {status.reason}; trying again" if behind else "MLflow answers again: caught up")
        now = time.monotonic()
        pause = min(2 * pause, LONGEST_BACKOFF_SECONDS) if unreachable else poll_seconds
        grace_over = gone_since is not None and now - gone_since > GRACE_SECONDS
        complete = gone_since is not None and status.running == 0 and not unreachable
        too_late = deadline_seconds is not None and now - began > deadline_seconds
        if stopped or too_late or (complete and (status.ok or grace_over)) or (unreachable and grace_over):
            return status
        _pause(pause, until_pid if gone_since is None else None, started, stop)


def _pause(seconds: float, until_pid: int | None, started: int | None, stop: Callable[[], bool]) -> None:
    """Sleep, and wake up early when the followed process goes or somebody asks to stop."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if stop() or (until_pid is not None and not is_alive(until_pid, started)):
            return
        time.sleep(min(left, 0.25))
