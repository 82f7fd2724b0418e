"""Collects the per-position records of a rollout into [B, T] tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from .engine import Rollouts


class Recorder:
    """Buffers grow by position; rows that have left the batch keep zeros. Kept on the device until the end."""

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self.num_rows = num_rows
        self.device = device
        self.finished = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self.columns: dict[str, list[Tensor]] = {"tokens": [], "mask": []}

    def add(self, rows_A: Tensor, tokens_A: Tensor, record: dict[str, Tensor]) -> None:
        """Record the next position of the rows in the batch; those that finished earlier are masked out."""
        real_A = ~self.finished[rows_A]
        self._put("mask", rows_A, real_A)
        self._put("tokens", rows_A, torch.where(real_A, tokens_A, 0))
        for name, value in record.items():
            shape = (-1,) + (1,) * (value.dim() - 1)
            self._put(name, rows_A, torch.where(real_A.view(shape), value, torch.zeros_like(value)))

    def _put(self, name: str, rows_A: Tensor, value: Tensor) -> None:
        whole = value.new_zeros(self.num_rows, *value.shape[1:])
        whole[rows_A] = value
        self.columns.setdefault(name, []).append(whole)

    def rollouts(self, student_prompts: list[list[int]], teacher_prompts: list[list[int]] | None) -> Rollouts:
        """Stack everything on the CPU."""
        stacked = {name: torch.stack(values, dim=1).cpu() for name, values in self.columns.items()}
        mask = stacked["mask"]
        zeros = torch.zeros(mask.shape, dtype=torch.float32)
        return Rollouts(
            student_prompts=student_prompts,
            teacher_prompts=teacher_prompts,
            tokens_BT=stacked["tokens"],
            mask_BT=mask,
            finished_B=self.finished.cpu(),
            student_logprob_BT=stacked["student_logprob"],
            behavior_logprob_BT=stacked["behavior_logprob"],
            kl_BT=stacked.get("kl", zeros),
            redraw_BT=stacked.get("redraw", zeros),
            beta_BT=stacked.get("beta"),
            teacher_logprob_BT=stacked.get("teacher_logprob"),
            teacher_entropy_BT=stacked.get("teacher_entropy"),
            support_BTK=stacked.get("support"),
            teacher_support_BTK=stacked.get("teacher_support"),
            teacher_hidden_BTH=stacked.get("teacher_hidden"),
        )
