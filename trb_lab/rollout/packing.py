"""Full sequences (prompt + response) in right-padded micro-batches under a token budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .engine import Rollouts


@dataclass(frozen=True)
class MicroBatch:
    """Rows of a rollout batch as model inputs. b rows of it, L padded length."""

    rows: Tensor
    """int64 [b]: indices into the rollout batch."""
    ids_bL: Tensor
    """Padded on the right: causal attention needs no mask, since no real token sees what lies behind it."""
    predicts_bL: Tensor
    """bool: positions whose hidden state predicts a response token, in response order along each row."""
    response_bT: Tensor
    """bool [b, T]: the same positions as seen from the response: `x[rows][response_bT]` lines up with
    `hidden[predicts_bL]`."""

    def to(self, device: torch.device) -> MicroBatch:
        return MicroBatch(
            self.rows,
            self.ids_bL.to(device),
            self.predicts_bL.to(device),
            self.response_bT,
        )


def sequence_tokens(rollouts: Rollouts, prompts: list[list[int]]) -> int:
    """Positions of all rows that a pass over full sequences feeds: all but each row's last token."""
    return sum(map(len, prompts)) + rollouts.num_tokens - len(prompts)


def micro_batches(rollouts: Rollouts, prompts: list[list[int]], token_budget: int) -> list[MicroBatch]:
    """Split rows, longest first, so that b x L stays within the budget (one row at least)."""
    lengths = rollouts.lengths_B.tolist()
    # The last response token is predicted but never fed.
    totals = [len(prompt) + length - 1 for prompt, length in zip(prompts, lengths, strict=True)]
    order = sorted(range(len(totals)), key=lambda row: (-totals[row], row))
    batches: list[MicroBatch] = []
    start = 0
    while start < len(order):
        count = max(1, token_budget // totals[order[start]])
        batches.append(_build(rollouts, prompts, totals, order[start : start + count]))
        start += count
    return batches


def _build(rollouts: Rollouts, prompts: list[list[int]], totals: list[int], rows: list[int]) -> MicroBatch:
    width = max(totals[row] for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    predicts = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        prompt, total = prompts[row], totals[row]
        ids[i, : len(prompt)] = torch.tensor(prompt, dtype=torch.int64)
        ids[i, len(prompt) : total] = rollouts.tokens_BT[row, : total - len(prompt)]
        predicts[i, len(prompt) - 1 : total] = True
    index = torch.tensor(rows, dtype=torch.int64)
    return MicroBatch(index, ids, predicts, rollouts.mask_BT[index])
