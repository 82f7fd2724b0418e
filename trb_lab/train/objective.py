"""The loss over a rollout batch, in micro-batches and chunks: logits [B, T, V] never exist whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trb_lab.errors import UsageError
from trb_lab.models.load import LanguageModel, Pair
from trb_lab.policy import objectives
from trb_lab.policy.eos import canonical_log_probs
from trb_lab.rollout.engine import Keep, Rollouts
from trb_lab.rollout.packing import MicroBatch, micro_batches
from trb_lab.spec.experiment import FullLoss, Loss, SampledLoss, TopKLoss


class LossStats(NamedTuple):
    """Token means over the batch."""

    loss: float
    reverse_kl: float
    """KL(p || q) over the student's top-k with the rest as one bucket (`full`: over the vocabulary), nats a token. To
    the teacher, also where an arm has another target."""
    logprob_gap: float
    """Mean |difference| of the sampled tokens' log-probs between rollout and training pass (precision, batching)."""


PositionLoss = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
"""(log_p_CV, which of the N positions) -> loss and reverse KL (detached) of each of the C positions."""

LossTarget = Callable[[Tensor, Tensor], Tensor]
"""See ArmStep.target."""


USUAL_TOP_K = 16
"""Of what is reported, where the loss has no top-k."""


def top_k_of(loss: Loss, vocabulary_size: int) -> int:
    """The student's likeliest tokens that a run looks at."""
    return loss.top_k if isinstance(loss, TopKLoss) else min(USUAL_TOP_K, vocabulary_size)


def what_to_keep(loss: Loss, vocabulary_size: int, *, imitates: bool = False) -> Keep:
    """What the rollout must record of the teacher for this loss; `imitates`: for ArmStep.imitates too."""
    if isinstance(loss, FullLoss):
        return Keep(teacher_hidden=True, teacher_top=imitates)
    # The sampled token says nothing of KL(p || q) where it was drawn from q: its reported KL takes the support.
    return Keep(top_k=top_k_of(loss, vocabulary_size), teacher_top=imitates)


def backward_reverse_kl(
    pair: Pair,
    rollouts: Rollouts,
    loss: Loss,
    *,
    target: LossTarget | None = None,
    imitates_BT: Tensor | None = None,
    token_budget: int,
    chunk_tokens: int,
    after_backward: Callable[[], None],
) -> LossStats:
    """Accumulate the gradient of the token-mean loss; the stop token counts as a token.

    `after_backward` runs after each micro-batch (gradient accumulation). The teacher's statistics are those that
    the rollouts carry: no teacher pass happens here, except its output head for the `full` loss. `target` and
    `imitates_BT` are what an arm changes (ArmStep).

    Raises UsageError where there is a target and the loss needs a normaliser that nobody has.
    """
    if target is not None and loss.kind not in ("renormalised", "full"):
        raise UsageError(
            f"loss.kind is {loss.kind} and the arm changes the target of the loss up to a constant: "
            "take renormalised or full, where that constant cancels."
        )

    def losses_of(batch: MicroBatch) -> PositionLoss:
        def picked(values_BTX: Tensor | None) -> Tensor:
            return _picked(batch, values_BTX)

        if isinstance(loss, FullLoss):
            base = _full_loss(pair.teacher, picked(rollouts.teacher_hidden_BTH), target)
        elif isinstance(loss, SampledLoss):
            base = _sampled_loss(
                picked(rollouts.tokens_BT),
                picked(rollouts.teacher_logprob_BT),
                picked(rollouts.support_BTK),
                picked(rollouts.teacher_support_BTK),
            )
        else:
            form = objectives.TOP_K_LOSSES[loss.kind]
            support, log_q = picked(rollouts.support_BTK), picked(rollouts.teacher_support_BTK)
            base = _top_k_loss(form, support, log_q, target)
        if imitates_BT is None:
            return base
        return _imitating(base, picked(imitates_BT), picked(rollouts.teacher_top_BT))

    return _backward(pair.student, rollouts, losses_of, token_budget, chunk_tokens, after_backward)


def backward_nll(
    student: LanguageModel,
    samples: Rollouts,
    *,
    token_budget: int,
    chunk_tokens: int,
    after_backward: Callable[[], None],
) -> LossStats:
    """Accumulate the gradient of the token-mean negative log-likelihood of the samples' tokens (SFT)."""

    def losses_of(batch: MicroBatch) -> PositionLoss:
        tokens_N = _picked(batch, samples.tokens_BT)

        def chunk_loss(log_p_CV: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            loss_C = objectives.imitation(log_p_CV, tokens_N[part].to(log_p_CV.device))
            return loss_C, torch.zeros_like(loss_C)

        return chunk_loss

    return _backward(student, samples, losses_of, token_budget, chunk_tokens, after_backward)


def _picked(batch: MicroBatch, values_BTX: Tensor | None) -> Tensor:
    assert values_BTX is not None, "the rollouts do not carry what this loss needs"
    return values_BTX[batch.rows][batch.response_bT]


def _backward(
    student: LanguageModel,
    rollouts: Rollouts,
    losses_of: Callable[[MicroBatch], PositionLoss],
    token_budget: int,
    chunk_tokens: int,
    after_backward: Callable[[], None],
) -> LossStats:
    num_tokens = rollouts.num_tokens
    loss_sum = torch.zeros((), dtype=torch.float64)
    kl_sum, gap_sum = torch.zeros_like(loss_sum), torch.zeros_like(loss_sum)
    for batch in micro_batches(rollouts, rollouts.student_prompts, token_budget):
        on_device = batch.to(student.device)
        hidden = student.hidden(input_ids=on_device.ids_bL, use_cache=False)
        hidden_NH = hidden[on_device.predicts_bL]
        total, kl, gap = _chunked(student, hidden_NH, rollouts, batch, losses_of(batch), chunk_tokens)
        (total / num_tokens).backward()
        after_backward()
        loss_sum += total.detach().double().cpu()
        kl_sum += kl.double().cpu()
        gap_sum += gap.double().cpu()
    return LossStats(*(float(value / num_tokens) for value in (loss_sum, kl_sum, gap_sum)))


def _chunked(
    student: LanguageModel,
    hidden_NH: Tensor,
    rollouts: Rollouts,
    batch: MicroBatch,
    position_loss: PositionLoss,
    chunk_tokens: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the micro-batch's positions of the loss, the reverse KL and the log-prob gap (both detached)."""
    device = hidden_NH.device
    assert student.stops is not None
    stops = student.stops
    tokens_N = _picked(batch, rollouts.tokens_BT)
    seen_logprob_N = _picked(batch, rollouts.student_logprob_BT)

    def chunk(hidden_CH: Tensor, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        log_p_CV = canonical_log_probs(student.logits(hidden_CH), stops)
        with torch.no_grad():
            now = log_p_CV.gather(-1, tokens_N[part, None].to(device)).squeeze(-1)
            gap = (now - seen_logprob_N[part].to(device)).abs().sum()
        loss_C, kl_C = position_loss(log_p_CV, part)
        return loss_C.sum(), kl_C.sum(), gap

    sums = [hidden_NH.new_zeros((), dtype=torch.float32) for _ in range(3)]
    for i, hidden_CH in enumerate(hidden_NH.split(chunk_tokens)):
        part = slice(i * chunk_tokens, (i + 1) * chunk_tokens)
        # Recompute each chunk's logits in the backward pass instead of keeping them.
        values = checkpoint(chunk, hidden_CH, part, use_reentrant=False)
        sums = [total + value for total, value in zip(sums, values, strict=True)]
    return sums[0], sums[1].detach(), sums[2].detach()


def _top_k_loss(
    form: Callable[[Tensor, Tensor], Tensor], support_NK: Tensor, log_q_NK: Tensor, target: LossTarget | None
) -> PositionLoss:
    """A loss on the support that the rollout recorded."""

    def chunk_loss(log_p_CV: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        log_q_CK = log_q_NK[part].to(log_p_CV.device)
        log_p_CK = log_p_CV.gather(-1, support_NK[part].to(log_p_CV.device))
        with torch.no_grad():
            kl_C = objectives.coarse_kl(log_p_CK, log_q_CK)
            wanted_CK = log_q_CK if target is None else target(log_p_CK, log_q_CK)
        return form(log_p_CK, wanted_CK), kl_C

    return chunk_loss


def _full_loss(teacher: LanguageModel, teacher_hidden_NH: Tensor, target: LossTarget | None) -> PositionLoss:
    """The closed form over the vocabulary; the teacher's hidden states go through its head chunk by chunk."""
    assert teacher.stops is not None
    stops = teacher.stops

    def chunk_loss(log_p_CV: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            hidden_CH = teacher_hidden_NH[part].to(log_p_CV.device)
            log_q_CV = canonical_log_probs(teacher.logits(hidden_CH), stops)
            wanted_CV = log_q_CV if target is None else target(log_p_CV, log_q_CV).log_softmax(-1)
        loss_C = objectives.full(log_p_CV, wanted_CV)
        with torch.no_grad():
            kl_C = loss_C if target is None else objectives.full(log_p_CV, log_q_CV)
        return loss_C, kl_C.detach()

    return chunk_loss


def _sampled_loss(
    tokens_N: Tensor, teacher_logprob_N: Tensor, support_NK: Tensor, log_q_NK: Tensor
) -> PositionLoss:
    """The sampled token alone; the support is for what is reported."""

    def chunk_loss(log_p_CV: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        device = log_p_CV.device
        log_p_C = log_p_CV.gather(-1, tokens_N[part, None].to(device)).squeeze(-1)
        with torch.no_grad():
            log_p_CK = log_p_CV.gather(-1, support_NK[part].to(device))
            kl_C = objectives.coarse_kl(log_p_CK, log_q_NK[part].to(device))
        return objectives.sampled(log_p_C, teacher_logprob_N[part].to(device)), kl_C

    return chunk_loss


def _imitating(base: PositionLoss, imitates_N: Tensor, top_N: Tensor) -> PositionLoss:
    """`base`, but for the positions that imitate the teacher's likeliest token."""

    def chunk_loss(log_p_CV: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        loss_C, kl_C = base(log_p_CV, part)
        nll_C = objectives.imitation(log_p_CV, top_N[part].to(log_p_CV.device))
        return torch.where(imitates_N[part].to(log_p_CV.device), nll_C, loss_C), kl_C

    return chunk_loss
