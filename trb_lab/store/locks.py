"""Advisory locks that a dead process releases by dying (flock), with the owner's name in the file."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trb_lab.errors import LabError


class Locked(LabError):
    """Another live process holds the lock."""


def owner(path: Path) -> dict[str, Any]:
    """Who last took the lock: {"pid", "host", "time"}; empty when the file says nothing readable."""
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def is_held(path: Path) -> bool:
    """Whether a live process holds the lock now."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


@contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold the lock for the block. Raises Locked, naming the owner, when another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # A status query takes the lock for an instant; try again before believing that somebody lives.
        for attempt in range(20):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 19:
                    who = owner(path)
                    raise Locked(
                        f"{what} is in use by process {who.get('pid', '?')} on {who.get('host', '?')} "
                        f"({path}). Wait for it, or stop it first."
                    ) from None
                time.sleep(0.05)
        os.ftruncate(descriptor, 0)
        who = {"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
        os.pwrite(descriptor, json.dumps(who).encode(), 0)
        yield
    finally:
        os.close(descriptor)
