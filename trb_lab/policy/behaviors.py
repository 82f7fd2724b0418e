"""Behaviour policies: what rollout tokens are drawn from.

A behaviour policy is a pure function from (student log-probs, teacher log-probs, which rows the teacher drives) to
a target distribution. An arm is one spec class (spec/warmup.py), one function here, and one line in BEHAVIORS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trb_lab.seeds import generator
from trb_lab.spec.warmup import MixtureWarmup, OpdWarmup, TeacherForcedWarmup, TrbWarmup, Warmup

from .coupling import kl_divergence
from .trust_region import trust_region


class Target(NamedTuple):
    """What the tokens of one position are drawn from."""

    log_mu_BV: Tensor
    kl_B: Tensor
    """KL(mu || p), nats."""
    beta_B: Tensor | None = None
    """Exponent of the geometric blend, where the arm has one."""


@dataclass(frozen=True)
class StepBehavior:
    """The behaviour policy of one training step."""

    value: float
    """The annealed quantity: KL budget (nats), mixture weight, or share of rollouts."""
    target: Callable[[Tensor, Tensor, Tensor], Target] | None
    """(log_p_BV, log_q_BV, teacher_rows_B bool) -> Target; None is the student itself: no teacher is run."""
    teacher_rows: Tensor
    """bool [rows of the step]: rollouts that the teacher drives as a whole."""

    @property
    def needs_teacher(self) -> bool:
        return self.target is not None


def student_rollouts(rows: int, value: float = 0.0) -> StepBehavior:
    """mu = p; `value` is the annealed quantity, where it is too small to change a row."""
    return StepBehavior(value, None, torch.zeros(rows, dtype=torch.bool))


def _opd(warmup: OpdWarmup, step: int, rows: int, seed: int) -> StepBehavior:
    return student_rollouts(rows)


def _trb(warmup: TrbWarmup, step: int, rows: int, seed: int) -> StepBehavior:
    """mu = p^(1-beta) q^beta / Z with the largest beta in the budget (arXiv 2605.31159)."""
    budget = warmup.kl_budget_at(step)
    if budget == 0.0:
        return student_rollouts(rows)

    def target(log_p_BV: Tensor, log_q_BV: Tensor, teacher_rows_B: Tensor) -> Target:
        blend = trust_region(log_p_BV, log_q_BV, budget)
        return Target(blend.log_mu_BV, blend.kl_B, blend.beta_B)

    return StepBehavior(budget, target, torch.zeros(rows, dtype=torch.bool))


def _drive_rows(log_p_BV: Tensor, log_q_BV: Tensor, teacher_rows_B: Tensor) -> Target:
    """mu = q on the rows that the teacher drives, p on the others."""
    log_mu_BV = torch.where(teacher_rows_B[:, None], log_q_BV, log_p_BV)
    return Target(log_mu_BV, kl_divergence(log_mu_BV, log_p_BV))


def _teacher_forced(warmup: TeacherForcedWarmup, step: int, rows: int, seed: int) -> StepBehavior:
    """The teacher drives the nearest whole number of rollouts to share x rows, drawn anew each step."""
    share = warmup.share_at(step)
    count = round(share * rows)
    if count == 0:
        return student_rollouts(rows, share)
    chosen = generator(seed, "teacher_forced", step).permutation(rows)[:count]
    teacher_rows = torch.zeros(rows, dtype=torch.bool)
    teacher_rows[torch.from_numpy(chosen)] = True
    return StepBehavior(share, _drive_rows, teacher_rows)


def _mixture(warmup: MixtureWarmup, step: int, rows: int, seed: int) -> StepBehavior:
    """mu = (1 - lam) p + lam q at each token, or a coin of probability lam for each rollout."""
    weight = warmup.weight_at(step)
    if weight == 0.0:
        return student_rollouts(rows)
    if warmup.level == "sequence":
        coins = generator(seed, "mixture", step).random(rows) < weight
        if not coins.any():
            return student_rollouts(rows, weight)
        return StepBehavior(weight, _drive_rows, torch.from_numpy(coins))

    def target(log_p_BV: Tensor, log_q_BV: Tensor, teacher_rows_B: Tensor) -> Target:
        log_weights = torch.tensor([1.0 - weight, weight], dtype=torch.float64).log().to(log_p_BV)
        log_mu_BV = torch.logaddexp(log_p_BV + log_weights[0], log_q_BV + log_weights[1])
        return Target(log_mu_BV, kl_divergence(log_mu_BV, log_p_BV))

    return StepBehavior(weight, target, torch.zeros(rows, dtype=torch.bool))


BEHAVIORS: dict[str, Callable[[Any, int, int, int], StepBehavior]] = {
    "opd": _opd,
    "trb": _trb,
    "mixture": _mixture,
    "teacher_forced": _teacher_forced,
}


def behavior_at(warmup: Warmup, step: int, rows: int, seed: int) -> StepBehavior:
    """The arm's behaviour policy at 0-based `step` for a batch of `rows` rollouts."""
    return BEHAVIORS[warmup.kind](warmup, step, rows, seed)
