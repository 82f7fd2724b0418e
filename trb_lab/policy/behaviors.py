"""Behaviour policies: what rollout tokens are drawn from.

A behaviour policy is a pure function from (student log-probs, teacher log-probs, each row's annealed value) to a
target distribution. An arm is one spec class (spec/warmup.py), one function here, and one line in BEHAVIORS.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trb_lab.seeds import generator
from trb_lab.spec.warmup import MixtureWarmup, OpdWarmup, TeacherForcedWarmup, TrbWarmup, Warmup

from .coupling import Target, kl_divergence
from .trust_region import trust_region

__all__ = ["BEHAVIORS", "StepBehavior", "Target", "behavior_at", "student_rollouts", "trust_region_rollouts"]


@dataclass(frozen=True)
class StepBehavior:
    """The behaviour policy of one training step."""

    value: float
    """The annealed quantity: KL budget (nats), mixture weight, or share of rollouts."""
    target: Callable[[Tensor, Tensor, Tensor], Target] | None
    """(log_p_NV, log_q_NV, value_N) -> Target; None is the student itself: no teacher is run."""
    row_values: Tensor
    """float64 [rows of the step]: the value of each rollout. Rows may differ: a coin, a share, mixed budgets."""
    expected_redraws: float = 0.0
    """A guess of the share of drafted tokens that will be redrawn, for steps before any was seen."""
    is_trust_region: bool = False
    """`target` is the blend inside a KL budget of `row_values`: engines may use a fused kernel of it."""

    @property
    def needs_teacher(self) -> bool:
        return self.target is not None


def student_rollouts(rows: int, value: float = 0.0) -> StepBehavior:
    """mu = p; `value` is the annealed quantity, where it is too small to change a row."""
    return StepBehavior(value, None, torch.zeros(rows, dtype=torch.float64))


def trust_region_rollouts(budgets: Tensor, value: float) -> StepBehavior:
    """mu = p^(1-beta) q^beta / Z with the largest beta in each row's budget (nats; arXiv 2605.31159)."""
    # Pinsker bounds the redraw rate by sqrt(eps / 2); what was seen lies at half to three quarters of that.
    guess = 0.75 * math.sqrt(min(value, 1.0) / 2.0)
    return StepBehavior(value, _blend_rows, budgets.double(), guess, is_trust_region=True)


def _opd(warmup: OpdWarmup, step: int, rows: int, seed: int) -> StepBehavior:
    return student_rollouts(rows)


def _trb(warmup: TrbWarmup, step: int, rows: int, seed: int) -> StepBehavior:
    budget = warmup.kl_budget_at(step)
    if budget == 0.0:
        return student_rollouts(rows)
    return trust_region_rollouts(torch.full((rows,), budget, dtype=torch.float64), budget)


def _blend_rows(log_p_NV: Tensor, log_q_NV: Tensor, budget_N: Tensor) -> Target:
    blend = trust_region(log_p_NV, log_q_NV, budget_N)
    return Target(blend.log_mu_BV, blend.kl_B, blend.beta_B)


def _drive_rows(log_p_NV: Tensor, log_q_NV: Tensor, driven_N: Tensor) -> Target:
    """mu = q on the rows that the teacher drives (value 1), p on the others."""
    log_mu_NV = torch.where(driven_N[:, None] > 0, log_q_NV, log_p_NV)
    return Target(log_mu_NV, kl_divergence(log_mu_NV, log_p_NV))


def _teacher_forced(warmup: TeacherForcedWarmup, step: int, rows: int, seed: int) -> StepBehavior:
    """The teacher drives the nearest whole number of rollouts to share x rows, drawn anew each step."""
    share = warmup.share_at(step)
    count = round(share * rows)
    if count == 0:
        return student_rollouts(rows, share)
    chosen = generator(seed, "teacher_forced", step).permutation(rows)[:count]
    driven = torch.zeros(rows, dtype=torch.float64)
    driven[torch.from_numpy(chosen)] = 1.0
    return StepBehavior(share, _drive_rows, driven, expected_redraws=0.5 * count / rows)


def _mixture(warmup: MixtureWarmup, step: int, rows: int, seed: int) -> StepBehavior:
    """mu = (1 - lam) p + lam q at each token, or a coin of probability lam for each rollout."""
    weight = warmup.weight_at(step)
    if weight == 0.0:
        return student_rollouts(rows)
    if warmup.level == "sequence":
        coins = generator(seed, "mixture", step).random(rows) < weight
        if not coins.any():
            return student_rollouts(rows, weight)
        return StepBehavior(weight, _drive_rows, torch.from_numpy(coins).double(), 0.5 * weight)
    return StepBehavior(weight, _mix, torch.full((rows,), weight, dtype=torch.float64), 0.5 * weight)


def _mix(log_p_NV: Tensor, log_q_NV: Tensor, weight_N: Tensor) -> Target:
    log_weight_N1 = weight_N.log()[:, None].to(log_p_NV.dtype)
    log_rest_N1 = (1.0 - weight_N).log()[:, None].to(log_p_NV.dtype)
    log_mu_NV = torch.logaddexp(log_p_NV + log_rest_N1, log_q_NV + log_weight_N1)
    return Target(log_mu_NV, kl_divergence(log_mu_NV, log_p_NV))


BEHAVIORS: dict[str, Callable[[Any, int, int, int], StepBehavior]] = {
    "opd": _opd,
    "trb": _trb,
    "mixture": _mixture,
    "teacher_forced": _teacher_forced,
}


def behavior_at(warmup: Warmup, step: int, rows: int, seed: int) -> StepBehavior:
    """The arm's behaviour policy at 0-based `step` for a batch of `rows` rollouts."""
    return BEHAVIORS[warmup.kind](warmup, step, rows, seed)
