"""One stop event for two models.

Shape suffixes in this room: B rows, N tokens (any batch of positions), V shared vocabulary, W a model's own logit
width, K support size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

NEG_INF = float("-inf")


@dataclass(frozen=True)
class StopMap:
    """How one model's logits of width W map to the shared vocabulary of V ids. Index tensors live on its device."""

    size: int
    """V."""
    stop_id: int
    """Coordinate of the shared stop event."""
    stop_ids: Tensor
    """int64: the union of both models' stop ids, as far as this model has them."""
    masked_ids: Tensor
    """int64: shared ids that carry no mass."""


def canonical_log_probs(logits_NW: Tensor, stops: StopMap) -> Tensor:
    """Log-probabilities over the shared vocabulary, stop mass on one coordinate.

    The stop logit is the logsumexp over the union of both models' stop ids; the other stop ids and ids that are not
    shared get -inf; the rest is renormalised (method, section 2, EOS). Takes any float dtype and leading shape, and
    returns float32 (float64 for float64 input) [..., V]. Differentiable.
    """
    logits = logits_NW if logits_NW.dtype == torch.float64 else logits_NW.float()
    stop = torch.logsumexp(logits[..., stops.stop_ids], dim=-1, keepdim=True)
    shared = logits[..., : stops.size]
    if stops.masked_ids.numel():
        shared = shared.index_fill(-1, stops.masked_ids, NEG_INF)
    index = torch.full_like(stop, stops.stop_id, dtype=torch.int64)
    return torch.log_softmax(shared.scatter(-1, index, stop), dim=-1)


class Scores(NamedTuple):
    """One model's canonical next-token distribution, unnormalised and in place: what the fused kernels read.

    The same distribution as `canonical_log_probs`, without a float32 copy of the logits: the score of id `a` is
    `logits_NW[:, a]` for a < size, but `stop_N` at `stop_id`.
    """

    logits_NW: Tensor
    """float32 or bfloat16; ids without mass hold -inf."""
    stop_N: Tensor
    """float32: logsumexp over the stop ids."""
    stop_id: int
    size: int
    """V: columns from here on do not count."""

    def at(self, ids_NK: Tensor) -> Tensor:
        """Scores of some ids, float32 [N, K]."""
        scores_NK = self.logits_NW.gather(-1, ids_NK).float()
        return torch.where(ids_NK == self.stop_id, self.stop_N[:, None], scores_NK)


def canonical_scores(logits_NW: Tensor, stops: StopMap) -> Scores:
    """The model's distribution on the shared vocabulary.

    Overwrites the 2-D `logits_NW`: masked ids with -inf, and the stop id with its merged score as far as the dtype
    holds it (which is enough to rank tokens by).
    """
    stop_N = torch.logsumexp(logits_NW[:, stops.stop_ids].float(), dim=-1)
    if stops.masked_ids.numel():
        logits_NW.index_fill_(-1, stops.masked_ids, NEG_INF)
    logits_NW[:, stops.stop_id] = stop_N.to(logits_NW.dtype)
    return Scores(logits_NW, stop_N, stops.stop_id, stops.size)
