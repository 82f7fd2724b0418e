"""Claims: who launches the worker of a run directory, without a moment in which nobody knows.

The launcher locks claim.json (flock), and the worker inherits the locked descriptor. So the claim is held
from before the worker exists until it is gone, whoever dies in between, and two launchers cannot both start
a worker. `worker.lock`, which the worker takes itself, comes later and also covers runs started by hand.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trb_lab.store import locks
from trb_lab.store.processes import is_alive, on_this_host
from trb_lab.store.run_dir import RunDir


def take(run_dir: RunDir, launcher: str, gpus: Sequence[str] = ()) -> int | None:
    """Claim the run directory for a worker that is about to start; None when somebody holds it already.

    Returns an open descriptor: pass it to the worker and close it here. `gpus` are noted so that a later
    driver knows which are taken.
    """
    if locks.is_held(run_dir.lock):
        return None
    descriptor = os.open(run_dir.claim, os.O_RDWR | os.O_CREAT, 0o644)
    for _ in range(5):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            time.sleep(0.02)  # a status query takes a lock for an instant
    else:
        os.close(descriptor)
        return None
    write(descriptor, launcher, os.getpid(), gpus)
    return descriptor


def write(descriptor: int, launcher: str, pid: int, gpus: Sequence[str] = ()) -> None:
    """Write the claim into its locked file: in place, because a renamed file would leave the lock behind."""
    claim = {
        "time": time.time(),
        "pid": pid,
        "host": socket.gethostname(),
        "launcher": launcher,
        "driver_pid": os.getpid(),
        "gpus": list(gpus),
    }
    text = json.dumps(claim).encode()
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))


def live_worker(run_dir: RunDir) -> dict[str, Any] | None:
    """Who works on the run directory now ({"pid", "host", "time", ...}), or None when nobody does."""
    for path in (run_dir.lock, run_dir.claim):
        if locks.is_held(path):
            return _read(path)
    return None


def _read(path: Path) -> dict[str, Any]:
    """The owner's note; tried twice, because the owner may be writing it."""
    found = locks.owner(path)
    if not found:
        time.sleep(0.02)
        found = locks.owner(path)
    return found


def claimed_by(run_dir: RunDir) -> dict[str, Any]:
    """The claim of a live launched worker; empty when the worker was started by hand or there is none."""
    return _read(run_dir.claim) if locks.is_held(run_dir.claim) else {}


def led_by_other(run_dir: RunDir) -> bool:
    """Whether the live worker was started by hand, or by a driver that lives and is not this process."""
    claim = claimed_by(run_dir)
    driver = claim.get("driver_pid")
    if not on_this_host(claim.get("host")) or not isinstance(driver, int):
        return True
    return driver != os.getpid() and is_alive(driver)


def send_signal(run_dir: RunDir, number: int) -> str | None:
    """Signal the live worker of a run directory. Returns why that was impossible, or None when it was sent.

    SIGKILL goes to the worker's whole process group (grading processes included) where it leads one.
    """
    worker = live_worker(run_dir)
    if worker is None:
        return "no worker is running"
    pid, host = worker.get("pid"), worker.get("host")
    if not on_this_host(host):
        return f"its worker runs on {host}: do it there"
    if not isinstance(pid, int) or pid == os.getpid():
        return "its worker has not said its process id yet: try again"
    try:
        if number == signal.SIGKILL and os.getpgid(pid) == pid:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        return None
    except PermissionError:
        return f"process {pid} belongs to somebody else"
    return None
