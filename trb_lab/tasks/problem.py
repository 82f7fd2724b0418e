"""One problem, whatever it was loaded from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any


@dataclass(frozen=True)
class Problem:
    """A prompt with what is known about it."""

    prompt: str
    """The problem's text, before system prompt and template."""
    answer: str | None
    """Reference answer as LaTeX or plain text, without the box; None where there is none."""
    id: str
    """Stable name within its data set; error messages and item scores use it."""
    solution: str | None = None
    r"""Worked steps that end in `\boxed{answer}`, where the source has them."""


@dataclass(frozen=True)
class LoadedProblems:
    """The problems of a data set, and how many of its rows were left out for what reason."""

    problems: list[Problem]
    left_out: dict[str, int]
    """Reason -> number; rows that the spec itself does not ask for are not counted."""


def answer_text(value: Any) -> str | None:
    """A stored answer (text, number or null) as text.

    Raises:
        ValueError: the value is neither.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"an answer is text or a number, got {type(value).__name__} {value!r:.60}")
    return format(Decimal(repr(value)), "f")  # 1e-05 would be read as 1*e - 5
