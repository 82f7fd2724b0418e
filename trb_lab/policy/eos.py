"""One stop event for two models.

Shape suffixes in this room: B rows, N tokens (any batch of positions), V shared vocabulary, W a model's own logit
width, K support size.
"""

from __future__ import annotations

from dataclasses import dataclass

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
