"""The trust-region solver: the distribution closest to the teacher within a KL budget around the student.

    mu* = argmin_mu KL(mu || q)   subject to   KL(mu || p) <= eps                       (TRB, arXiv 2605.31159)

Closed form: mu_beta(a) = p(a)^(1-beta) q(a)^beta / Z_beta on the common support, with beta in [0, 1] the largest
feasible value. With r = log q - log p and A(beta) = log sum_a p(a) exp(beta r(a)):

    KL(mu_beta || p) = beta A'(beta) - A(beta),   A' = E_mu[r],   d/dbeta KL = beta Var_mu[r] >= 0.

The root of sqrt(2 KL(beta)) = sqrt(2 eps), almost linear in beta, is found by Newton steps inside a bracket. As in
the ITP method, a step may not leave the interval from which plain bisection would still finish in time, so the
number of passes has a bound whatever the logits: no host synchronisation is needed on a GPU. Everything is float64
inside: beta A' and A nearly cancel at small budgets.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .eos import NEG_INF

BETA_TOLERANCE = 2e-7
"""Half the widest final bracket."""
BUDGET_MARGIN = 3e-5
"""The solver aims at eps (1 - margin), so that rounding in what follows cannot carry the KL over the budget."""
KL_TOLERANCE = 2e-5
"""A row whose KL is this close (relative) to its aim is done."""
SLACK_PASSES = 8
"""Passes in which Newton is free (it comes in from one side, so that the bracket stays wide); n0 of the ITP method."""
MAX_PASSES = math.ceil(math.log2(1.0 / (2.0 * BETA_TOLERANCE))) + SLACK_PASSES


TINY = 1e-300
"""Stands for 0 where it divides."""
CPU_CHUNK = 200_000
"""Probabilities worked on at once on a CPU: larger temporaries leave the cache and cost page faults."""


class Blend(NamedTuple):
    """A batch of blends, in the dtype of the student's log-probs."""

    log_mu_BV: Tensor
    beta_B: Tensor
    kl_B: Tensor
    """KL(mu || p), nats."""


class _Problem(NamedTuple):
    """Rows on the common support, float64: log p (-inf outside it) and r = log q - log p (0 outside it)."""

    log_p_BV: Tensor
    ratio_BV: Tensor

    def rows(self, index: Tensor) -> _Problem:
        return _Problem(self.log_p_BV[index], self.ratio_BV[index])


def trust_region(log_p_BV: Tensor, log_q_BV: Tensor, eps: float | Tensor) -> Blend:
    """Blend student p towards teacher q as far as the budget allows.

    Args:
        log_p_BV, log_q_BV: log-probabilities [B, V]; -inf marks tokens without mass.
        eps: budget in nats, a number or one for each row [B]; 0 gives p.

    Rows whose common support is empty, or whose KL jumps over eps as beta leaves 0 (q = 0 on much of p), give p.
    Where even beta = 1 is feasible the blend is q renormalised on the common support, which is q itself where
    p > 0 wherever q > 0.

    On a GPU with Triton the fused kernels do the work (`fused.blend_log_probs`; float64 input excepted).
    """
    if log_p_BV.device.type == "cuda" and torch.float64 not in (log_p_BV.dtype, log_q_BV.dtype):
        from . import fused

        if fused.available(log_p_BV.device):
            log_mu_BV, solved = fused.blend_log_probs(log_p_BV, log_q_BV, eps)
            return Blend(log_mu_BV, solved.beta.to(log_p_BV.dtype), solved.kl.to(log_p_BV.dtype))
    eps_B = torch.as_tensor(eps, dtype=torch.float64, device=log_p_BV.device).expand(log_p_BV.shape[0])
    rows = log_p_BV.shape[0]
    if log_p_BV.device.type == "cpu":
        rows = max(1, CPU_CHUNK // log_p_BV.shape[-1])
    parts = zip(log_p_BV.split(rows), log_q_BV.split(rows), eps_B.split(rows), strict=True)
    found = [_solve(*part) for part in parts]
    return found[0] if len(found) == 1 else Blend(*(torch.cat(column) for column in zip(*found, strict=True)))


def _solve(log_p_BV: Tensor, log_q_BV: Tensor, eps_B: Tensor) -> Blend:
    p_BV = torch.log_softmax(log_p_BV.double(), dim=-1)
    q_BV = torch.log_softmax(log_q_BV.double(), dim=-1)
    common_BV = torch.isfinite(p_BV) & torch.isfinite(q_BV)
    problem = _Problem(p_BV.masked_fill(~common_BV, NEG_INF), torch.where(common_BV, q_BV - p_BV, 0.0))
    # As beta leaves 0 the KL jumps to -log p(common support): 0 where q > 0 on all of p.
    jump_B = -torch.logsumexp(problem.log_p_BV, dim=-1)
    usable_B = common_BV.any(-1) & (eps_B > 0) & (jump_B <= eps_B)
    beta_B = _largest_feasible(problem, eps_B, usable_B)
    tilted_BV, normaliser_B, mu_BV = _tilt(problem, beta_B)
    log_mu_BV = tilted_BV - normaliser_B[:, None]
    kl_B = (beta_B * (mu_BV * problem.ratio_BV).sum(-1) - normaliser_B).clamp_min(0.0)
    use_p_B = beta_B == 0
    return Blend(
        torch.where(use_p_B[:, None], log_p_BV, log_mu_BV.to(log_p_BV.dtype)),
        beta_B.to(log_p_BV.dtype),
        torch.where(use_p_B, 0.0, kl_B).to(log_p_BV.dtype),
    )


def _tilt(problem: _Problem, beta_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log (p exp(beta r)) [B, V], its normaliser A(beta), and mu_beta up to rounding."""
    tilted_BV = torch.addcmul(problem.log_p_BV, beta_B[:, None], problem.ratio_BV)
    peak_B1 = tilted_BV.amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    mu_BV = (tilted_BV - peak_B1).exp_()
    total_B1 = mu_BV.sum(-1, keepdim=True)
    normaliser_B = (peak_B1 + total_B1.log()).squeeze(-1).nan_to_num(neginf=0.0)
    return tilted_BV, normaliser_B, mu_BV.div_(total_B1.clamp_min(TINY))


def _moments(problem: _Problem, beta_B: Tensor) -> tuple[Tensor, Tensor]:
    """KL(mu_beta || p) and Var_mu[r]."""
    _, normaliser_B, mu_BV = _tilt(problem, beta_B)
    weighted_BV = mu_BV.mul_(problem.ratio_BV)
    mean_B = weighted_BV.sum(-1)
    variance_B = weighted_BV.mul_(problem.ratio_BV).sum(-1) - mean_B.square()
    return (beta_B * mean_B - normaliser_B).clamp_min(0.0), variance_B.clamp_min(0.0)


def _largest_feasible(problem: _Problem, eps_B: Tensor, usable_B: Tensor) -> Tensor:
    """The largest beta in [0, 1] with KL(mu_beta || p) <= eps; 0 on rows that are not usable."""
    ones_B = torch.ones_like(eps_B)
    kl_B, _ = _moments(problem, ones_B)
    beta_B = (usable_B & (kl_B <= eps_B)).to(eps_B.dtype)
    open_B = usable_B & (kl_B > eps_B)
    if eps_B.device.type != "cpu":  # to look at which rows are open would cost a synchronisation
        return torch.where(open_B, _root(problem, eps_B), beta_B)
    index = open_B.nonzero().squeeze(-1)
    beta_B[index] = _root(problem.rows(index), eps_B[index])
    return beta_B


def _root(problem: _Problem, eps_B: Tensor) -> Tensor:
    """Largest feasible beta of rows with KL(mu_1 || p) > eps. On the CPU rows leave the batch when they are done."""
    aim_B = eps_B * (1.0 - BUDGET_MARGIN)
    target_B = (2.0 * aim_B).sqrt()
    low_B, high_B, beta_B = torch.zeros_like(eps_B), torch.ones_like(eps_B), torch.zeros_like(eps_B)
    done_B = torch.zeros_like(eps_B, dtype=torch.bool)
    on_cpu = eps_B.device.type == "cpu"
    guess_B = _first_guess(problem, target_B)
    found_B, rows_B = beta_B.clone(), torch.arange(len(eps_B))
    for passes in range(MAX_PASSES):
        guess_B = _inside(guess_B, low_B, high_B, MAX_PASSES - passes)
        kl_B, variance_B = _moments(problem, guess_B)
        feasible_B = kl_B <= aim_B * (1.0 + KL_TOLERANCE)
        beta_B = torch.where(feasible_B & ~done_B, guess_B, beta_B)
        low_B = torch.where(feasible_B, guess_B, low_B)
        high_B = torch.where(feasible_B, high_B, guess_B)
        done_B = done_B | (feasible_B & (kl_B >= aim_B * (1.0 - KL_TOLERANCE)))
        done_B = done_B | (high_B - low_B <= 2.0 * BETA_TOLERANCE)
        g_B = (2.0 * kl_B).sqrt()
        guess_B = guess_B - (g_B - target_B) * g_B / (guess_B * variance_B)
        if on_cpu and bool(done_B.any()):
            found_B[rows_B[done_B]] = beta_B[done_B]
            left = (~done_B).nonzero().squeeze(-1)
            if not len(left):
                return found_B
            problem, rows_B, done_B = problem.rows(left), rows_B[left], done_B[left]
            aim_B, target_B, beta_B = aim_B[left], target_B[left], beta_B[left]
            low_B, high_B, guess_B = low_B[left], high_B[left], guess_B[left]
    if on_cpu:
        found_B[rows_B] = beta_B
        return found_B
    return beta_B


def _first_guess(problem: _Problem, target_B: Tensor) -> Tensor:
    """beta from the behaviour near 0: sqrt(2 KL) = s beta (1 + c beta + ...) with c = k3 / (3 s^2).

    s^2 and k3 are the variance and the third central moment of r under p.
    """
    p_BV = problem.log_p_BV.exp()
    total_B = p_BV.sum(-1).clamp_min(TINY)
    centred_BV = problem.ratio_BV - ((p_BV * problem.ratio_BV).sum(-1) / total_B)[:, None]
    weighted_BV = p_BV.mul_(centred_BV).mul_(centred_BV)
    variance_B = weighted_BV.sum(-1) / total_B
    third_B = weighted_BV.mul_(centred_BV).sum(-1) / total_B
    slope_B = variance_B.sqrt()
    bend_B = (third_B / (3.0 * variance_B) / slope_B * target_B).clamp(-0.2, 4.0)
    # The root of s beta (1 + c beta) = target; `bend` is c target / s, kept where the square root is real.
    return target_B / slope_B * 2.0 / (1.0 + (1.0 + 4.0 * bend_B).sqrt())


def _inside(guess_B: Tensor, low_B: Tensor, high_B: Tensor, passes_left: int) -> Tensor:
    """The guess, moved towards the midpoint as far as needed for bisection to finish in `passes_left` passes."""
    half_B = 0.5 * (high_B - low_B)
    radius_B = (2.0 * BETA_TOLERANCE * 2.0 ** (passes_left - 1) - half_B).clamp_min(0.0)
    radius_B = torch.minimum(radius_B, half_B)
    middle_B = low_B + half_B
    # A Newton step that leaves the bracket (NaN included) says nothing: bisect.
    guess_B = torch.where((guess_B > low_B) & (guess_B < high_B), guess_B, middle_B)
    return torch.minimum(torch.maximum(guess_B, middle_B - radius_B), middle_B + radius_B)
