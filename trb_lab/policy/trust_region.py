"""The trust-region solver: the distribution closest to the teacher within a KL budget around the student.

    mu* = argmin_mu KL(mu || q)   subject to   KL(mu || p) <= eps                       (TRB, arXiv 2605.31159)

Closed form: mu_beta(a) = p(a)^(1-beta) q(a)^beta / Z_beta on the common support, with beta in [0, 1] the largest
feasible value. With r = log q - log p and A(beta) = log sum_a p(a) exp(beta r(a)):

    KL(mu_beta || p) = beta A'(beta) - A(beta),      d/dbeta KL = beta Var_mu[r] >= 0.

The root of sqrt(2 KL(beta)) = sqrt(2 eps), almost linear in beta, is found by Newton steps inside a bracket. As in
the ITP method, a step may not leave the interval from which plain bisection would still finish in time, so the
number of passes has a bound whatever the logits: no host synchronisation is needed on a GPU.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .eos import NEG_INF

BETA_TOLERANCE = 2e-7
"""Half the widest final bracket."""
BUDGET_MARGIN = 4.5e-5
"""The solver aims at eps (1 - margin), so that float32 rounding cannot carry the realised KL over the budget."""
KL_TOLERANCE = 3e-5
"""A row whose KL is this close (relative) to its aim is done."""
SLACK_PASSES = 3
"""Passes that Newton may waste before bisection takes over (n0 of the ITP method)."""
MAX_PASSES = math.ceil(math.log2(1.0 / (2.0 * BETA_TOLERANCE))) + SLACK_PASSES


class Blend(NamedTuple):
    """A batch of blends. float32 (float64 for float64 input)."""

    log_mu_BV: Tensor
    beta_B: Tensor
    kl_B: Tensor
    """KL(mu || p), nats."""


class _Problem(NamedTuple):
    """Rows restricted to the common support; excess is p's mass outside it."""

    log_p_BV: Tensor
    ratio_BV: Tensor
    excess_B: Tensor


def trust_region(log_p_BV: Tensor, log_q_BV: Tensor, eps: float | Tensor) -> Blend:
    """Blend student p towards teacher q as far as the budget allows.

    Args:
        log_p_BV, log_q_BV: normalised log-probabilities [B, V]; -inf marks tokens without mass.
        eps: budget in nats, a number or one for each row [B]; 0 gives p.

    Rows whose common support is empty, or whose KL jumps over eps as beta leaves 0 (q = 0 on much of p), give p.
    Where even beta = 1 is feasible the blend is q renormalised on the common support, which is q itself where
    p > 0 wherever q > 0.
    """
    dtype = torch.float64 if log_p_BV.dtype == torch.float64 else torch.float32
    log_p_BV, log_q_BV = log_p_BV.to(dtype), log_q_BV.to(dtype)
    eps_B = torch.as_tensor(eps, dtype=dtype, device=log_p_BV.device).expand(log_p_BV.shape[0])
    common_BV = torch.isfinite(log_p_BV) & torch.isfinite(log_q_BV)
    problem = _Problem(
        log_p_BV.masked_fill(~common_BV, NEG_INF),
        torch.where(common_BV, log_q_BV - log_p_BV, 0.0),
        log_p_BV.exp().masked_fill(common_BV, 0.0).sum(-1),
    )
    usable_B = common_BV.any(-1) & (eps_B > 0) & (-torch.log1p(-problem.excess_B.clamp(max=1.0)) <= eps_B)
    beta_B = _largest_feasible(problem, eps_B, usable_B)
    log_mu_BV, kl_B, _ = _blend(problem, beta_B)
    use_p_B = beta_B == 0
    return Blend(
        torch.where(use_p_B[:, None], log_p_BV, log_mu_BV), beta_B, torch.where(use_p_B, torch.zeros_like(kl_B), kl_B)
    )


def _blend(problem: _Problem, beta_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log mu_beta, KL(mu_beta || p) and Var_mu[r].

    KL is summed as p phi(t) with t = log(mu/p) and phi(t) = e^t (t - 1) + 1 >= 0: all terms are positive, so
    nothing cancels at small budgets, and an error d in the normaliser A moves the sum by only d KL. Tokens
    outside the common support contribute phi(-inf) = 1 each.
    """
    scaled_BV = beta_B[:, None] * problem.ratio_BV
    normaliser_B = torch.logsumexp(problem.log_p_BV + scaled_BV, dim=-1)
    normaliser_B = torch.where(torch.isfinite(normaliser_B), normaliser_B, 0.0)
    t_BV = scaled_BV - normaliser_B[:, None]
    log_mu_BV = problem.log_p_BV + t_BV
    mu_BV, p_BV = log_mu_BV.exp(), problem.log_p_BV.exp()
    series = t_BV * t_BV * (1 / 2 + t_BV * (1 / 3 + t_BV * (1 / 8 + t_BV * (1 / 30 + t_BV * (1 / 144 + t_BV / 840)))))
    # Away from 0 the closed form is accurate; p phi(t) = mu (t - 1) + p stays finite where e^t would overflow.
    terms_BV = torch.where(t_BV.abs() < 0.1, p_BV * series, mu_BV * (t_BV - 1.0) + p_BV)
    terms_BV = torch.where(p_BV > 0, terms_BV, mu_BV * (t_BV - 1.0))
    kl_B = torch.where(torch.isfinite(terms_BV), terms_BV, 0.0).sum(-1) + problem.excess_B
    mean_B = (mu_BV * problem.ratio_BV).sum(-1, keepdim=True)
    variance_B = (mu_BV * (problem.ratio_BV - mean_B).square()).sum(-1)
    return log_mu_BV, kl_B, variance_B


def _largest_feasible(problem: _Problem, eps_B: Tensor, usable_B: Tensor) -> Tensor:
    """The largest beta in [0, 1] with KL(mu_beta || p) <= eps; 0 on rows that are not usable."""
    aim_B = eps_B * (1.0 - BUDGET_MARGIN)
    target_B = (2.0 * aim_B).sqrt()
    low_B, high_B = torch.zeros_like(eps_B), torch.ones_like(eps_B)
    _, kl_B, variance_B = _blend(problem, high_B)
    teacher_fits_B = kl_B <= eps_B
    beta_B = torch.where(teacher_fits_B, 1.0, 0.0)
    done_B = teacher_fits_B | ~usable_B
    guess_B = target_B / (2.0 * kl_B).sqrt().clamp_min(1e-30)
    for passes in range(MAX_PASSES):
        if guess_B.device.type == "cpu" and bool(done_B.all()):
            break  # the rest would change nothing; on a GPU the test would cost a synchronisation
        guess_B = _inside(guess_B, low_B, high_B, MAX_PASSES - passes)
        _, kl_B, variance_B = _blend(problem, guess_B)
        feasible_B = kl_B <= aim_B * (1.0 + KL_TOLERANCE)
        close_B = feasible_B & (kl_B >= aim_B * (1.0 - KL_TOLERANCE))
        beta_B = torch.where(feasible_B & ~done_B, guess_B, beta_B)
        low_B = torch.where(feasible_B, guess_B, low_B)
        high_B = torch.where(feasible_B, high_B, guess_B)
        done_B = done_B | close_B | (high_B - low_B <= 2.0 * BETA_TOLERANCE)
        g_B = (2.0 * kl_B).sqrt()
        guess_B = guess_B - (g_B - target_B) * g_B / (guess_B * variance_B).clamp_min(1e-30)
    return torch.where(usable_B, beta_B, 0.0)


def _inside(guess_B: Tensor, low_B: Tensor, high_B: Tensor, passes_left: int) -> Tensor:
    """The guess, moved towards the midpoint as far as needed for bisection to finish in `passes_left` passes."""
    half_B = 0.5 * (high_B - low_B)
    radius_B = (2.0 * BETA_TOLERANCE * 2.0 ** (passes_left - 1) - half_B).clamp_min(0.0)
    radius_B = torch.minimum(radius_B, half_B)
    middle_B = low_B + half_B
    # A Newton step that leaves the bracket (NaN included) says nothing: bisect.
    guess_B = torch.where((guess_B > low_B) & (guess_B < high_B), guess_B, middle_B)
    return torch.minimum(torch.maximum(guess_B, middle_B - radius_B), middle_B + radius_B)
