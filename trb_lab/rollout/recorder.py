"""Collects the records of rollout blocks into [B, T] tensors.

Shape suffixes: A rows of a block, G tokens of a block, B rows of the batch, T response positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .engine import RolloutRequest, Rollouts, Work

LARGE = ("teacher_hidden",)
"""Columns that leave the device block by block."""


class Recorder:
    """Blocks are kept as they come, dropped tokens included, and put in their places at the end."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.finished_B = torch.zeros(num_rows, dtype=torch.bool)
        self.lengths_B = torch.zeros(num_rows, dtype=torch.int64)
        self.blocks: list[tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]] = []

    def add(self, rows_A: Tensor, position_A: Tensor, count_A: Tensor, columns: dict[str, Tensor]) -> None:
        """A block: the first `count_A` tokens of each row are committed from `position_A` on. Columns [A, G, ...]."""
        columns = {name: value.cpu() if name in LARGE else value for name, value in columns.items()}
        self.blocks.append((rows_A.clone(), position_A.clone(), count_A, columns))

    def end(self, row: int, length: int, finished: bool) -> None:
        """A row is complete."""
        self.lengths_B[row] = length
        self.finished_B[row] = finished

    def rollouts(self, request: RolloutRequest, work: Work) -> Rollouts:
        """Everything on the CPU, 0 where masked out."""
        longest = int(self.lengths_B.max())
        mask_BT = torch.arange(longest) < self.lengths_B[:, None]
        columns = self._stack(longest)
        zeros_BT = torch.zeros(mask_BT.shape, dtype=torch.float32)

        def column(name: str) -> Any:
            return columns.get(name)

        return Rollouts(
            student_prompts=request.student_prompts,
            teacher_prompts=request.teacher_prompts,
            tokens_BT=columns["tokens"],
            mask_BT=mask_BT,
            finished_B=self.finished_B,
            student_logprob_BT=columns["student_logprob"],
            behavior_logprob_BT=columns.get("behavior_logprob", columns["student_logprob"]),
            kl_BT=columns.get("kl", zeros_BT),
            redraw_BT=columns.get("redraw", zeros_BT),
            redrawn_BT=columns.get("redrawn", zeros_BT.bool()),
            beta_BT=column("beta"),
            teacher_logprob_BT=column("teacher_logprob"),
            teacher_entropy_BT=column("teacher_entropy"),
            support_BTK=column("support"),
            teacher_support_BTK=column("teacher_support"),
            teacher_hidden_BTH=column("teacher_hidden"),
            teacher_top_BT=column("teacher_top"),
            work=work,
        )

    def _stack(self, longest: int) -> dict[str, Tensor]:
        """Columns [B, longest, ...]: each committed token of each block in its row and position."""
        rows, positions, taken = [], [], []
        for rows_A, position_A, count_A, columns in self.blocks:
            width = columns["tokens"].shape[1]
            offset_G = torch.arange(width, device=rows_A.device)
            taken.append((offset_G < count_A[:, None]).flatten())
            rows.append(rows_A[:, None].expand(-1, width).flatten())
            positions.append((position_A[:, None] + offset_G).flatten())
        taken_N = torch.cat(taken)
        taken_cpu_N = taken_N.cpu()
        at = (torch.cat(rows)[taken_N].cpu().long(), torch.cat(positions)[taken_N].cpu().long())
        stacked = {}
        for name in self.blocks[0][3]:
            parts = [columns[name].flatten(0, 1) for *_, columns in self.blocks]
            values_N = torch.cat(parts)
            values_N = values_N[taken_N if values_N.device == taken_N.device else taken_cpu_N].cpu()
            stacked[name] = values_N.new_zeros(self.num_rows, longest, *values_N.shape[1:])
            stacked[name][at] = values_N
        return stacked
