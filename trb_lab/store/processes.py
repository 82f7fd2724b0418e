"""Whether a process lives, also when its id was given to another since."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot (Linux); None where that cannot be told."""
    try:
        # The command name, in brackets, may hold blanks: count the fields after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def is_alive(pid: int, started: int | None = None) -> bool:
    """Whether `pid` runs on this host (a zombie does not), and, given `started`, is the same process."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # lives, and belongs to somebody else
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        state = "?"
    if state in ("Z", "X"):
        return False
    return started is None or start_ticks(pid) in (None, started)


def on_this_host(host: object) -> bool:
    return host == socket.gethostname()
