"""Errors that a user can act on.

Every message says what was given, what is allowed, and what to do next. `cli.main` prints the message
alone (no traceback) and exits with `exit_code`; anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LabError(Exception):
    """A failure that the user can mend."""

    exit_code = 1


class UsageError(LabError):
    """What was written (YAML, --set, a name on the command line) cannot be used. Exit code 2."""

    exit_code = 2


class MissingExtra(LabError):
    """An optional dependency is needed and not installed."""

    def __init__(self, what: str, extra: str, package: str | None = None) -> None:
        install = f"pip install 'trb-lab[{extra}]'" if package is None else f"pip install {package}"
        super().__init__(
            f"{what} needs an optional package that is not installed. Install it with: {install}"
        )


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """The closest valid spelling of `given`, or None when nothing is close."""
    matches = difflib.get_close_matches(str(given), [str(a) for a in allowed], n=1, cutoff=0.55)
    return matches[0] if matches else None


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """` Did you mean 'x'?` or the empty string; starts with a space so that it can be appended."""
    match = nearest(given, allowed)
    return f" Did you mean '{match}'?" if match else ""
