"""The caches of student and teacher from one rollout to the next, and how many rows of them fit."""

from __future__ import annotations

from contextlib import ExitStack

import torch

from trb_lab.models.load import LanguageModel, Pair

from .cached_model import CachedModel, check_cached_passes

DEFAULT_ROWS = 256
"""Rows decoded at once where nobody has chosen and memory does not bind."""
CACHE_SHARE = 0.6
"""Of a GPU's memory that is not allocated when caches are made; the rest is for logits and for the update."""
KEEP_SHARE = 0.55
"""Caches above this share of the memory that is free without them are given back before an update."""


def cache_bytes_per_token(model: LanguageModel) -> int:
    """Keys and values of one token in all layers."""
    config = model.network.config.get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * kv_heads * size * model.dtype.itemsize)


class Caches:
    """One CachedModel for each role, made when first needed and again when too small."""

    def __init__(self, pair: Pair, prefill_tokens: int) -> None:
        self.pair, self.prefill_tokens = pair, prefill_tokens
        self.models: dict[str, CachedModel] = {}
        self._device = pair.student.device
        self._checked: set[str] = set()

    def rows_that_fit(self, capacities: dict[str, int]) -> int:
        """Rows for which these capacities (tokens a row, by role) fit. At least 1.

        What this process has allocated beside the caches decides, not what others use at the moment.
        """
        if self._device.type != "cuda":
            return DEFAULT_ROWS
        kept = {role: max(tokens, self._capacity(role)) for role, tokens in capacities.items()}
        row_bytes = sum(cache_bytes_per_token(getattr(self.pair, role)) * kept[role] for role in kept)
        return max(1, min(DEFAULT_ROWS, int(CACHE_SHARE * self._free()) // row_bytes))

    def trim(self, rows: int, capacities: dict[str, int]) -> None:
        """Give back what was made for other shapes where it would not fit beside what is asked for now."""
        if self._device.type != "cuda":
            return
        wanted = 0
        for role in self.models.keys() | capacities.keys():
            slots = max(rows if role in capacities else 0, self._slots(role))
            tokens = max(capacities.get(role, 0), self._capacity(role))
            wanted += slots * tokens * cache_bytes_per_token(getattr(self.pair, role))
        if wanted > CACHE_SHARE * self._free():
            self.release()

    def ready(self, role: str, rows: int, capacity: int, stack: ExitStack) -> CachedModel:
        """The role's model with room for so many rows and tokens; ready for passes until `stack` closes."""
        cached = self.models.get(role)
        if cached is None or cached.cache.slots < rows or cached.cache.capacity < capacity:
            model: LanguageModel = getattr(self.pair, role)
            capacity = max(capacity, self._capacity(role))
            self.models.pop(role, None)
            if role not in self._checked:
                check_cached_passes(model)
                self._checked.add(role)
            cached = self.models[role] = CachedModel(model, rows, capacity, self.prefill_tokens)
        stack.enter_context(cached.ready())
        return cached

    def release(self) -> None:
        """Give back all memory."""
        self.models.clear()

    def release_if_large(self) -> None:
        """Give back what should not be kept beside an update."""
        if self._device.type == "cuda" and self._bytes() > KEEP_SHARE * self._free():
            self.release()

    def _slots(self, role: str) -> int:
        return self.models[role].cache.slots if role in self.models else 0

    def _free(self) -> int:
        """Bytes of the GPU that are not allocated, caches not counted."""
        total = torch.cuda.get_device_properties(self._device).total_memory
        return total - torch.cuda.memory_allocated(self._device) + self._bytes()

    def _capacity(self, role: str) -> int:
        return self.models[role].cache.capacity if role in self.models else 0

    def _bytes(self) -> int:
        return sum(cached.num_bytes for cached in self.models.values())
