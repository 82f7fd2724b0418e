"""One driver a sweep: its lease, the refusal of a second one, and a store that cannot be written."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from trb_lab.errors import LabError
from trb_lab.store import locks
from trb_lab.store.disk import DISK_WORDS
from trb_lab.store.run_dir import Store, SweepDir

_WHY = {
    **DISK_WORDS,
    errno.EACCES: "you may not write there",
    errno.EPERM: "you may not write there",
    errno.ENOTDIR: "a file stands where a folder is wanted",
}


@contextmanager
def driving(sweep: SweepDir, *, on: str | None, take_over: bool) -> Iterator[locks.Lease]:
    """Hold the sweep's driver lease for the block. `on` names the cluster, None is this machine.

    Raises Locked, with what to do about it, when a driver is at work and may not be relieved; Lost where
    another one has relieved this one.
    """
    what = f"sweep '{sweep.name}'"
    job, incarnation = os.environ.get("TRB_LAB_JOB"), int(os.environ.get("TRB_LAB_INCARNATION", 0))

    def may_take(owner: dict[str, Any]) -> bool:
        # A job that is back from the queue: the cluster has ended the driver that it was before.
        earlier = job is not None and owner.get("job") == job and owner.get("incarnation", 0) < incarnation
        return take_over or earlier

    note = {"on": on or "this machine", "job": job, "incarnation": incarnation}
    with ExitStack() as stack:
        try:
            lease = stack.enter_context(locks.hold(sweep.driver_lock, what, note=note, may_take=may_take))
        except locks.Locked as error:
            raise locks.Locked(_refusal(what, locks.owner(sweep.driver_lock))) from error
        try:
            yield lease
        except locks.Lost:
            if lease.is_mine():  # somebody else's lease, then
                raise
            owner = driver_text(locks.owner(sweep.driver_lock))
            text = f"{what} was taken over by {owner}; this driver leaves everything to it."
            raise locks.Lost(text) from None


def driver_text(owner: dict[str, Any]) -> str:
    """`process 123 on node7, seen 4 s ago` from a lease's note."""
    job = f" (job {owner['job']})" if owner.get("job") else ""
    seen = owner.get("beat") or owner.get("time")
    ago = f", seen {max(0, round(time.time() - seen))} s ago" if isinstance(seen, int | float) else ""
    return f"process {owner.get('pid', '?')} on {owner.get('host', '?')}{job}{ago}"


def _refusal(what: str, owner: dict[str, Any]) -> str:
    return (
        f"{what} is in use by {driver_text(owner)}. `trb-lab status` shows how far it is. "
        "To drive it from here instead, also where that one hangs: --take-over (its workers go on)."
    )


@contextmanager
def store_in_words(store: Store) -> Iterator[None]:
    """Turns a store that cannot be written into a message: nothing of a run is lost by it."""
    try:
        yield
    except OSError as error:
        why = _WHY.get(error.errno or 0)
        if why is None:
            raise
        where = f" ({error.filename})" if error.filename else ""
        raise LabError(
            f"The store {store.root} cannot be written: {why}{where}. Workers that run go on; the same command "
            "goes on from here."
        ) from error
