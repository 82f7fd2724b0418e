"""Verdicts on a step's rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trb_lab.rollout.engine import Rollouts
from trb_lab.tasks.grading import Grader, Verdict
from trb_lab.tasks.problem import Problem


def grade_rollouts(
    grader: Grader, tokenizer: Any, problems: Sequence[Problem], rollouts: Rollouts
) -> list[Verdict | None]:
    """One verdict a rollout; None where its problem has no answer to grade against."""
    texts = tokenizer.batch_decode(rollouts.responses(), skip_special_tokens=True)
    answered = [i for i, problem in enumerate(problems) if problem.answer is not None]
    graded = grader.grade([(str(problems[i].answer), texts[i]) for i in answered])
    verdicts: list[Verdict | None] = [None] * len(problems)
    for i, verdict in zip(answered, graded, strict=True):
        verdicts[i] = verdict
    return verdicts
