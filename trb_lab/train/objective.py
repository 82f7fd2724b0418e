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
    logprob_gap: float
    """Mean |difference| of the sampled tokens' log-probs between rollout and training pass (precision, batching)."""


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
    kl_sum, gap_sum = torch.zeros_like(loss_sum), torch.zeros_like(loss_sum)
    for batch in micro_batches(rollouts, rollouts.student_prompts, token_budget):
        on_device = batch.to(pair.student.device)
        hidden = pair.student.hidden(input_ids=on_device.ids_bL, use_cache=False)
        hidden_NH = hidden[on_device.predicts_bL]
        total, kl, gap = _chunked_loss(pair, hidden_NH, rollouts, batch, loss, chunk_tokens)
        (total / num_tokens).backward()
        after_backward()
        loss_sum += total.detach().double().cpu()
        kl_sum += kl.double().cpu()
        gap_sum += gap.double().cpu()
    return LossStats(*(float(value / num_tokens) for value in (loss_sum, kl_sum, gap_sum)))


ChunkLoss = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
"""(log_p_CV, which of the N positions) -> sums over the chunk of the loss and of the reverse KL (detached)."""


def _chunked_loss(
    pair: Pair, hidden_NH: Tensor, rollouts: Rollouts, batch: MicroBatch, loss: Loss, chunk_tokens: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the micro-batch's positions of the loss, the reverse KL and the log-prob gap (both detached)."""
    student, device = pair.student, hidden_NH.device
    assert student.stops is not None
    stops = student.stops

    def picked(values_BTX: Tensor | None) -> Tensor:
        assert values_BTX is not None, "the rollouts do not carry what this loss needs"
        return values_BTX[batch.rows][batch.response_bT]

    if isinstance(loss, FullLoss):
        chunk_loss = _full_loss(pair.teacher, picked(rollouts.teacher_hidden_BTH))
    else:
        form = objectives.TOP_K_LOSSES[loss.kind]
        chunk_loss = _top_k_loss(form, picked(rollouts.support_BTK), picked(rollouts.teacher_support_BTK))
    tokens_N, seen_logprob_N = picked(rollouts.tokens_BT), picked(rollouts.student_logprob_BT)

    def chunk(hidden_CH: Tensor, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        log_p_CV = canonical_log_probs(student.logits(hidden_CH), stops)
        with torch.no_grad():
            now = log_p_CV.gather(-1, tokens_N[part, None].to(device)).squeeze(-1)
            gap = (now - seen_logprob_N[part].to(device)).abs().sum()
        return *chunk_loss(log_p_CV, part), gap

    sums = [hidden_NH.new_zeros((), dtype=torch.float32) for _ in range(3)]
    for i, hidden_CH in enumerate(hidden_NH.split(chunk_tokens)):
        part = slice(i * chunk_tokens, (i + 1) * chunk_tokens)
        # Recompute each chunk's logits in the backward pass instead of keeping them.
        values = checkpoint(chunk, hidden_CH, part, use_reentrant=False)
        sums = [total + value for total, value in zip(sums, values, strict=True)]
    return sums[0], sums[1].detach(), sums[2].detach()


def _top_k_loss(form: Callable[[Tensor, Tensor], Tensor], support_NK: Tensor, log_q_NK: Tensor) -> ChunkLoss:
    """A loss on the support that the rollout recorded."""

    def chunk_loss(log_p_CV: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        log_q_CK = log_q_NK[part].to(log_p_CV.device)
        log_p_CK = log_p_CV.gather(-1, support_NK[part].to(log_p_CV.device))
        with torch.no_grad():
            kl = objectives.coarse_kl(log_p_CK, log_q_CK).sum()
        return form(log_p_CK, log_q_CK).sum(), kl

    return chunk_loss


def _full_loss(teacher: LanguageModel, teacher_hidden_NH: Tensor) -> ChunkLoss:
    """The closed form over the vocabulary; the teacher's hidden states go through its head chunk by chunk."""
    assert teacher.stops is not None
    stops = teacher.stops

    def chunk_loss(log_p_CV: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            hidden_CH = teacher_hidden_NH[part].to(log_p_CV.device)
            log_q_CV = canonical_log_probs(teacher.logits(hidden_CH), stops)
        total = objectives.full(log_p_CV, log_q_CV).sum()
        return total, total.detach()

    return chunk_loss
