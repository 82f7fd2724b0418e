"""What becomes of a drafted block: which tokens are kept, what replaces the first rejected one, what is recorded.

`PlainJudge` works on float32 log-probs for any behaviour policy. `FusedJudge` does the same for the trust region on a
GPU, straight from the logits of both models, without a float32 copy of them.

Shape suffixes: A rows, G tokens of the block, N = A x G positions (row by row), V shared vocabulary, W logit width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from trb_lab.models.load import LanguageModel, Pair
from trb_lab.policy import fused
from trb_lab.policy.behaviors import StepBehavior, saved_up
from trb_lab.policy.coupling import (
    Target,
    entropy,
    keep_probability,
    kl_divergence,
    redraw,
    redraw_rate,
    sample,
    total_variation,
)
from trb_lab.policy.eos import Scores, canonical_log_probs, canonical_scores

from .engine import Keep


class Verdict(NamedTuple):
    """A block after verification; tokens from `count` on are void."""

    tokens_AG: Tensor
    verified_A: Tensor
    """Tokens up to and including the first redrawn one, or the whole block."""
    columns: dict[str, Tensor]
    """Records [A, G, ...]."""


class TeacherLook(NamedTuple):
    """What the teacher saw of a block, and the rows' further draws."""

    logits_NW: Tensor
    hidden_AGH: Tensor | None
    """If they are to be recorded."""
    values_A: Tensor
    """Annealed value of each row's behaviour policy."""
    keep_AG: Tensor
    redraw_AG: Tensor
    bank_A: Tensor | None = None
    """What the row's earlier tokens have left of their values, where the behaviour policy is banked."""


class Judge(Protocol):
    """Draws drafts, and judges blocks of them. One for each rollout batch; holds the block that is being drafted."""

    drafted: list[Any]
    """The student's distribution at each drafted position of the block."""

    def draft(self, logits_AW: Tensor, uniform_A: Tensor) -> Tensor:
        """The student's next token [A]."""
        ...

    def judge(self, drafts_AG: Tensor, look: TeacherLook | None) -> Verdict:
        """Verdict on the block drafted since the last call. Without a teacher every draft is kept."""
        ...


def judge_for(pair: Pair, behavior: StepBehavior, keep: Keep) -> Judge:
    """The fused path where it applies, else the general one."""
    blends = behavior.is_trust_region and not behavior.is_banked
    is_plain = not behavior.needs_teacher and behavior.alone is None
    if fused.available(pair.student.device) and (blends or is_plain):
        return FusedJudge(pair, keep)
    return PlainJudge(pair, behavior, keep)


def _stops(model: LanguageModel) -> Any:
    assert model.stops is not None, "the model is not bound to a vocabulary"
    return model.stops


def _replaced(
    drafts_AG: Tensor, first_A: Tensor, any_A: Tensor, tokens_A: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens with the first rejected draft replaced, which were redrawn, and how many were verified."""
    redrawn_AG = torch.zeros_like(drafts_AG, dtype=torch.bool).scatter(1, first_A[:, None], any_A[:, None])
    tokens_AG = torch.where(redrawn_AG, tokens_A[:, None], drafts_AG)
    return tokens_AG, redrawn_AG, torch.where(any_A, first_A + 1, drafts_AG.shape[1])


def _settle(
    drafts_AG: Tensor, kept_N: Tensor, look: TeacherLook, replace: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [A, G] with each row's first rejected draft replaced, which were redrawn [N], and how many verified [A].

    `replace(at_A, uniform_A)` draws a replacement for the positions at_A of the N. Rows without a rejected draft get
    one too, which is not used: to leave them out would make the host wait for the device.
    """
    A, G = drafts_AG.shape
    rejected_AG = ~kept_N.view(A, G)
    first_A, any_A = rejected_AG.int().argmax(-1), rejected_AG.any(-1)
    at_A = torch.arange(A, device=first_A.device) * G + first_A
    replacement_A = replace(at_A, look.redraw_AG.gather(1, first_A[:, None]).squeeze(-1))
    tokens_AG, redrawn_AG, verified_A = _replaced(drafts_AG, first_A, any_A, replacement_A)
    return tokens_AG, redrawn_AG.flatten(), verified_A


class PlainJudge:
    """Any behaviour policy, by the definitions of policy/coupling.py."""

    def __init__(self, pair: Pair, behavior: StepBehavior, keep: Keep) -> None:
        self.pair, self.behavior, self.keep = pair, behavior, keep
        self.drafted: list[Any] = []  # log-probs [A, V]

    def draft(self, logits_AW: Tensor, uniform_A: Tensor) -> Tensor:
        log_p_AV = canonical_log_probs(logits_AW, _stops(self.pair.student))
        self.drafted.append(log_p_AV)
        alone = self.behavior.alone
        return sample(log_p_AV if alone is None else alone(log_p_AV), uniform_A)

    def judge(self, drafts_AG: Tensor, look: TeacherLook | None) -> Verdict:
        block = drafts_AG.shape
        log_p_NV = torch.stack(self.drafted, dim=1).flatten(0, 1)
        self.drafted = []
        columns: dict[str, Tensor] = {}
        tokens_AG, verified_A = drafts_AG, torch.full_like(drafts_AG[:, 0], block[1])
        mu_NV = log_q_NV = None
        if look is not None and self.behavior.target is not None:
            log_q_NV = canonical_log_probs(look.logits_NW, _stops(self.pair.teacher))
            target = self._target(log_p_NV, log_q_NV, look, block[1])
            mu_NV = target.log_mu_NV
            kept_N = look.keep_AG.flatten() < keep_probability(log_p_NV, target, drafts_AG.flatten())
            tokens_AG, columns["redrawn"], verified_A = _settle(
                drafts_AG, kept_N, look, lambda at_A, u_A: redraw(log_p_NV[at_A], target.at(at_A), u_A)
            )
            columns["kl"] = target.kl_N
            columns["redraw"] = redraw_rate(log_p_NV, target)
            columns["teacher_entropy"] = entropy(log_q_NV)
            if target.beta_N is not None:
                columns["beta"] = target.beta_N
            if self.keep.teacher_top:
                columns["teacher_top"] = log_q_NV.argmax(-1)
        elif self.behavior.alone is not None:
            mu_NV = self.behavior.alone(log_p_NV)
            columns["kl"] = kl_divergence(mu_NV, log_p_NV)
            columns["redraw"] = total_variation(log_p_NV, mu_NV)
        picked_N1 = tokens_AG.reshape(-1, 1)
        for name, log_NV in (("student", log_p_NV), ("behavior", mu_NV), ("teacher", log_q_NV)):
            if log_NV is not None:
                columns[f"{name}_logprob"] = log_NV.gather(-1, picked_N1).squeeze(-1)
        if self.keep.top_k is not None:
            columns["support"] = log_p_NV.topk(self.keep.top_k, dim=-1).indices
            if log_q_NV is not None:
                columns["teacher_support"] = log_q_NV.gather(-1, columns["support"])
        return _verdict(tokens_AG, verified_A, columns, look)

    def _target(self, log_p_NV: Tensor, log_q_NV: Tensor, look: TeacherLook, block: int) -> Target:
        """mu at every position of the block."""
        assert self.behavior.target is not None
        if look.bank_A is None:
            return self.behavior.target(log_p_NV, log_q_NV, look.values_A.repeat_interleave(block))
        # What a token may spend depends on what the tokens before it spent: the block is solved token by token.
        bank_A, parts = look.bank_A, []
        for g in range(block):
            part = self.behavior.target(log_p_NV[g::block], log_q_NV[g::block], bank_A + look.values_A)
            bank_A = saved_up(bank_A, look.values_A, part.kl_N)
            parts.append(part)
        return Target(*(_interleaved(list(column)) for column in zip(*parts, strict=True)))


def _interleaved(columns_GA: list[Tensor | None]) -> Any:
    """[A x G, ...], row by row, of one [A, ...] a token of the block."""
    present = [column for column in columns_GA if column is not None]
    return torch.stack(present, dim=1).flatten(0, 1) if present else None


class FusedJudge:
    """Vanilla and trust-region rollouts on a GPU."""

    def __init__(self, pair: Pair, keep: Keep) -> None:
        self.pair, self.keep = pair, keep
        self.drafted: list[Any] = []
        """(Scores, their log-sum-exp) of each draft."""

    def draft(self, logits_AW: Tensor, uniform_A: Tensor) -> Tensor:
        # A copy: the next pass writes over its logits.
        scores = canonical_scores(logits_AW.clone(), _stops(self.pair.student))
        tokens_A, normaliser_A = fused.draw(scores, uniform_A)
        self.drafted.append((scores, normaliser_A))
        return tokens_A

    def judge(self, drafts_AG: Tensor, look: TeacherLook | None) -> Verdict:
        block = drafts_AG.shape
        p = _stack_scores([scores for scores, _ in self.drafted])
        normaliser_N = torch.stack([part for _, part in self.drafted], dim=1).flatten()
        self.drafted = []
        columns: dict[str, Tensor] = {}
        if self.keep.top_k is not None:
            columns["support"] = p.logits_NW[:, : p.size].topk(self.keep.top_k, dim=-1).indices
        if look is None:
            tokens_AG, verified_A = drafts_AG, torch.full_like(drafts_AG[:, 0], block[1])
            columns["student_logprob"] = p.at(drafts_AG.reshape(-1, 1)).squeeze(-1) - normaliser_N
            return _verdict(tokens_AG, verified_A, columns, look)
        q = canonical_scores(look.logits_NW, _stops(self.pair.teacher))
        solved = fused.blend(p, q, look.values_A.repeat_interleave(block[1]))
        log_p_N, _, log_mu_N = fused.token_log_probs(p, q, solved, drafts_AG.flatten())
        kept_N = look.keep_AG.flatten() < (log_mu_N - log_p_N).exp()
        tokens_AG, columns["redrawn"], verified_A = _settle(
            drafts_AG, kept_N, look, lambda at_A, u_A: fused.draw_residual(p, q, solved, at_A, u_A)
        )
        log_p_N, log_q_N, log_mu_N = fused.token_log_probs(p, q, solved, tokens_AG.flatten())
        columns |= {"student_logprob": log_p_N, "teacher_logprob": log_q_N, "behavior_logprob": log_mu_N}
        columns |= {"kl": solved.kl, "redraw": solved.redraw, "beta": solved.beta}
        columns["teacher_entropy"] = solved.teacher_entropy
        if self.keep.top_k is not None:
            columns["teacher_support"] = q.at(columns["support"]) - solved.log_q_normaliser[:, None]
        if self.keep.teacher_top:
            columns["teacher_top"] = q.logits_NW[:, : q.size].argmax(-1)
        return _verdict(tokens_AG, verified_A, columns, look)


def _stack_scores(drafted: list[Scores]) -> Scores:
    """Scores of a block's drafts, row by row."""
    logits_NW = torch.stack([scores.logits_NW for scores in drafted], dim=1).flatten(0, 1)
    stop_N = torch.stack([scores.stop_N for scores in drafted], dim=1).flatten()
    return Scores(logits_NW, stop_N, drafted[0].stop_id, drafted[0].size)


def _verdict(
    tokens_AG: Tensor, verified_A: Tensor, columns_N: dict[str, Tensor], look: TeacherLook | None
) -> Verdict:
    block = tokens_AG.shape
    columns = {name: value.view(*block, *value.shape[1:]) for name, value in columns_N.items()}
    columns["tokens"] = tokens_AG
    if look is not None and look.hidden_AGH is not None:
        columns["teacher_hidden"] = look.hidden_AGH.clone()  # the next pass writes over it
    return Verdict(tokens_AG, verified_A, columns)
