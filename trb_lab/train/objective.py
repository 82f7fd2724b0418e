"""The loss over a rollout batch, in micro-batches and chunks: logits [B, T, V] never exist whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trb_lab.models.load import LanguageModel, Pair
from trb_lab.policy import objectives
from trb_lab.policy.eos import canonical_log_probs
from trb_lab.rollout.engine import Keep, Rollouts
from trb_lab.rollout.packing import MicroBatch, micro_batches
from trb_lab.spec.experiment import FullLoss, Loss


class LossStats(NamedTuple):
    """Token means over the batch."""

    loss: float
    reverse_kl: float
    """KL(p || q) over the support with the rest as one bucket (`full`: over the vocabulary), nats a token."""


def what_to_keep(loss: Loss) -> Keep:
    """What the rollout must record of the teacher for this loss."""
    return Keep(teacher_hidden=True) if isinstance(loss, FullLoss) else Keep(top_k=loss.top_k)


def backward_reverse_kl(
    pair: Pair,
    rollouts: Rollouts,
    loss: Loss,
    *,
    token_budget: int,
    chunk_tokens: int,
    after_backward: Callable[[], None],
) -> LossStats:
    """Accumulate the gradient of the token-mean loss; the stop token counts as a token.

    `after_backward` runs after each micro-batch (gradient accumulation). The teacher's statistics are those that
    the rollouts carry: no teacher pass happens here, except its output head for the `full` loss.
    """
    num_tokens = rollouts.num_tokens
    loss_sum = torch.zeros((), dtype=torch.float64)
    kl_sum = torch.zeros((), dtype=torch.float64)
    for batch in micro_batches(rollouts, rollouts.student_prompts, token_budget):
        on_device = batch.to(pair.student.device)
        hidden = pair.student.hidden(
            input_ids=on_device.ids_bL, attention_mask=on_device.attention_bL, use_cache=False
        )
        hidden_NH = hidden[on_device.predicts_bL]
        total, kl = _chunked_loss(pair, hidden_NH, rollouts, batch, loss, chunk_tokens)
        (total / num_tokens).backward()
        after_backward()
        loss_sum += total.detach().double().cpu()
        kl_sum += kl.double().cpu()
    return LossStats(float(loss_sum / num_tokens), float(kl_sum / num_tokens))


def _chunked_loss(
    pair: Pair, hidden_NH: Tensor, rollouts: Rollouts, batch: MicroBatch, loss: Loss, chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """Sums over the micro-batch's positions of the loss and of the reverse KL (detached)."""
    device = hidden_NH.device

    def picked(values_BTX: Tensor | None) -> Tensor:
        assert values_BTX is not None, "the rollouts do not carry what this loss needs"
        return values_BTX[batch.rows][batch.response_bT]

    if isinstance(loss, FullLoss):
        teacher_NH = picked(rollouts.teacher_hidden_BTH)

        def chunk_loss(hidden_CH: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            return _full_chunk(pair, hidden_CH, teacher_NH[part].to(device))
    else:
        support_NK, log_q_NK = picked(rollouts.support_BTK), picked(rollouts.teacher_support_BTK)
        form = objectives.TOP_K_LOSSES[loss.kind]

        def chunk_loss(hidden_CH: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            return _top_k_chunk(
                pair.student, hidden_CH, support_NK[part].to(device), log_q_NK[part].to(device), form
            )

    total = hidden_NH.new_zeros((), dtype=torch.float32)
    kl = torch.zeros_like(total)
    for start in range(0, hidden_NH.shape[0], chunk_tokens):
        part = slice(start, start + chunk_tokens)
        # Recompute each chunk's logits in the backward pass instead of keeping them.
        chunk_total, chunk_kl = checkpoint(chunk_loss, hidden_NH[part], part, use_reentrant=False)
        total, kl = total + chunk_total, kl + chunk_kl.detach()
    return total, kl


def _top_k_chunk(
    student: LanguageModel,
    hidden_CH: Tensor,
    support_CK: Tensor,
    log_q_CK: Tensor,
    form: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    assert student.stops is not None
    log_p_CK = canonical_log_probs(student.logits(hidden_CH), student.stops).gather(-1, support_CK)
    with torch.no_grad():
        kl = objectives.coarse_kl(log_p_CK, log_q_CK).sum()
    return form(log_p_CK, log_q_CK).sum(), kl


def _full_chunk(pair: Pair, hidden_CH: Tensor, teacher_hidden_CH: Tensor) -> tuple[Tensor, Tensor]:
    assert pair.student.stops is not None and pair.teacher.stops is not None
    with torch.no_grad():
        log_q_CV = canonical_log_probs(pair.teacher.logits(teacher_hidden_CH), pair.teacher.stops)
    log_p_CV = canonical_log_probs(pair.student.logits(hidden_CH), pair.student.stops)
    total = objectives.full(log_p_CV, log_q_CV).sum()
    return total, total.detach()
