"""Work of large reports on two processors: children that inherit what has been read, and send back only results.

A fork costs little and copies nothing, but a process with several threads must not be forked: a lock that another
thread holds would stay held in the child for ever. So notebooks, and platforms without fork, work in one process.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, TypeVar

from trb_lab.errors import LabError

MANY_RUNS = 100
"""Runs from which on a fork is worth its cost."""
PROCESSES = 2

Item = TypeVar("Item")
Result = TypeVar("Result")

_work: dict[int, Callable[[Any], Any]] = {}
"""What children are to do: inherited, since closures over what has been read cannot be sent."""
_numbers = itertools.count()


def worthwhile(runs: int) -> bool:
    """Whether a report of so many runs is to be made by several processes, here and now."""
    return (
        runs >= MANY_RUNS
        and sys.platform != "darwin"  # its frameworks do not survive a fork
        and "fork" in multiprocessing.get_all_start_methods()
        and not multiprocessing.current_process().daemon
        and threading.active_count() == 1
        and _processors() > 1
    )


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Forked(Generic[Item, Result]):
    """PROCESSES children that do `work(item)`; they begin with the first `submit` and see what there was then."""

    def __init__(self, work: Callable[[Item], Result]) -> None:
        self._number = next(_numbers)
        _work[self._number] = work
        self._pool = ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("fork"))

    def submit(self, item: Item) -> Future[Result]:
        return self._pool.submit(_call, self._number, item)

    def __enter__(self) -> Forked[Item, Result]:
        return self

    def close(self) -> None:
        """Waits for what has begun, gives up the rest, and ends the children."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        _work.pop(self._number, None)

    def __exit__(self, *exception: object) -> None:
        self.close()


def _call(number: int, item: Any) -> Any:
    return _work[number](item)


def outcome(future: Future[Result]) -> Result:
    """What the child's work gave, or raises what it raised; LabError where the child was killed."""
    try:
        return future.result()
    except BrokenProcessPool:
        raise LabError(
            "A process that worked for the report was killed, most likely for want of memory. Make the report of fewer "
            "runs (`arms`, `seeds` or `where` of a source), or where there is more memory."
        ) from None
