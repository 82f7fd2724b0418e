"""Rows in flight: which prompt of the request sits in which slot, and how far it has come.

Rows in use are slots 0 .. A-1. A finished row leaves at once: a waiting prompt takes its slot, or else the last row
moves into it. Shape suffixes: A rows in use, S slots, G tokens of a block, B rows of the request.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from trb_lab.policy.behaviors import StepBehavior, saved_up

from .cached_model import CachedModel
from .engine import RolloutRequest

Ended = tuple[int, int, bool]
"""(row of the request, length of its response, ended by the stop event)"""


class Batch:
    """Slots of student and teacher, filled from a request until none of its rows is left."""

    def __init__(
        self,
        request: RolloutRequest,
        slots: int,
        behavior: StepBehavior,
        student: CachedModel,
        teacher: CachedModel | None,
    ) -> None:
        device = student.pending_S.device
        self.request, self.slots, self.device = request, slots, device
        self.limit = request.draws.draft_BT.shape[1]
        self.student, self.teacher = student, teacher
        self.values_B = behavior.row_values.to(device)
        self.is_banked = behavior.is_banked
        self.waiting = deque(range(len(request.student_prompts)))
        self.rows: list[int] = []
        self.row_S = torch.zeros(slots, dtype=torch.int64, device=device)
        self.position_S = torch.zeros(slots, dtype=torch.int32, device=device)
        self.bank_S = torch.zeros(slots, dtype=torch.float64, device=device)
        """What the row's tokens so far have left of their values (banked behaviour policies)."""
        draws = request.draws
        self.draft_BT, self.keep_BT, self.redraw_BT = (
            None if part is None else torch.from_numpy(part).to(device)
            for part in (draws.draft_BT, draws.keep_BT, draws.redraw_BT)
        )
        self._fill([])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def rows_A(self) -> Tensor:
        return self.row_S[: len(self)]

    @property
    def position_A(self) -> Tensor:
        return self.position_S[: len(self)]

    @property
    def bank_A(self) -> Tensor | None:
        """A copy of what the rows have in the bank; None where the behaviour policy has none."""
        return self.bank_S[: len(self)].clone() if self.is_banked else None

    @property
    def values_A(self) -> Tensor:
        """Annealed value of each row's behaviour policy."""
        return self.values_B[self.rows_A]

    def save_up(self, kl_AG: Tensor, count_A: Tensor) -> None:
        """Into the bank: the values of the tokens about to be committed, less the KL that they spent."""
        bank_A = self.bank_S[: len(self)].clone()
        for g in range(kl_AG.shape[1]):  # in the order of the tokens, so that blocks change no last digit
            saved_A = saved_up(bank_A, self.values_A, kl_AG[:, g])
            bank_A = torch.where(g < count_A, saved_A, bank_A)
        self.bank_S[: len(self)] = bank_A

    def uniforms(self, draws_BT: Tensor | None, tokens: int) -> Tensor:
        """The rows' next draws [A, G]; those beyond the longest response belong to void tokens."""
        assert draws_BT is not None, "a request without the draws that its behaviour policy needs"
        at_AG = self.position_A[:, None] + torch.arange(tokens, device=self.device)
        return draws_BT[self.rows_A[:, None], at_AG.clamp_max(self.limit - 1)]

    def commit(self, tokens_AG: Tensor, verified_A: Tensor, stop_id: int) -> tuple[Tensor, list[Ended]]:
        """Take the verified tokens of a block, up to the stop token and the limit.

        Returns how many of each row are taken [A], and the rows that end with them, which leave the batch.
        """
        count_A = torch.minimum(verified_A, self.limit - self.position_A)
        offset_G = torch.arange(tokens_AG.shape[1], device=self.device)
        stops_AG = (tokens_AG == stop_id) & (offset_G < count_A[:, None])
        stopped_A = stops_AG.any(-1)
        count_A = torch.where(stopped_A, stops_AG.int().argmax(-1) + 1, count_A)
        last_A = tokens_AG.gather(1, (count_A - 1)[:, None]).squeeze(-1)
        self.position_S[: len(self)] += count_A.int()
        for model in self._models():
            model.pending_S[: len(self)] = last_A
        lengths, stopped = torch.stack([self.position_A.long(), stopped_A.long()]).tolist()
        slots = [slot for slot in range(len(self)) if stopped[slot] or lengths[slot] == self.limit]
        ended = [(self.rows[slot], lengths[slot], bool(stopped[slot])) for slot in slots]
        self._fill(slots)
        return count_A, ended

    def _models(self) -> list[CachedModel]:
        return [self.student] if self.teacher is None else [self.student, self.teacher]

    def _fill(self, free: list[int]) -> None:
        """Waiting prompts into the free slots; the gaps that remain are closed from the end."""
        free = [*free, *range(len(self), self.slots)]
        taken = [(slot, self.waiting.popleft()) for slot in free[: len(self.waiting)]]
        for slot, row in taken:
            if slot < len(self.rows):
                self.rows[slot] = row
            else:
                self.rows.append(row)
        if taken:
            slots, rows = (list(part) for part in zip(*taken, strict=True))
            index = torch.tensor(slots, device=self.device)
            self.row_S[index] = torch.tensor(rows, device=self.device)
            self.position_S[index] = 0
            self.bank_S[index] = 0.0
            self.student.admit(slots, [self.request.student_prompts[row] for row in rows])
            if self.teacher is not None:
                assert self.request.teacher_prompts is not None
                self.teacher.admit(slots, [self.request.teacher_prompts[row] for row in rows])
        for slot in sorted((slot for slot in free[len(taken) :] if slot < len(self.rows)), reverse=True):
            self._close(slot)

    def _close(self, slot: int) -> None:
        last = len(self.rows) - 1
        if slot != last:
            for model in self._models():
                model.move(last, slot)
            self.rows[slot] = self.rows[last]
            for values_S in (self.row_S, self.position_S, self.bank_S):
                values_S[slot] = values_S[last]
        self.rows.pop()
