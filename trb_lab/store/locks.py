"""Leases: locks that a dead process releases by dying, and that a process which lost one finds out about.

A lease is a file that its owner keeps locked (flock) and in which it writes who it is and, every BEAT_SECONDS, that
it lives. On one machine the flock tells the truth at once. File systems that machines share do not always pass flocks
on, so an owner on another machine counts as long as its last beat is younger than LEASE_SECONDS.

Each owner has a file of its own: whoever takes the lease makes a new one, locks it and renames it onto the path. So an
earlier owner that still runs keeps its lock on, and beats into, a file that nobody sees; `Lease.check` tells it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trb_lab.errors import LabError

from .processes import on_this_host

LEASE_SECONDS = 60.0
"""An owner on another machine that has not beaten for so long is taken for dead."""
BEAT_SECONDS = 10.0

_GUARD_SECONDS = 10.0
"""Taking a lease is a matter of milliseconds; somebody who needs longer has died in a way that flock does not see."""
_UNREADABLE_TRIES = 5


class Locked(LabError):
    """Another live process holds the lock."""


class Lost(LabError):
    """Another process owns the lease now: leave, and write nothing more."""

    exit_code = 3


def never(owner: dict[str, Any]) -> bool:
    """`may_take` of those who take no lease from a live owner."""
    return False


class Lease:
    """What `hold` yields. `token` names this holding of the lease and no other."""

    def __init__(self, path: Path, what: str, token: str, descriptor: int, about: Mapping[str, Any]) -> None:
        self.path, self.what, self.token = path, what, token
        self._descriptor, self._about, self._width = descriptor, dict(about), 0
        self._writing = threading.Lock()
        self._done = threading.Event()

    def beat(self) -> None:
        """Write that the owner lives: into its own file, which the path may not lead to any more."""
        self._about["beat"] = time.time()
        self._write()

    def is_mine(self) -> bool:
        """Whether the path still leads to this lease."""
        with self._writing:  # not in the middle of a beat
            return owner(self.path).get("token") == self.token

    def check(self) -> None:
        """Raises Lost when another owner has the lease now."""
        if self.is_mine():
            return
        who = owner(self.path)
        now = f"{_name(who)} has it now" if who else f"{self.path} is gone"
        raise Lost(f"{self.what} is lost to this process: {now}. It stops here and changes nothing more.")

    def _write(self) -> None:
        with self._writing:
            text = json.dumps(self._about)
            # One write, never shorter than the last one: a reader finds a whole note or, for an instant, a mixed one.
            self._width = max(self._width, len(text))
            os.pwrite(self._descriptor, text.ljust(self._width).encode(), 0)
            os.fsync(self._descriptor)  # on a network disk others see it only then

    def _beat_on(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            # A beat that cannot be written (full disk, network) is a missed one; `check` tells what became of it.
            with suppress(OSError):
                self.beat()

    def _release(self, beating: threading.Thread | None) -> None:
        self._done.set()
        if beating is not None:
            beating.join()
        self._about["ended"] = time.time()
        try:
            with suppress(
                OSError
            ):  # the flock's end tells as much on this machine, the missing beats elsewhere
                self._write()
        finally:
            os.close(self._descriptor)


def owner(path: Path) -> dict[str, Any]:
    """Who last took the lease: {"pid", "host", "time", "beat", "token", "ended"?} and the owner's own note.

    Empty when the file says nothing readable.
    """
    for _ in range(_UNREADABLE_TRIES):
        try:
            text = path.read_text()
            return dict(json.loads(text)) if text else {}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError):
            time.sleep(0.01)  # in the middle of a beat
    return {}


def is_held(path: Path) -> bool:
    """Whether a live process holds the lease now: one of this machine, or one elsewhere that still beats."""
    return _is_locked(path) or _beats_elsewhere(owner(path))


def _is_locked(path: Path) -> bool:
    """Whether somebody's flock is on the file, as far as this machine sees."""
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


def _beats_elsewhere(who: Mapping[str, Any]) -> bool:
    """Whether it is an owner on another machine, one that has neither ended nor fallen silent."""
    elsewhere = "beat" in who and not on_this_host(who.get("host"))
    return elsewhere and "ended" not in who and seconds_since_beat(who) < LEASE_SECONDS


def seconds_since_beat(who: Mapping[str, Any]) -> float:
    """By this machine's clock, and never negative; `who` is an owner with a beat."""
    return max(0.0, time.time() - float(who["beat"]))


@contextmanager
def hold(
    path: Path,
    what: str,
    *,
    note: Mapping[str, Any] = MappingProxyType({}),
    may_take: Callable[[dict[str, Any]], bool] = never,
    wait: float = 0.0,
) -> Iterator[Lease]:
    """Hold the lease for the block.

    Args:
        what: what the lease is for, in words, for messages.
        note: what else the owner wants known about it.
        may_take: whether the lease may be taken from this owner although it lives.
        wait: seconds to wait for a live owner's end.

    Raises:
        Locked: a live process has it; names the owner.
        LabError: the lease's file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lease = _take(path, what, dict(note), may_take, wait)
    except OSError as error:
        raise LabError(
            f"cannot take {what}: {error.strerror or error} ({error.filename or path}). Make the store writable "
            "(free space, a file system that is not mounted read-only, your own permissions), or name another "
            "one with --store."
        ) from error
    beating = threading.Thread(target=lease._beat_on, name=f"beats of {path.name}", daemon=True)
    beating.start()
    try:
        yield lease
    finally:
        lease._release(beating)


def _take(
    path: Path, what: str, note: dict[str, Any], may_take: Callable[[dict[str, Any]], bool], wait: float
) -> Lease:
    until = time.monotonic() + wait
    while True:
        with _guard(path, what):
            who, live = owner(path), is_held(path)
            if not live or may_take(who):
                return _new_file(path, what, note)
        if time.monotonic() >= until:
            raise Locked(f"{what} is in use by {_name(who)} ({path}). Wait for it, or stop it first.")
        time.sleep(min(0.5, max(0.0, until - time.monotonic())))


def _new_file(path: Path, what: str, note: dict[str, Any]) -> Lease:
    for left in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed here
        left.unlink(missing_ok=True)
    token, now = uuid.uuid4().hex, time.time()
    about = {
        **note,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "time": now,
        "beat": now,
        "token": token,
    }
    temporary = path.with_name(f".{path.name}.{token}.tmp")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    lease = Lease(path, what, token, descriptor, about)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lease.beat()
        os.replace(temporary, path)
    except BaseException:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
        raise
    return lease


@contextmanager
def _guard(path: Path, what: str) -> Iterator[None]:
    """Alone with the decision who owns `path`: those who want it take turns."""
    guard = path.with_name(f".{path.name}.taking")
    until = time.monotonic() + _GUARD_SECONDS
    while True:
        descriptor = os.open(guard, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _leads_to(guard, descriptor):
                break
        except BlockingIOError:
            pass  # somebody is at it: their turn
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() >= until:
            raise Locked(
                f"another process has been taking {what} for {_GUARD_SECONDS:.0f} seconds ({guard})."
            )
        time.sleep(0.01)
    try:
        yield
    finally:
        guard.unlink(missing_ok=True)
        os.close(descriptor)


def _leads_to(path: Path, descriptor: int) -> bool:
    """Whether the path still is the file that was opened: whoever had the guard before removed theirs."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _name(who: Mapping[str, Any]) -> str:
    name = f"process {who.get('pid', '?')} on {who.get('host', '?')}"
    return (
        name
        if "beat" not in who
        else f"{name}, which gave a sign of life {seconds_since_beat(who):.0f} s ago"
    )
