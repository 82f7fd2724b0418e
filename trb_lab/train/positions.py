"""How the policies differ by position in the response: lines of positions.jsonl, on sampled steps.

Bins of positions double in width: 1, 2-3, 4-7, 8-15 and so on. What the rollout recorded is averaged over all rows. How
far student and teacher agree on the likeliest tokens takes a plain pass of each, over the sampled rows alone; it must
be called before the update, while the student is still the one that made the rollouts.

Shape suffixes: B rows, T response positions, C positions of a chunk, K likeliest tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trb_lab.models.load import LanguageModel, Pair
from trb_lab.policy.eos import canonical_log_probs
from trb_lab.rollout.engine import Rollouts
from trb_lab.rollout.packing import micro_batches
from trb_lab.spec import ExperimentSpec

from .objective import top_k_of
from .statistics import NUM_SAMPLES


class Agreement(NamedTuple):
    """At each position, float32 [B, T]; 0 where masked out."""

    student_mass_BT: Tensor
    """The student's probability of its own K likeliest tokens."""
    teacher_mass_BT: Tensor
    """The teacher's probability of the same tokens."""
    overlap_BT: Tensor
    """Share of the student's K likeliest tokens that are among the teacher's."""


def position_line(spec: ExperimentSpec, pair: Pair, step: int, rollouts: Rollouts) -> dict[str, Any]:
    """The step's line of positions.jsonl."""
    sampled = rollouts.first(NUM_SAMPLES)
    top_k = top_k_of(spec.loss, pair.vocabulary.size)
    resources = spec.resources
    agreement = top_k_agreement(
        pair, sampled, top_k, resources.micro_batch_tokens, resources.loss_chunk_tokens
    )
    bins = log_bins(int(rollouts.lengths_B.max()))

    def means(values_BT: Tensor | None, of: Rollouts) -> list[float | None]:
        return [None] * len(bins) if values_BT is None else bin_means(values_BT, of.mask_BT, bins)

    return {
        "step": step,
        "bins": [list(part) for part in bins],
        "tokens": [int(rollouts.mask_BT[:, first - 1 : last].sum()) for first, last in bins],
        "redraw_rate": means(rollouts.redraw_BT, rollouts),
        "kl": means(rollouts.kl_BT, rollouts),
        "beta": means(rollouts.beta_BT, rollouts),
        "student_top_k_mass": means(agreement.student_mass_BT, sampled),
        "teacher_top_k_mass": means(agreement.teacher_mass_BT, sampled),
        "top_k_overlap": means(agreement.overlap_BT, sampled),
    }


def log_bins(longest: int) -> list[tuple[int, int]]:
    """(first, last) position of each bin, counted from 1, up to the one that holds `longest`."""
    return [(2**i, 2 ** (i + 1) - 1) for i in range(longest.bit_length())]


def bin_means(values_BT: Tensor, mask_BT: Tensor, bins: list[tuple[int, int]]) -> list[float | None]:
    """Mean over the tokens of each bin; None where it has none."""
    found: list[float | None] = []
    for first, last in bins:
        part = slice(first - 1, last)
        values = values_BT[:, part][mask_BT[:, part]]
        found.append(float(values.double().mean()) if len(values) else None)
    return found


@torch.no_grad()
def top_k_agreement(
    pair: Pair, rollouts: Rollouts, top_k: int, token_budget: int, chunk_tokens: int
) -> Agreement:
    """One plain pass of each model over the rollouts; logits exist for `chunk_tokens` positions at a time."""
    assert rollouts.teacher_prompts is not None
    shape = rollouts.mask_BT.shape
    agreement = Agreement(*(torch.zeros(shape) for _ in range(3)))
    support_BTK = torch.zeros(*shape, top_k, dtype=torch.int64)
    passes = (rollouts, token_budget, chunk_tokens)
    for at, log_p_CV in _log_probs(pair.student, rollouts.student_prompts, *passes):
        top_CK = log_p_CV.topk(top_k, dim=-1)
        support_BTK[at] = top_CK.indices.cpu()
        agreement.student_mass_BT[at] = top_CK.values.exp().sum(-1).cpu()
    for at, log_q_CV in _log_probs(pair.teacher, rollouts.teacher_prompts, *passes):
        support_CK = support_BTK[at].to(log_q_CV.device)
        theirs_CK = log_q_CV.topk(top_k, dim=-1).indices
        shared_C = (support_CK[:, :, None] == theirs_CK[:, None, :]).any(-1).sum(-1)
        agreement.teacher_mass_BT[at] = log_q_CV.gather(-1, support_CK).exp().sum(-1).cpu()
        agreement.overlap_BT[at] = (shared_C / top_k).cpu()
    return agreement


def _log_probs(
    model: LanguageModel, prompts: list[list[int]], rollouts: Rollouts, token_budget: int, chunk_tokens: int
) -> Iterator[tuple[tuple[Tensor, Tensor], Tensor]]:
    """(row and position of each of C positions, the model's log-probs there)."""
    assert model.stops is not None
    for batch in micro_batches(rollouts, prompts, token_budget):
        on_device = batch.to(model.device)
        hidden_NH = model.hidden(input_ids=on_device.ids_bL, use_cache=False)[on_device.predicts_bL]
        local_N, positions_N = batch.response_bT.nonzero(as_tuple=True)
        rows_N = batch.rows[local_N]
        for start in range(0, len(rows_N), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            log_probs_CV = canonical_log_probs(model.logits(hidden_NH[part]), model.stops)
            yield (rows_N[part], positions_N[part]), log_probs_CV
