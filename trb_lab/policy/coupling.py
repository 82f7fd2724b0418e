"""Sampling from a target distribution, and its coupling with the student."""

from __future__ import annotations

import torch
from torch import Tensor


def sample(log_mu_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Draw one token a row by inverting the cumulative distribution at the given uniforms.

    Args:
        log_mu_BV: log-probabilities [B, V], -inf where there is no mass.
        uniform_B: float64 uniforms in [0, 1), one a row: the caller's keyed draws.

    Returns int64 [B]. The sums are float64, so a token's probability is exact to about 1e-16 times V; the draw is
    a function of the row's own distribution and uniform alone.
    """
    cumulative_BV = log_mu_BV.double().exp().cumsum(-1)
    threshold_B1 = uniform_B.to(cumulative_BV)[:, None] * cumulative_BV[:, -1:]
    return (
        torch.searchsorted(cumulative_BV, threshold_B1, right=True)
        .squeeze(-1)
        .clamp_max(log_mu_BV.shape[-1] - 1)
    )


def total_variation(log_p_BV: Tensor, log_mu_BV: Tensor) -> Tensor:
    """TV(p, mu) = P(redraw): the chance that a token drawn from p is not kept with min(1, mu/p). [B]"""
    return 0.5 * (log_p_BV.exp() - log_mu_BV.exp()).abs().sum(-1)


def kl_divergence(log_a_NV: Tensor, log_b_NV: Tensor) -> Tensor:
    """KL(a || b) over the last dimension, nats; 0 log 0 = 0, infinite where a has mass outside b's support."""
    a_NV = log_a_NV.exp()
    gap_NV = torch.where(a_NV > 0, log_a_NV - log_b_NV, 0.0)
    return (a_NV * gap_NV).sum(-1)


def entropy(log_p_NV: Tensor) -> Tensor:
    """Entropy over the last dimension, nats."""
    return -(log_p_NV.exp() * log_p_NV.clamp_min(-1e30)).sum(-1)
