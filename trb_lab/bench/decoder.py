"""One model decoding a batch of rows of unequal prompt lengths, one token a row and step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trb_lab.models.load import LanguageModel


class Decoder:
    """KV cache of one model over left-padded prompts. `hidden_BH` is the state that predicts the next token."""

    def __init__(self, model: LanguageModel, prompts: list[list[int]], max_new_tokens: int) -> None:
        from transformers import DynamicCache

        self.model = model
        self.cache: Any = DynamicCache(config=model.network.config)
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
        # One mask for the whole rollout, cut to the current length at each step.
        mask = torch.ones(len(prompts), longest + max_new_tokens, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.int64)
            mask[row, : longest - len(prompt)] = 0
        self.mask = mask.to(model.device)
        self.length = longest
        self.next_position = torch.tensor([len(p) for p in prompts], device=model.device)[:, None]
        positions = (self.mask[:, :longest].cumsum(-1) - 1).clamp_min(0)
        self.hidden_BH = self._forward(ids.to(model.device), positions)

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        hidden = self.model.hidden(
            input_ids=ids,
            attention_mask=self.mask[:, : self.length],
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        return hidden[:, -1]

    def append(self, tokens_B: Tensor) -> None:
        """Feed one token a row."""
        self.length += 1
        self.hidden_BH = self._forward(tokens_B[:, None], self.next_position)
        self.next_position = self.next_position + 1

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all rows but these (int64 indices)."""
        self.cache.batch_select_indices(rows)
        self.mask, self.next_position, self.hidden_BH = (
            self.mask[rows],
            self.next_position[rows],
            self.hidden_BH[rows],
        )
