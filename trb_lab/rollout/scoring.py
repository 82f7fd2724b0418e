"""The teacher's statistics on given responses: one batched pass, heads in chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from trb_lab.models.load import LanguageModel
from trb_lab.policy.coupling import entropy
from trb_lab.policy.eos import canonical_log_probs

from .engine import Keep, Rollouts
from .packing import micro_batches


def score_with_teacher(
    teacher: LanguageModel, rollouts: Rollouts, keep: Keep, token_budget: int, chunk_tokens: int
) -> None:
    """Fill teacher_logprob, teacher_entropy, teacher_support and (if kept) teacher_hidden of the rollouts.

    Logits exist for `chunk_tokens` positions at a time. The support is the one recorded by the rollout.
    """
    if rollouts.teacher_prompts is None:
        raise ValueError("rollouts without teacher prompts cannot be scored by the teacher")
    assert teacher.stops is not None
    shape = rollouts.mask_BT.shape
    logprob, teacher_entropy = torch.zeros(shape), torch.zeros(shape)
    support = rollouts.support_BTK if keep.top_k is not None else None
    teacher_support = torch.zeros(support.shape) if support is not None else None
    hidden_BTH: Tensor | None = None
    for batch in micro_batches(rollouts, rollouts.teacher_prompts, token_budget):
        on_device = batch.to(teacher.device)
        hidden = teacher.hidden(input_ids=on_device.ids_bL, use_cache=False)
        hidden_NH = hidden[on_device.predicts_bL]
        rows_N, positions_N = _coordinates(batch.rows, batch.response_bT)
        if keep.teacher_hidden:
            if hidden_BTH is None:
                hidden_BTH = torch.zeros(*shape, hidden_NH.shape[-1], dtype=hidden_NH.dtype)
            hidden_BTH[rows_N, positions_N] = hidden_NH.cpu()
        for start in range(0, len(rows_N), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            at = (rows_N[part], positions_N[part])
            log_q_NV = canonical_log_probs(teacher.logits(hidden_NH[part]), teacher.stops)
            tokens = rollouts.tokens_BT[at].to(log_q_NV.device)
            logprob[at] = log_q_NV.gather(-1, tokens[:, None]).squeeze(-1).cpu()
            teacher_entropy[at] = entropy(log_q_NV).cpu()
            if support is not None and teacher_support is not None:
                teacher_support[at] = log_q_NV.gather(-1, support[at].to(log_q_NV.device)).cpu()
    rollouts.teacher_logprob_BT, rollouts.teacher_entropy_BT = logprob, teacher_entropy
    rollouts.teacher_support_BTK, rollouts.teacher_hidden_BTH = teacher_support, hidden_BTH


def _coordinates(rows: Tensor, response_bT: Tensor) -> tuple[Tensor, Tensor]:
    """Row and position of each True of response_bT, row by row: the order of hidden[predicts_bL]."""
    local, positions = response_bT.nonzero(as_tuple=True)
    return rows[local], positions
