"""Takes runs out of a cluster's queue, and asks running ones to save and end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from trb_lab.store.run_dir import RunDir, Store, write_json

from . import slurm_commands as slurm
from .base import Phase
from .slurm_commands import SlurmError
from .slurm_jobs import JobBook, Place


def cancel(store: Store, run_ids: Iterable[str]) -> list[str]:
    """Take runs out of the queue, and ask running ones to save and end. Returns a line for each that it could not.

    A running worker learns it from a file (its supervisor looks for it), so packed runs end one by one.
    """
    book = JobBook(store, patient=False)
    return cancel_places(store, book.look(), set(run_ids))


def cancel_places(store: Store, places: Sequence[Place], run_ids: set[str], kill: bool = False) -> list[str]:
    """`cancel`, of places that were looked up already."""
    problems, waiting = [], []
    elements: dict[tuple[str, int], list[Place]] = {}
    for place in places:
        elements.setdefault((place.batch.token, place.index), []).append(place)
    for members in elements.values():
        wanted = [p for p in members if p.run_id in run_ids and p.status.phase is not Phase.ENDED]
        for place in wanted:
            request_stop(RunDir(store.root / place.run), kill)
        left = [p for p in members if p not in wanted and p.status.phase is not Phase.ENDED]
        began = any(p.status.phase is Phase.RUNNING for p in members)
        if wanted and not left and not began:
            waiting.append(wanted[0])
    named = [p.status.job for p in waiting if p.status.job]
    problems += [
        f"{p.run_id}: its job has no id yet; try again in a minute" for p in waiting if not p.status.job
    ]
    try:
        slurm.cancel(named)
    except SlurmError as error:
        problems += [f"{p.run_id}: {error}" for p in waiting if p.status.job]
    return problems


def request_stop(run_dir: RunDir, kill: bool = False) -> None:
    """Ask whoever supervises the worker on its node to end it."""
    if run_dir.path.exists():
        write_json(run_dir.stop_request, {"time": time.time(), "what": "kill" if kill else "stop"})
