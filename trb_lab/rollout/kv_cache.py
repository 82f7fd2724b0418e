"""A ragged KV cache for any transformers causal LM: rows of unequal length, in place, without padding.

Slot s holds `lengths_S[s]` keys and values of one row at positions 0, 1, ...; a pass over G tokens a row writes at
the next G positions and every query sees the positions up to its own. To roll a row back is to lower its length: what
lies behind is written over before it is seen again. Rows in use are slots 0 .. rows-1.

The cache reaches a model's attention layers as the keyword `ragged` of its forward pass, through an attention
function registered with transformers (ATTENTION); key-value heads are never repeated for their query group.

Shape suffixes: A rows in use, S slots, G tokens of a pass, H query heads, K key-value heads, C capacity, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from trb_lab.errors import UsageError

from . import attention_kernel

ATTENTION = "trb_ragged"


class RaggedCache:
    """Keys and values of `slots` rows of at most `capacity` tokens. Layers allocate when they are first seen."""

    def __init__(self, slots: int, capacity: int, device: torch.device) -> None:
        self.slots, self.capacity = slots, capacity
        self.lengths_S = torch.zeros(slots, dtype=torch.int32, device=device)
        self.saw_window = False
        """Whether a layer has asked for a sliding window."""
        self.use_kernel = attention_kernel.available(device)
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._prefill: tuple[Tensor, Tensor] | None = None
        self._step: _Step | None = None

    @property
    def num_bytes(self) -> int:
        return sum(buffer.nbytes for buffers in self.layers.values() for buffer in buffers)

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """What transformers calls before attention. The new keys pass through: `attend` stores them."""
        return key, value

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    @contextmanager
    def prefilling(self, slots_A: Tensor, source_A: Tensor) -> Iterator[None]:
        """Within it a pass fills `slots_A` from position 0 on; slot i takes row source_A[i] of the pass."""
        self._prefill = (slots_A, source_A)
        try:
            yield
        finally:
            self._prefill = None

    @contextmanager
    def extending(self, rows: int, tokens: int) -> Iterator[None]:
        """Within it a pass extends slots 0 .. rows-1 by `tokens` each. Lengths stay: the caller moves them."""
        if not self.use_kernel:
            self._step = _Step.of(self.lengths_S[:rows], tokens)
        try:
            yield
        finally:
            self._step = None

    def move(self, source: int, target: int) -> None:
        """Copy a row to another slot."""
        for buffers in self.layers.values():
            for buffer_SKCD in buffers:
                buffer_SKCD[target] = buffer_SKCD[source]
        self.lengths_S[target] = self.lengths_S[source]

    def attend(
        self,
        layer: int,
        query_AHGD: Tensor,
        key_AKGD: Tensor,
        value_AKGD: Tensor,
        scaling: float,
        window: int | None,
    ) -> Tensor:
        """Store the pass's keys and values and attend. Returns [A, G, H, D]."""
        self.saw_window = self.saw_window or window is not None
        if layer not in self.layers:
            shape = (self.slots, key_AKGD.shape[1], self.capacity, key_AKGD.shape[-1])
            self.layers[layer] = (key_AKGD.new_zeros(shape), value_AKGD.new_zeros(shape))
        keys_SKCD, values_SKCD = self.layers[layer]
        if self._prefill is not None:
            slots_A, source_A = self._prefill
            width = key_AKGD.shape[2]
            keys_SKCD[slots_A, :, :width] = key_AKGD[source_A]
            values_SKCD[slots_A, :, :width] = value_AKGD[source_A]
            return _causal(query_AHGD, key_AKGD, value_AKGD, scaling, window)
        rows = query_AHGD.shape[0]
        keys_AKCD, values_AKCD, lengths_A = keys_SKCD[:rows], values_SKCD[:rows], self.lengths_S[:rows]
        if self.use_kernel:
            attention_kernel.write_kv(keys_AKCD, values_AKCD, key_AKGD, value_AKGD, lengths_A)
            return attention_kernel.ragged_attention(
                query_AHGD, keys_AKCD, values_AKCD, lengths_A, scaling, window
            )
        assert self._step is not None, "a pass outside `extending`"
        keys_AKCD[self._step.place_A1, :, self._step.at_AG] = key_AKGD.transpose(1, 2)
        values_AKCD[self._step.place_A1, :, self._step.at_AG] = value_AKGD.transpose(1, 2)
        return self._step.attend(query_AHGD, keys_AKCD, values_AKCD, scaling, window)


def _causal(
    query_AHGD: Tensor, key_AKGD: Tensor, value_AKGD: Tensor, scaling: float, window: int | None
) -> Tensor:
    """Right-padded rows from position 0: no query sees the padding, which lies behind it."""
    length, mask = query_AHGD.shape[2], None
    if window is not None and length > window:
        distance = torch.arange(length)[:, None] - torch.arange(length)[None]
        mask = ((distance >= 0) & (distance < window)).to(query_AHGD.device)
    grouped = query_AHGD.shape[1] != key_AKGD.shape[1]
    out_AHGD = scaled_dot_product_attention(
        query_AHGD, key_AKGD, value_AKGD, mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
    )
    return out_AHGD.transpose(1, 2)


class _Step(NamedTuple):
    """A pass without the kernel: where its tokens go, and what they see. The same for all layers."""

    place_A1: Tensor
    at_AG: Tensor
    """Positions of the new tokens."""
    seen_AGC: Tensor
    """Additive mask, as long as the longest row: 0 or -inf."""

    @staticmethod
    def of(lengths_A: Tensor, tokens: int) -> _Step:
        device = lengths_A.device
        at_AG = lengths_A.long()[:, None] + torch.arange(tokens, device=device)
        hidden_AGC = torch.arange(int(lengths_A.max()) + tokens, device=device) > at_AG[..., None]
        seen_AGC = torch.zeros(hidden_AGC.shape, device=device).masked_fill_(hidden_AGC, float("-inf"))
        return _Step(torch.arange(len(lengths_A), device=device)[:, None], at_AG, seen_AGC)

    def attend(
        self, query_AHGD: Tensor, keys_AKCD: Tensor, values_AKCD: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Batched products with the query group folded into the query length; [A, G, H, D] out.

        On a CPU they take two thirds of the time of scaled_dot_product_attention at such few queries.
        """
        A, H, G, D = query_AHGD.shape
        K, C, group = keys_AKCD.shape[1], self.seen_AGC.shape[-1], H // keys_AKCD.shape[1]
        mask_AGC = self.seen_AGC
        if window is not None:
            old_AGC = torch.arange(C, device=mask_AGC.device) <= (self.at_AG - window)[..., None]
            mask_AGC = mask_AGC.masked_fill(old_AGC, float("-inf"))
        mask_NMC = (
            mask_AGC.to(query_AHGD.dtype)[:, None, None].expand(A, K, group, G, C).reshape(A * K, -1, C)
        )
        scores_NMC = torch.baddbmm(
            mask_NMC,
            query_AHGD.reshape(A * K, group * G, D),
            keys_AKCD[:, :, :C].reshape(A * K, C, D).transpose(1, 2),
            alpha=scaling,
        )
        weights_NMC = scores_NMC.softmax(-1, dtype=torch.float32).to(query_AHGD.dtype)
        out_NMD = torch.bmm(weights_NMC, values_AKCD[:, :, :C].reshape(A * K, C, D))
        return out_NMD.view(A, H, G, D).transpose(1, 2)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    ragged: RaggedCache,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls; [A, G, H, D] out."""
    special = [name for name in ("softcap", "s_aux", "sinks") if kwargs.get(name) is not None]
    if special:
        raise UsageError(
            f"attention with {', '.join(special)} (soft-capping or sinks) is not supported for rollouts."
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return ragged.attend(module.layer_idx, query, key, value, scale, sliding_window), None


@contextmanager
def ragged_attention_of(network: Any) -> Iterator[None]:
    """Within it the network's layers attend through the `ragged` cache that its forward pass is given."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _attention)
    config = network.get_decoder().config
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before
