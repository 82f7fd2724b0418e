"""Behaviour policies: what rollout tokens are drawn from.

A behaviour policy is a pure function from (student log-probs, teacher log-probs, each row's annealed value) to a
target distribution. The arms that use them are in arms.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .coupling import Target, kl_divergence
from .trust_region import trust_region

__all__ = [
    "StepBehavior",
    "Target",
    "blend_rows",
    "drive_rows",
    "mix_rows",
    "replace_outside_top_k",
    "saved_up",
    "student_rollouts",
    "tempered_rollouts",
    "trust_region_rollouts",
]


@dataclass(frozen=True)
class StepBehavior:
    """The behaviour policy of one training step."""

    value: float
    """The annealed quantity: KL budget (nats), mixture weight, share of rollouts, or temperature."""
    target: Callable[[Tensor, Tensor, Tensor], Target] | None
    """(log_p_NV, log_q_NV, value_N) -> Target; None where the teacher takes no part: it is not run then."""
    row_values: Tensor
    """float64 [rows of the step]: the value of each rollout. Rows may differ: a coin, a share, mixed budgets."""
    expected_redraws: float = 0.0
    """A guess of the share of drafted tokens that will be redrawn, for steps before any was seen."""
    is_trust_region: bool = False
    """`target` is the blend inside a KL budget of `row_values`: engines may use a fused kernel of it."""
    is_banked: bool = False
    """A row keeps what its tokens do not spend: token t (from 0) has (t + 1) row_values less the KL spent so far."""
    alone: Callable[[Tensor], Tensor] | None = None
    """log_p_NV -> log_mu_NV of rollouts without a teacher; None is the student itself. Excludes `target`."""

    @property
    def needs_teacher(self) -> bool:
        return self.target is not None


def student_rollouts(rows: int, value: float = 0.0) -> StepBehavior:
    """mu = p; `value` is the annealed quantity, where it is too small to change a row."""
    return StepBehavior(value, None, torch.zeros(rows, dtype=torch.float64))


def tempered_rollouts(rows: int, temperature: float) -> StepBehavior:
    """mu = p^(1/tau) / Z; plain student rollouts at tau = 1."""
    if temperature == 1.0:
        return student_rollouts(rows, 1.0)
    values = torch.full((rows,), temperature, dtype=torch.float64)
    return StepBehavior(temperature, None, values, alone=lambda log_p: (log_p / temperature).log_softmax(-1))


def trust_region_rollouts(budgets: Tensor, value: float, *, banked: bool = False) -> StepBehavior:
    """mu = p^(1-beta) q^beta / Z with the largest beta in each row's budget (nats; arXiv 2605.31159)."""
    # Pinsker bounds the redraw rate by sqrt(eps / 2); what was seen lies at half to three quarters of that.
    guess = 0.75 * math.sqrt(min(value, 1.0) / 2.0)
    return StepBehavior(value, blend_rows, budgets.double(), guess, is_trust_region=True, is_banked=banked)


def saved_up(bank_A: Tensor, value_A: Tensor, kl_A: Tensor) -> Tensor:
    """What a banked row has left after one more token: its allowance joins the bank, and the KL spent leaves it."""
    return (bank_A + value_A - kl_A.double()).clamp_min(0.0)


def blend_rows(log_p_NV: Tensor, log_q_NV: Tensor, budget_N: Tensor) -> Target:
    """The geometric blend inside each position's budget."""
    blend = trust_region(log_p_NV, log_q_NV, budget_N)
    return Target(blend.log_mu_BV, blend.kl_B, blend.beta_B)


def drive_rows(log_p_NV: Tensor, log_q_NV: Tensor, driven_N: Tensor) -> Target:
    """mu = q on the rows that the teacher drives (value 1), p on the others."""
    log_mu_NV = torch.where(driven_N[:, None] > 0, log_q_NV, log_p_NV)
    return Target(log_mu_NV, kl_divergence(log_mu_NV, log_p_NV))


def mix_rows(log_p_NV: Tensor, log_q_NV: Tensor, weight_N: Tensor) -> Target:
    """mu = (1 - weight) p + weight q."""
    log_weight_N1 = weight_N.log()[:, None].to(log_p_NV.dtype)
    log_rest_N1 = (1.0 - weight_N).log()[:, None].to(log_p_NV.dtype)
    log_mu_NV = torch.logaddexp(log_p_NV + log_rest_N1, log_q_NV + log_weight_N1)
    return Target(log_mu_NV, kl_divergence(log_mu_NV, log_p_NV))


def replace_outside_top_k(
    log_p_NV: Tensor, log_q_NV: Tensor, top_k: int, temperature: float, *, tests_another_draw: bool = False
) -> Target:
    """SKD's rule (arXiv 2410.11325): a draft outside the teacher's top-K is replaced by a draw from q^(1/tau).

    As published the draft itself is tested: mu = p 1[top-K] + p(outside) q^(1/tau). With `tests_another_draw` a second,
    independent draw of the student is tested in its place: mu = p(top-K) p + p(outside) q^(1/tau).
    """
    inside_NV = torch.zeros_like(log_q_NV).scatter(-1, log_q_NV.topk(top_k, dim=-1).indices, 1.0)
    log_cold_NV = (log_q_NV / temperature).log_softmax(-1)
    p_NV = log_p_NV.exp()
    keep_NV = inside_NV
    if tests_another_draw:
        keep_NV = (p_NV * inside_NV).sum(-1, keepdim=True).clamp_max(1.0).expand_as(p_NV)
    outside_N1 = (p_NV * (1.0 - inside_NV)).sum(-1, keepdim=True)
    log_mu_NV = (p_NV * keep_NV + outside_N1 * log_cold_NV.exp()).log()
    return Target(log_mu_NV, kl_divergence(log_mu_NV, log_p_NV), keep_NV=keep_NV, log_redraw_NV=log_cold_NV)
