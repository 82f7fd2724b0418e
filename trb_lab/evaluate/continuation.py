"""Continuation gain (arXiv 2605.31159, figure 4): are the prefixes that an arm visits better ones to go on from?

Rollouts of step 0 are cut after t tokens, and each prefix is continued by the teacher and by the student at
temperature 1. Both arms are continued with the same draws, so that their difference is a paired one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from trb_lab.policy.behaviors import student_rollouts
from trb_lab.rollout.engine import Draws, Keep, RolloutEngine, RolloutRequest, Rollouts
from trb_lab.tasks.grading import Grader
from trb_lab.tasks.problem import Problem

ROWS_AT_ONCE = 1024
"""Continuations asked of an engine at once."""


@dataclass(frozen=True)
class FirstStep:
    """An arm's rollouts of step 0, as far as the longest cut, with the teacher's scores; one problem a row."""

    arm: str
    rollouts: Rollouts
    problems: list[Problem]


@dataclass(frozen=True)
class Continuer:
    """A model that goes on from prefixes by itself."""

    name: str
    engine: RolloutEngine
    prompts: Callable[[Rollouts], list[list[int]]]
    """The prompts of the rows as this model reads them."""


@dataclass(frozen=True)
class Item:
    """One continuation, graded with its prefix as one response."""

    arm: str
    cut: int
    continuer: str | None
    """None for a rollout that ended before the cut: nobody continued it."""
    problem: str
    row: int
    sample: int
    correct: bool
    reason: str
    answer: str | None
    tokens: int
    """Of the continuation, the stop token included."""
    finished: bool


def continue_first_step(
    step: FirstStep,
    continuers: Sequence[Continuer],
    cuts: Sequence[int],
    *,
    samples: int,
    max_new_tokens: int,
    seed: int,
    decode: Callable[[list[list[int]]], list[str]],
    grader: Grader,
) -> list[Item]:
    """Every continuation of every cut, and each rollout that had ended before a cut.

    Args:
        samples: continuations of each prefix.
        max_new_tokens: longest response, prefix and continuation together.
        seed: the draws are keyed by (seed, cut, row, sample): the same for every arm and every continuer.
    """
    found: list[Item] = []
    for cut in cuts:
        ended = ended_before(step.rollouts, cut).tolist()
        found += _graded_whole(
            step, cut, [row for row, is_over in enumerate(ended) if is_over], decode, grader
        )
        open_rows = [row for row, is_over in enumerate(ended) if not is_over]
        for continuer in continuers:
            pairs = [(row, sample) for row in open_rows for sample in range(samples)]
            for start in range(0, len(pairs), ROWS_AT_ONCE):
                batch = pairs[start : start + ROWS_AT_ONCE]
                keys = [row * samples + sample for row, sample in batch]
                draws = Draws.keyed(seed, f"continuation/{cut}", 0, keys, max_new_tokens - cut, coupled=False)
                found += _continued(step, continuer, cut, batch, draws, decode, grader)
    return found


def ended_before(rollouts: Rollouts, cut: int) -> Tensor:
    """bool [B]: the response has ended within its first `cut` tokens."""
    ended_B: Tensor = rollouts.finished_B & (rollouts.lengths_B <= cut)
    return ended_B


def _continued(
    step: FirstStep,
    continuer: Continuer,
    cut: int,
    batch: Sequence[tuple[int, int]],
    draws: Draws,
    decode: Callable[[list[list[int]]], list[str]],
    grader: Grader,
) -> list[Item]:
    prompts = continuer.prompts(step.rollouts)
    prefixes = [step.rollouts.tokens_BT[row, :cut].tolist() for row, _ in batch]
    request = RolloutRequest(
        [prompts[row] + prefix for (row, _), prefix in zip(batch, prefixes, strict=True)], None, draws
    )
    made = continuer.engine.rollout(request, student_rollouts(len(batch)), Keep())
    texts = decode([p + c for p, c in zip(prefixes, made.responses(), strict=True)])
    golds = [str(step.problems[row].answer) for row, _ in batch]
    verdicts = grader.grade(list(zip(golds, texts, strict=True)))
    return [
        Item(
            step.arm, cut, continuer.name, step.problems[row].id, row, sample, verdict.correct, verdict.reason,
            verdict.answer, int(made.lengths_B[i]), bool(made.finished_B[i]),
        )
        for i, ((row, sample), verdict) in enumerate(zip(batch, verdicts, strict=True))
    ]  # fmt: skip


def _graded_whole(
    step: FirstStep,
    cut: int,
    rows: Sequence[int],
    decode: Callable[[list[list[int]]], list[str]],
    grader: Grader,
) -> list[Item]:
    if not rows:
        return []
    responses = step.rollouts.responses()
    texts = decode([responses[row] for row in rows])
    verdicts = grader.grade([(str(step.problems[r].answer), t) for r, t in zip(rows, texts, strict=True)])
    return [
        Item(step.arm, cut, None, step.problems[row].id, row, 0, v.correct, v.reason, v.answer, 0, True)
        for row, v in zip(rows, verdicts, strict=True)
    ]


def prefix_log_probs(step: FirstStep, cut: int) -> dict[str, float | None]:
    """Mean log-prob a token of the prefixes that are continued, under both models; None where all had ended."""
    rollouts = step.rollouts
    open_B = ~ended_before(rollouts, cut)
    names = {"student_logprob": rollouts.student_logprob_BT, "teacher_logprob": rollouts.teacher_logprob_BT}
    return {
        name: float(values[open_B, :cut].double().mean()) if values is not None and open_B.any() else None
        for name, values in names.items()
    }


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts and its standard error clustered by prompt."""

    value: float | None
    stderr: float | None
    prompts: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        n = len(values)
        if n == 0:
            return cls(None, None, 0)
        mean = math.fsum(values) / n
        if n == 1:
            return cls(mean, None, 1)
        return cls(mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n), n)


@dataclass(frozen=True)
class Rate:
    """Success of one arm's prefixes, continued by one model, at one cut."""

    arm: str
    continuer: str
    cut: int
    continued: int
    """Rollouts that were still open at the cut."""
    ended: int
    """Rollouts that had ended: nobody continued them."""
    success: Estimate
    """Of the continued ones."""
    with_ended: Estimate
    """Of all: those that had ended count as they were."""
    ended_correct: float | None
    """Share of the ended ones that were correct."""


@dataclass(frozen=True)
class Gain:
    """The first arm's success less the second's, over the prompts that both have."""

    continuer: str
    cut: int
    success: Estimate
    with_ended: Estimate


def rates(
    items: Sequence[Item], arms: Sequence[str], continuers: Sequence[str], cuts: Sequence[int]
) -> list[Rate]:
    """One entry for each arm, continuer and cut."""
    return [_rate(items, arm, name, cut) for name in continuers for cut in cuts for arm in arms]


def gains(
    items: Sequence[Item], arms: tuple[str, str], continuers: Sequence[str], cuts: Sequence[int]
) -> list[Gain]:
    """Paired differences of two arms, one entry for each continuer and cut."""
    found = []
    for name in continuers:
        for cut in cuts:
            first, second = (_by_problem(items, arm, name, cut) for arm in arms)
            estimates = [
                Estimate.of([a[problem] - b[problem] for problem in a if problem in b])
                for a, b in zip(first, second, strict=True)
            ]
            found.append(Gain(name, cut, *estimates))
    return found


def _rate(items: Sequence[Item], arm: str, continuer: str, cut: int) -> Rate:
    alone, whole = _by_problem(items, arm, continuer, cut)
    here = [item for item in items if item.arm == arm and item.cut == cut]
    ended = [item.correct for item in here if item.continuer is None]
    return Rate(
        arm,
        continuer,
        cut,
        len({item.row for item in here if item.continuer == continuer}),
        len(ended),
        Estimate.of(list(alone.values())),
        Estimate.of(list(whole.values())),
        sum(ended) / len(ended) if ended else None,
    )


def _by_problem(
    items: Sequence[Item], arm: str, continuer: str, cut: int
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Success of each problem: over its continued rollouts, and over all of them. Each rollout weighs the same."""
    continued: dict[str, dict[int, list[bool]]] = {}
    whole: dict[str, dict[int, list[bool]]] = {}
    for item in items:
        if item.arm == arm and item.cut == cut and item.continuer in (continuer, None):
            for table in (whole,) if item.continuer is None else (continued, whole):
                table.setdefault(item.problem, {}).setdefault(item.row, []).append(item.correct)
    return _means(continued), _means(whole)


def _means(table: Mapping[str, Mapping[int, Sequence[bool]]]) -> dict[str, float]:
    return {
        problem: math.fsum(sum(marks) / len(marks) for marks in rows.values()) / len(rows)
        for problem, rows in table.items()
    }


def as_rows(found: Sequence[Rate] | Sequence[Gain]) -> list[dict[str, Any]]:
    """Plain mappings for JSON: an estimate becomes {"value", "stderr", "prompts"}."""
    return [asdict(entry) for entry in found]
