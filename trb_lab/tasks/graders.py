"""Graders by name: math-verify, and those that installed packages register as entry points.

Group `trb_lab.graders`, name -> `module:object`. The object is a function `verify(gold, answer) -> bool`, which gets
the content of the last box, or a class (made without arguments) or object with that method and, if it likes,

- `extract(response) -> str | None`: what of the response is graded; None where there is no answer,
- `golds_are_answers`: False where a gold is no answer itself (a code task's tests) and is not checked as one.

`verify` runs in the grading workers under their time limit. `extract` runs in the run's own process: keep it quick.
See docs/evaluation.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import Any

from trb_lab.errors import MissingExtra, UsageError, did_you_mean

from .answers import extract_boxed, normal_form

GROUP = "trb_lab.graders"
MATH_VERIFY = "math_verify"
MAX_ANSWER_CHARS = 1000
"""A longer answer is wrong without a check by math-verify."""


@dataclass(frozen=True)
class GraderKind:
    """How one grader reads responses, and where its verifier is."""

    name: str
    version: str
    """Of all that decides a verdict: names the file of shared verdicts."""
    verifier: str | None = None
    """`MODULE:NAME` for the workers; None is math-verify."""
    extract: Callable[[str], str | None] = extract_boxed
    spelling: Callable[[str], str] = normal_form
    """What two spellings of one answer have in common, for majority votes."""
    max_answer_chars: int | None = None
    golds_are_answers: bool = True


def known_graders() -> list[str]:
    """Names that `grader` may take here: math_verify and what installed packages register."""
    return sorted({MATH_VERIFY, *(entry.name for entry in entry_points(group=GROUP))})


def find_grader(name: str) -> GraderKind:
    """The grader of that name; imports the package that registers it.

    Raises:
        UsageError: nobody registers the name, two packages do, or what they register is no grader.
        MissingExtra: math-verify is not installed.
    """
    entries = list(entry_points(group=GROUP, name=name))
    owners = ["trb-lab"] if name == MATH_VERIFY else []
    owners += [f"{_package(entry)} ({entry.value})" for entry in entries]
    if not owners:
        known = known_graders()
        raise UsageError(
            f"grader: there is no '{name}', but {', '.join(known)}.{did_you_mean(name, known)} "
            f"Others come from packages that register them under the entry point group {GROUP}."
        )
    if len(owners) > 1:
        raise UsageError(
            f"grader: '{name}' is registered by {' and by '.join(owners)}. Remove all packages but one."
        )
    return _registered(entries[0]) if entries else _math_verify()


def _math_verify() -> GraderKind:
    try:
        versions = f"mathverify{version('math-verify')}-latex2sympy{version('latex2sympy2_extended')}"
    except PackageNotFoundError:
        raise MissingExtra("Grading", "", package="'math-verify[antlr4_13_2]'") from None
    return GraderKind(MATH_VERIFY, versions, max_answer_chars=MAX_ANSWER_CHARS)


def _registered(entry: EntryPoint) -> GraderKind:
    where = f"grader: '{entry.name}' of {_package(entry)} ({entry.value})"
    try:
        found: Any = entry.load()
        if isinstance(found, type):
            found = found()
    except Exception as error:  # whatever a foreign module raises, the reader must learn whose it is
        raise UsageError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(getattr(found, "verify", found)):
        raise UsageError(
            f"{where} is a {type(found).__name__}, neither a function verify(gold, answer) nor an object that has one."
        )
    extract = getattr(found, "extract", None)
    return GraderKind(
        entry.name,
        re.sub(r"[^A-Za-z0-9@.+-]", "_", f"{entry.name}@{_package(entry)}"),
        f"{entry.module}:{entry.attr}",
        extract or extract_boxed,
        str.strip if extract else normal_form,  # blanks may matter in what it extracts (code)
        golds_are_answers=bool(getattr(found, "golds_are_answers", True)),
    )


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"
