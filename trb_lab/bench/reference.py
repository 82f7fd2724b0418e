"""The plain implementations that the lab is measured against: bisection, and transformers.generate.

Suffixes: B rows, V shared vocabulary, W logit width of the student, T positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from trb_lab.models.load import Pair
from trb_lab.policy.eos import NEG_INF, canonical_log_probs

from .decoder import Decoder

BISECTION_STEPS = 24


class Bisected(NamedTuple):
    log_mu_BV: Tensor
    beta_B: Tensor


Halve = Callable[[Tensor, Tensor, Tensor, Tensor, float | Tensor], tuple[Tensor, Tensor]]


def halve(
    base_BV: Tensor, ratio_BV: Tensor, low_B: Tensor, high_B: Tensor, eps: float | Tensor
) -> tuple[Tensor, Tensor]:
    """One bit of beta: the half of the bracket that holds the largest feasible value."""
    middle_B = 0.5 * (low_B + high_B)
    feasible_B = _blend(base_BV, ratio_BV, middle_B)[1] <= eps
    return torch.where(feasible_B, middle_B, low_B), torch.where(feasible_B, high_B, middle_B)


def _blend(base_BV: Tensor, ratio_BV: Tensor, beta_B: Tensor) -> tuple[Tensor, Tensor]:
    """log mu_beta and KL(mu_beta || p)."""
    tilted_BV = base_BV + beta_B[:, None] * ratio_BV
    normaliser_B = torch.logsumexp(tilted_BV, dim=-1)
    log_mu_BV = tilted_BV - normaliser_B[:, None]
    return log_mu_BV, beta_B * (log_mu_BV.exp() * ratio_BV).sum(-1) - normaliser_B


def bisection(
    log_p_BV: Tensor,
    log_q_BV: Tensor,
    eps: float | Tensor,
    steps: int = BISECTION_STEPS,
    dtype: torch.dtype = torch.float64,
    halve: Halve = halve,
) -> Bisected:
    """mu_beta = p^(1-beta) q^beta / Z with the largest beta in the budget, one bit of beta a pass.

    The same inputs and conventions as `trust_region`; `dtype` is what it computes in. `halve` may be a compiled one.
    """
    p_BV = torch.log_softmax(log_p_BV.to(dtype), dim=-1)
    q_BV = torch.log_softmax(log_q_BV.to(dtype), dim=-1)
    common_BV = torch.isfinite(p_BV) & torch.isfinite(q_BV)
    ratio_BV = torch.where(common_BV, q_BV - p_BV, 0.0)
    base_BV = p_BV.masked_fill(~common_BV, NEG_INF)
    low_B = torch.zeros_like(p_BV[:, 0])
    high_B = torch.ones_like(low_B)
    whole_B = _blend(base_BV, ratio_BV, high_B)[1] <= eps
    for _ in range(steps):
        low_B, high_B = halve(base_BV, ratio_BV, low_B, high_B, eps)
    beta_B = torch.where(whole_B, 1.0, low_B)
    log_mu_BV = torch.where((beta_B == 0)[:, None], p_BV, _blend(base_BV, ratio_BV, beta_B)[0])
    return Bisected(log_mu_BV.to(log_p_BV.dtype), beta_B.to(log_p_BV.dtype))


class TeacherBlend(LogitsProcessor):
    """TRB as a logits processor: a teacher pass with its own KV cache and a bisection for each position.

    One for each call of generate. Finished rows stay in the batch, as they do in generate.
    """

    def __init__(self, pair: Pair, teacher_prompts: list[list[int]], max_new_tokens: int, eps: float) -> None:
        self.pair = pair
        self.prompts = teacher_prompts
        self.max_new_tokens = max_new_tokens
        self.eps = eps
        self.teacher: Decoder | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Student logits [B, W] -> log mu [B, W], -inf on ids that are not shared."""
        student, teacher = self.pair.student, self.pair.teacher
        assert student.stops is not None and teacher.stops is not None
        if self.teacher is None:
            self.teacher = Decoder(teacher, self.prompts, self.max_new_tokens)
        else:
            self.teacher.append(input_ids[:, -1])
        log_p_BV = canonical_log_probs(scores, student.stops)
        log_q_BV = canonical_log_probs(teacher.logits(self.teacher.hidden_BH), teacher.stops)
        blended_BW = scores.new_full(scores.shape, NEG_INF)
        blended_BW[:, : log_p_BV.shape[-1]] = bisection(log_p_BV, log_q_BV, self.eps).log_mu_BV
        return blended_BW


@torch.no_grad()
def generate(
    pair: Pair, prompts: list[list[int]], max_new_tokens: int, processor: TeacherBlend | None = None
) -> list[list[int]]:
    """Responses of the student by `transformers.generate` at temperature 1, the stop token included.

    `processor` changes what is drawn from. Draws come from torch's global generator.
    """
    student = pair.student
    longest = max(map(len, prompts))
    stop_ids = list(pair.vocabulary.stop_ids)
    pad_id = student.tokenizer.pad_token_id
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_new_tokens,
        eos_token_id=stop_ids,
        pad_token_id=stop_ids[0] if pad_id is None else pad_id,
    )
    ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    out = student.network.generate(
        input_ids=ids.to(student.device),
        attention_mask=mask.to(student.device),
        generation_config=config,
        logits_processor=LogitsProcessorList([processor] if processor else []),
    )
    return [_up_to_stop(row, set(stop_ids)) for row in out[:, longest:].tolist()]


def _up_to_stop(tokens: list[int], stop_ids: set[int]) -> list[int]:
    for position, token in enumerate(tokens):
        if token in stop_ids:
            return tokens[: position + 1]
    return tokens
