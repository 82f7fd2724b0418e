"""Which failed trials a sweep runs again: all of them, or those that failed in a named way."""

from __future__ import annotations

from collections.abc import Collection

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.store.run_dir import RunDir
from trb_lab.store.status import ERROR_CLASSES, TrialState, last_error

CANCELLED = "cancelled"
CLASSES = (*ERROR_CLASSES, CANCELLED)
"""What `--retry-failed=` takes: the ways to fail, and `cancelled`."""
ALL = frozenset(CLASSES)
EVERYTHING = "all"
_OTHER_NAMES = {
    "out_of_memory": "oom",
    "node": "node_failure",
    "timeout": "time_limit",
    "time": "time_limit",
    "error": "code",
}


def retry_classes(text: str) -> frozenset[str]:
    """The classes of `oom,time_limit`, or `all`. Raises UsageError for one that does not exist."""
    found = set()
    for part in text.split(","):
        given = part.strip().lower().replace("-", "_")
        name = _OTHER_NAMES.get(given, given)
        if name == EVERYTHING:
            return ALL
        if name not in CLASSES:
            raise UsageError(
                f"--retry-failed={text}: there is no class '{part.strip()}'."
                f"{did_you_mean(given, [*CLASSES, *_OTHER_NAMES])} Classes: {', '.join(CLASSES)}. "
                "Alone, --retry-failed runs all failed and cancelled trials again."
            )
        found.add(name)
    return frozenset(found)


def classes_of(retry_failed: bool | Collection[str]) -> Collection[str]:
    """The classes that are meant: all of them for True."""
    if isinstance(retry_failed, bool):
        return ALL if retry_failed else frozenset()
    return retry_failed


def ending_class(run_dir: RunDir, state: TrialState) -> str | None:
    """The class of a run that failed or was cancelled; None for a failure that nobody put a class to."""
    if state == TrialState.CANCELLED:
        return CANCELLED
    return (last_error(run_dir) or {}).get("error_class")


def is_wanted(error_class: str | None, chosen: Collection[str]) -> bool:
    """Whether a run that ended so is to run again. One without a class comes only with all the others."""
    return error_class in chosen if error_class is not None else set(chosen) >= ALL
