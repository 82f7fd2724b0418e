"""Grade responses with math-verify, in worker processes, with verdicts remembered.

A verdict is a function of (gold, extracted answer) alone. Seen pairs come from the cache; workers start when
an unseen pair appears.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, Self

from trb_lab.cache import cache_dir
from trb_lab.errors import MissingExtra, UsageError

from .answers import extract_boxed
from .problem import Problem
from .verdict_cache import Pair, VerdictCache
from .verifier_pool import Outcome, VerifierPool

Reason = Literal["correct", "wrong", "no_answer", "timeout", "error"]

RULES_VERSION = 1
"""Raise it when answers are extracted, marked or limited in another way; part of the cache's file name."""
MAX_ANSWER_CHARS = 1000
"""A longer answer is wrong without a check."""


@dataclass(frozen=True)
class Verdict:
    """What grading says about one response."""

    correct: bool
    reason: Reason
    answer: str | None
    """What was in the last box; None without a box."""


def default_cache_path() -> Path:
    """The shared verdict file, named after all that decides a verdict.

    Raises MissingExtra without math-verify.
    """
    try:
        versions = f"mathverify{version('math-verify')}-latex2sympy{version('latex2sympy2_extended')}"
    except PackageNotFoundError:
        raise MissingExtra("Grading", "", package="'math-verify[antlr4_13_2]'") from None
    return cache_dir() / f"verdicts-{RULES_VERSION}-{versions}.jsonl"


class Grader:
    """Grades batches of responses; use it as a context manager, or call `close`.

    Safe to call from any thread; calls take turns.

    Args:
        workers: processes at most; none runs until an unseen pair appears.
        timeout_seconds: CPU seconds for one pair. Time-outs count apart and are not cached.
        cache_path: file of shared verdicts; None takes `default_cache_path()`.
        verifier: `FILE:FUNCTION` that makes another verifier than math-verify's (tests).
    """

    def __init__(
        self,
        workers: int = 1,
        timeout_seconds: float = 5.0,
        cache_path: Path | None = None,
        *,
        verifier: str | None = None,
    ) -> None:
        self.cache = VerdictCache(default_cache_path() if cache_path is None else cache_path)
        self.pool = VerifierPool(workers, timeout_seconds, verifier)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; they also end when this process does. Grading again starts new ones."""
        self.pool.close()

    def grade(self, items: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Verdicts on (gold answer, response text), in order.

        Raises:
            LabError: the workers do not start.
        """
        pairs = [(gold, extract_boxed(response)) for gold, response in items]
        outcomes = self.decide((gold, a) for gold, a in pairs if a and len(a) <= MAX_ANSWER_CHARS)
        verdicts = []
        for gold, answer in pairs:
            reason: Reason = outcomes.get((gold, answer), "wrong") if answer else "no_answer"
            verdicts.append(Verdict(reason == "correct", reason, answer))
        return verdicts

    def decide(self, pairs: Iterable[Pair]) -> dict[Pair, Outcome]:
        """Outcome of each distinct (gold, answer), from the cache or from the workers."""
        with self._lock:
            distinct = list(dict.fromkeys(pairs))
            if any(self.cache.get(pair) is None for pair in distinct):
                self.cache.refresh()
            fresh = self.pool.verify([pair for pair in distinct if self.cache.get(pair) is None])
            self.cache.add(
                {pair: found == "correct" for pair, found in fresh.items() if found in ("correct", "wrong")}
            )
            return {p: fresh.get(p) or ("correct" if self.cache.get(p) else "wrong") for p in distinct}


def check_golds(problems: Sequence[Problem], grader: Grader, *, source: str = "dataset") -> None:
    """Make sure that a right answer can be told: every reference answer must verify against itself.

    Problems without an answer are passed over. Verdicts are cached, so a second check costs nothing.

    Raises:
        UsageError: an answer cannot be read; names the first problems concerned.
    """
    answered = [(p.id, p.answer) for p in problems if p.answer is not None]
    pair_of = {gold: (gold, extract_boxed(gold) or gold) for _, gold in answered}
    outcomes = grader.decide(pair_of.values())
    bad = [(name, gold, outcomes[pair_of[gold]]) for name, gold in answered]
    bad = [entry for entry in bad if entry[2] != "correct"]
    if not bad:
        return
    shown = "; ".join(
        f"{name}: {gold!r:.80}" + (f" ({why})" if why != "wrong" else "") for name, gold, why in bad[:3]
    )
    raise UsageError(
        f"{source}: math-verify cannot read {len(bad)} of {len(answered)} reference answers: {shown}. "
        "Answers are numbers or LaTeX formulas, without words around them; mend them, or drop these problems."
    )
