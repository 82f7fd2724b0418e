"""The built-in engine: student and teacher decode in lock step with the weights that train.

At each position both models give their next-token distribution on the shared vocabulary, the behaviour policy makes
the target mu of them, and one token is drawn from mu by its keyed uniform. The teacher is not run where the step's
behaviour policy is the student itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trb_lab.models.load import LanguageModel, Pair
from trb_lab.policy.behaviors import StepBehavior
from trb_lab.policy.coupling import entropy, sample, total_variation
from trb_lab.policy.eos import canonical_log_probs

from .decoder import Decoder
from .engine import Keep, RolloutRequest, Rollouts
from .recorder import Recorder
from .scoring import score_with_teacher

COMPACT_BELOW = 0.6
"""Finished rows leave the batch once fewer than this share of it still decodes."""


class TorchEngine:
    """Lock-step decoding over a pair of models. `max_rows` bounds the rows decoded at once."""

    def __init__(
        self, pair: Pair, max_rows: int | None = None, score_tokens: int = 16_384, chunk_tokens: int = 1024
    ) -> None:
        self.pair = pair
        self.max_rows = max_rows
        self.score_tokens = score_tokens
        self.chunk_tokens = chunk_tokens

    @torch.no_grad()
    def rollout(self, request: RolloutRequest, behavior: StepBehavior, keep: Keep) -> Rollouts:
        """Draw one response a row. Row i's draws are request.uniforms_BT[i], whatever else is in the batch."""
        rows = len(request.student_prompts)
        size = self.max_rows or rows
        parts = [
            self._rollout_rows(request, behavior, keep, slice(i, min(i + size, rows)))
            for i in range(0, rows, size)
        ]
        return Rollouts.concatenate(parts)

    def _rollout_rows(
        self, request: RolloutRequest, behavior: StepBehavior, keep: Keep, part: slice
    ) -> Rollouts:
        student_model, teacher_model = self.pair.student, self.pair.teacher
        uniforms_BT = torch.from_numpy(request.uniforms_BT[part]).to(student_model.device)
        limit = uniforms_BT.shape[1]
        prompts = request.student_prompts[part]
        teacher_prompts = request.teacher_prompts[part] if request.teacher_prompts else None
        student = Decoder(student_model, prompts, limit)
        teacher = None
        if behavior.needs_teacher:
            if teacher_prompts is None:
                raise ValueError(
                    "the behaviour policy needs the teacher and the request has no teacher prompts"
                )
            teacher = Decoder(teacher_model, teacher_prompts, limit)
        recorder = Recorder(len(prompts), student_model.device)
        rows_A = torch.arange(len(prompts), device=student_model.device)  # rows still decoding: A of the B
        teacher_rows_A = behavior.teacher_rows[part].to(student_model.device)
        for t in range(limit):
            log_p = _next_log_probs(student_model, student.hidden_BH)
            log_q = _next_log_probs(teacher_model, teacher.hidden_BH) if teacher else None
            tokens_A, record = draw(behavior, log_p, log_q, teacher_rows_A, uniforms_BT[rows_A, t], keep)
            if keep.teacher_hidden and teacher:
                record["teacher_hidden"] = teacher.hidden_BH
            recorder.add(rows_A, tokens_A, record)
            recorder.finished[rows_A] |= tokens_A == self.pair.vocabulary.stop_id
            alive_A = ~recorder.finished[rows_A]  # rows that ended earlier may still be in the batch
            num_alive = int(alive_A.sum())
            if num_alive == 0 or t == limit - 1:
                break
            if num_alive < COMPACT_BELOW * len(rows_A):
                index = alive_A.nonzero().squeeze(-1)
                rows_A, tokens_A, teacher_rows_A = rows_A[index], tokens_A[index], teacher_rows_A[index]
                student.keep_rows(index)
                if teacher:
                    teacher.keep_rows(index)
            student.append(tokens_A)
            if teacher:
                teacher.append(tokens_A)
        return recorder.rollouts(prompts, teacher_prompts)

    @torch.no_grad()
    def score(self, rollouts: Rollouts, keep: Keep) -> None:
        """One batched teacher pass over finished rollouts; fills their teacher fields."""
        score_with_teacher(self.pair.teacher, rollouts, keep, self.score_tokens, self.chunk_tokens)


def _next_log_probs(model: LanguageModel, hidden_BH: Tensor) -> Tensor:
    assert model.stops is not None
    return canonical_log_probs(model.logits(hidden_BH), model.stops)


def draw(
    behavior: StepBehavior,
    log_p_BV: Tensor,
    log_q_BV: Tensor | None,
    teacher_rows_B: Tensor,
    uniform_B: Tensor,
    keep: Keep,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One token a row from the behaviour policy, and what is recorded of the position."""
    record: dict[str, Tensor] = {}
    log_mu_BV = log_p_BV
    if behavior.target is not None and log_q_BV is not None:
        target = behavior.target(log_p_BV, log_q_BV, teacher_rows_B)
        log_mu_BV = target.log_mu_BV
        record["kl"] = target.kl_B
        record["redraw"] = total_variation(log_p_BV, log_mu_BV)
        record["teacher_entropy"] = entropy(log_q_BV)
        if target.beta_B is not None:
            record["beta"] = target.beta_B
    tokens_B = sample(log_mu_BV, uniform_B)
    picked = tokens_B[:, None]
    record["student_logprob"] = log_p_BV.gather(-1, picked).squeeze(-1)
    record["behavior_logprob"] = log_mu_BV.gather(-1, picked).squeeze(-1)
    if log_q_BV is not None:
        record["teacher_logprob"] = log_q_BV.gather(-1, picked).squeeze(-1)
    if keep.top_k is not None:
        record["support"] = log_p_BV.topk(keep.top_k, dim=-1).indices
        if log_q_BV is not None:
            record["teacher_support"] = log_q_BV.gather(-1, record["support"])
    return tokens_B, record
