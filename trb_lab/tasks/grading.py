"""Grade responses in worker processes, with math-verify or a registered grader, with verdicts remembered.

A verdict is a function of (gold, extracted answer) alone. Seen pairs come from the cache; workers start when
an unseen pair appears.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from trb_lab.cache import cache_dir
from trb_lab.errors import UsageError

from .graders import MATH_VERIFY, GraderKind, find_grader
from .problem import Problem
from .verdict_cache import Pair, VerdictCache
from .verifier_pool import Outcome, VerifierPool

__all__ = ["Grader", "Verdict", "check_golds", "default_cache_path"]

Reason = Literal["correct", "wrong", "unboxed", "empty", "timeout", "error"]
"""`unboxed`: something was written and holds no answer; `empty`: nothing was, or the box is empty."""

RULES_VERSION = 1
"""Raise it when answers are extracted, marked or limited in another way; part of the cache's file name."""


@dataclass(frozen=True)
class Verdict:
    """What grading says about one response."""

    correct: bool
    reason: Reason
    answer: str | None
    """What was in the last box, or what else the grader extracts; None where it found none."""


def default_cache_path(kind: GraderKind | None = None) -> Path:
    """The shared verdict file, named after all that decides a verdict; without `kind` that of math-verify.

    Raises MissingExtra without math-verify.
    """
    kind = kind or find_grader(MATH_VERIFY)
    return cache_dir() / f"verdicts-{RULES_VERSION}-{kind.version}.jsonl"


class Grader:
    """Grades batches of responses; use it as a context manager, or call `close`.

    Safe to call from any thread; calls take turns.

    Args:
        workers: processes at most; none runs until an unseen pair appears.
        timeout_seconds: CPU seconds for one pair. Time-outs count apart and are not cached.
        cache_path: file of shared verdicts; None takes the grader's own, `default_cache_path(kind)`.
        name: math_verify, or a grader that an installed package registers (`graders.py`).
        verifier: `FILE.py:NAME` of another verifier in place of the grader's own (tests).

    Raises:
        UsageError: there is no such grader.
    """

    def __init__(
        self,
        workers: int = 1,
        timeout_seconds: float = 5.0,
        cache_path: Path | None = None,
        *,
        name: str = MATH_VERIFY,
        verifier: str | None = None,
    ) -> None:
        self.kind = find_grader(name)
        self.cache = VerdictCache(default_cache_path(self.kind) if cache_path is None else cache_path)
        self.pool = VerifierPool(workers, timeout_seconds, verifier or self.kind.verifier)
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
        answers = [self._extract(response) for _, response in items]
        limit = self.kind.max_answer_chars
        outcomes = self.decide(
            (gold, answer)
            for (gold, _), answer in zip(items, answers, strict=True)
            if isinstance(answer, str) and answer.strip() and (limit is None or len(answer) <= limit)
        )
        return [
            self._verdict(gold, response, answer, outcomes)
            for (gold, response), answer in zip(items, answers, strict=True)
        ]

    def vote(self, verdict: Verdict) -> str | None:
        """What a sample votes for: one text for all spellings of an answer; None where it has no answer."""
        if verdict.answer is None or verdict.reason in ("unboxed", "empty"):
            return None
        return self.kind.spelling(verdict.answer)

    def _extract(self, response: str) -> str | Exception | None:
        try:
            return self.kind.extract(response)
        except Exception as error:  # a registered grader's mistake costs this response, like one in `verify`
            return error

    def _verdict(
        self, gold: str, response: str, answer: str | Exception | None, outcomes: dict[Pair, Outcome]
    ) -> Verdict:
        reason: Reason
        if isinstance(answer, Exception):
            return Verdict(False, "error", None)
        if answer is None:
            reason = "unboxed" if response.strip() else "empty"
        elif not answer.strip():
            reason = "empty"
        else:
            reason = outcomes.get((gold, answer), "wrong")
        return Verdict(reason == "correct", reason, answer)

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


def unreadable_golds(problems: Sequence[Problem], grader: Grader) -> list[tuple[Problem, Outcome]]:
    """Problems whose reference answer does not verify against itself, each with the outcome of the check."""
    if not grader.kind.golds_are_answers:
        return []
    answered = [(problem, problem.answer) for problem in problems if problem.answer is not None]
    # A gold in a box, or in whatever else the grader reads, is checked as the answer that it holds.
    pair_of = {gold: (gold, _answer_of(gold, grader)) for _, gold in answered}
    outcomes = grader.decide(pair_of.values())
    checked = [(problem, outcomes[pair_of[gold]]) for problem, gold in answered]
    return [(problem, outcome) for problem, outcome in checked if outcome != "correct"]


def check_golds(problems: Sequence[Problem], grader: Grader, *, source: str = "dataset") -> None:
    """Make sure that a right answer can be told: every reference answer must verify against itself.

    Problems without an answer are passed over, and so is everything where the grader's golds are no answers.
    Verdicts are cached, so a second check costs nothing.

    Raises:
        UsageError: an answer cannot be read; names the first problems concerned.
    """
    bad = unreadable_golds(problems, grader)
    if not bad:
        return
    answered = sum(problem.answer is not None for problem in problems)
    shown = "; ".join(
        f"{problem.id}: {problem.answer!r:.80}" + (f" ({why})" if why != "wrong" else "")
        for problem, why in bad[:3]
    )
    if grader.kind.name == MATH_VERIFY:
        who, advice = (
            "math-verify",
            "Answers are numbers or LaTeX formulas, without words around them; mend them",
        )
    else:
        who, advice = f"grader {grader.kind.name}", "Each must verify against itself; mend them"
    raise UsageError(
        f"{source}: {who} cannot read {len(bad)} of {answered} reference answers: {shown}. "
        f"{advice}, or drop these problems."
    )


def _answer_of(gold: str, grader: Grader) -> str:
    try:
        return grader.kind.extract(gold) or gold
    except Exception:  # it reads responses; a bare gold need not be one
        return gold
