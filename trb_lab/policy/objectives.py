"""Per-token losses whose gradient is that of the reverse KL from student to teacher.

Each takes log-probabilities of a batch of N positions and returns the loss of each position [N], float32. Only the
student side carries gradient. See method, section 1, for where the forms come from and how their gradients differ:

    renormalised  w_a (ratio_a - mean ratio), w = p renormalised on the support   Rethinking OPD, 2604.13016, eq. 5
    advantage     w_a ratio_a                                                      that paper's released code
    truncated     p_a (ratio_a + 1); at p = q it pushes mass out of the support    labelled negative control
    full          p_a (ratio_a - KL)                                               closed form, whole vocabulary
    sampled       ratio_a of the one token that was drawn                          unbiased where it was drawn from p

as coefficients of grad log p_a, with ratio = log p - log q (renormalised first in the first form).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _masked_log(log_NK: Tensor, valid_NK: Tensor) -> Tensor:
    """Finite stand-ins where there is no mass, so that 0 x (-inf) never makes a NaN gradient."""
    return torch.where(valid_NK, log_NK, torch.zeros_like(log_NK))


def _floor(log_q_NK: Tensor) -> Tensor:
    """A teacher with no mass at a token gives a large finite penalty rather than infinity."""
    return log_q_NK.clamp_min(-1e4)


def renormalised(log_p_NK: Tensor, log_q_NK: Tensor) -> Tensor:
    """KL of both sides renormalised on the student's top-k support; gradient 0 at p = q."""
    valid_NK = torch.isfinite(log_p_NK)
    log_p_NK = log_p_NK - torch.logsumexp(log_p_NK, -1, keepdim=True)
    log_q_NK = _floor(log_q_NK).masked_fill(~valid_NK, float("-inf"))
    log_q_NK = log_q_NK - torch.logsumexp(log_q_NK, -1, keepdim=True)
    ratio_NK = _masked_log(log_p_NK, valid_NK) - _masked_log(log_q_NK, valid_NK)
    return (log_p_NK.exp() * ratio_NK).sum(-1)


def advantage(log_p_NK: Tensor, log_q_NK: Tensor) -> Tensor:
    """-sum sg[advantage] log p with advantage_a = -w_a (log p_a - log q_a); full-vocabulary log-probs."""
    valid_NK = torch.isfinite(log_p_NK)
    weight_NK = torch.softmax(log_p_NK.detach(), dim=-1)
    log_p_NK = _masked_log(log_p_NK, valid_NK)
    ratio_NK = log_p_NK.detach() - _masked_log(_floor(log_q_NK), valid_NK)
    return (weight_NK * ratio_NK * log_p_NK).sum(-1)


def truncated(log_p_NK: Tensor, log_q_NK: Tensor) -> Tensor:
    """sum over the support of p (log p - log q), back-propagated as it is. A negative control."""
    valid_NK = torch.isfinite(log_p_NK)
    ratio_NK = _masked_log(log_p_NK, valid_NK) - _masked_log(_floor(log_q_NK), valid_NK)
    return (log_p_NK.exp() * ratio_NK).sum(-1)


def full(log_p_NV: Tensor, log_q_NV: Tensor) -> Tensor:
    """KL(p || q) over the whole shared vocabulary."""
    return truncated(log_p_NV, log_q_NV)


def sampled(log_p_N: Tensor, log_q_N: Tensor) -> Tensor:
    """sg[log p - log q] log p of the sampled token: its expected gradient under p is that of the full form."""
    return (log_p_N - _floor(log_q_N)).detach() * log_p_N


def imitation(log_p_NV: Tensor, tokens_N: Tensor) -> Tensor:
    """Negative log-likelihood of given tokens; a token without mass gives a large finite loss."""
    return -log_p_NV.gather(-1, tokens_N[:, None]).squeeze(-1).clamp_min(-1e4)


def coarse_kl(log_p_NK: Tensor, log_q_NK: Tensor) -> Tensor:
    """KL with the tokens outside the support as one bucket: at least 0, and at most the KL over the vocabulary.

    What a top-k loss can report as its reverse KL: merging tokens never raises a KL (data processing).
    """
    inside = truncated(log_p_NK, log_q_NK)
    rest_p = (1.0 - log_p_NK.exp().sum(-1)).clamp_min(0.0)
    rest_q = (1.0 - log_q_NK.exp().sum(-1)).clamp_min(1e-7)
    return (inside + torch.special.xlogy(rest_p, rest_p / rest_q)).clamp_min(0.0)


TOP_K_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "renormalised": renormalised,
    "advantage": advantage,
    "truncated": truncated,
}
