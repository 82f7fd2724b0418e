"""Sampling from a target distribution, and its coupling with the student.

A token drafted from p is kept with some probability and redrawn otherwise, so that the outcome is distributed exactly
as mu. The maximal coupling keeps with min(1, mu/p) and redraws from the normalised positive part of mu - p: then
P(redraw) = TV(p, mu), the least possible (method, section 2). An arm with a rule of its own names both parts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Target(NamedTuple):
    """What the tokens of N positions are drawn from."""

    log_mu_NV: Tensor
    kl_N: Tensor
    """KL(mu || p), nats."""
    beta_N: Tensor | None = None
    """Exponent of the geometric blend, where the arm has one."""
    keep_NV: Tensor | None = None
    """Probability that a drafted token is kept; None is the maximal coupling."""
    log_redraw_NV: Tensor | None = None
    """What a rejected draft is redrawn from; None is the positive part of mu - p."""

    def at(self, index: Tensor) -> Target:
        """The target of some positions."""
        others = [None if part is None else part[index] for part in self[2:]]
        return Target(self.log_mu_NV[index], self.kl_N[index], *others)


def sample(log_mu_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Draw one token a row by inverting the cumulative distribution at the given uniforms.

    Args:
        log_mu_BV: log-probabilities [B, V], -inf where there is no mass.
        uniform_B: float64 uniforms in [0, 1), one a row: the caller's keyed draws.

    Returns int64 [B]. The sums are float64, so a token's probability is exact to about 1e-16 times V; the draw is
    a function of the row's own distribution and uniform alone.
    """
    return _invert(log_mu_BV.double().exp(), uniform_B)


def _invert(weights_BV: Tensor, uniform_B: Tensor) -> Tensor:
    cumulative_BV = weights_BV.cumsum(-1)
    threshold_B1 = uniform_B.to(cumulative_BV)[:, None] * cumulative_BV[:, -1:]
    return (
        torch.searchsorted(cumulative_BV, threshold_B1, right=True)
        .squeeze(-1)
        .clamp_max(weights_BV.shape[-1] - 1)
    )


def keep_probability(log_p_NV: Tensor, target: Target, drafts_N: Tensor) -> Tensor:
    """Probability that each drafted token is kept. [N]"""
    picked_N1 = drafts_N[:, None]
    if target.keep_NV is not None:
        return target.keep_NV.gather(-1, picked_N1).squeeze(-1)
    gap_N1 = target.log_mu_NV.gather(-1, picked_N1) - log_p_NV.gather(-1, picked_N1)
    return gap_N1.squeeze(-1).exp().clamp_max(1.0)


def redraw(log_p_BV: Tensor, target: Target, uniform_B: Tensor) -> Tensor:
    """One replacement a row for a rejected draft. [B]

    Where rounding leaves no positive part (mu = p: such a draft is never rejected) the draw is from mu.
    """
    if target.log_redraw_NV is not None:
        return sample(target.log_redraw_NV, uniform_B)
    mu_BV = target.log_mu_NV.double().exp()
    weights_BV = (mu_BV - log_p_BV.double().exp()).clamp_min(0.0)
    return _invert(torch.where(weights_BV.sum(-1, keepdim=True) > 0, weights_BV, mu_BV), uniform_B)


def redraw_rate(log_p_NV: Tensor, target: Target) -> Tensor:
    """Probability that a draft from p is redrawn; TV(p, mu) under the maximal coupling. [N]"""
    if target.keep_NV is None:
        return total_variation(log_p_NV, target.log_mu_NV)
    return (1.0 - (log_p_NV.exp() * target.keep_NV).sum(-1)).clamp_min(0.0)


def total_variation(log_p_BV: Tensor, log_mu_BV: Tensor) -> Tensor:
    """TV(p, mu): the least chance with which a token drawn from p must be redrawn to follow mu. [B]"""
    return 0.5 * (log_p_BV.exp() - log_mu_BV.exp()).abs().sum(-1)


def kl_divergence(log_a_NV: Tensor, log_b_NV: Tensor) -> Tensor:
    """KL(a || b) over the last dimension, nats; 0 log 0 = 0, infinite where a has mass outside b's support."""
    a_NV = log_a_NV.exp()
    gap_NV = torch.where(a_NV > 0, log_a_NV - log_b_NV, 0.0)
    return (a_NV * gap_NV).sum(-1)


def entropy(log_p_NV: Tensor) -> Tensor:
    """Entropy over the last dimension, nats."""
    return -(log_p_NV.exp() * log_p_NV.clamp_min(-1e30)).sum(-1)
