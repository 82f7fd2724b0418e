"""The passes that a rollout is made of, against the least that they could take."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trb_lab.models.load import LanguageModel
from trb_lab.rollout.cached_model import CachedModel
from trb_lab.rollout.caches import cache_bytes_per_token
from trb_lab.rollout.engine import Draws, RolloutRequest

from .ceilings import Ceilings, Floor
from .measure import Figures, row, take_turns, timed
from .setting import Setting
from .table import Table

VERIFIED = 8
"""Tokens a row of the teacher's pass."""
REPEATS = 10


def weight_bytes(model: LanguageModel) -> float:
    """What one pass reads of the weights: each once, the head included, and of an untied embedding next to nothing."""
    return float(sum(p.numel() * p.element_size() for p in _read_weights(model)))


def weight_flops(model: LanguageModel) -> float:
    """Operations of one token through all matrices."""
    return 2.0 * sum(p.numel() for p in _read_weights(model))


def _read_weights(model: LanguageModel) -> list[Tensor]:
    network = model.network
    embedding, head = network.get_input_embeddings().weight, network.get_output_embeddings().weight
    return [p for p in network.parameters() if p is not embedding or p is head]


def pass_floor(model: LanguageModel, rows: int, tokens: int, context: float) -> Floor:
    """Weights and the rows' keys and values read once; matrices and attention computed once."""
    config: Any = model.network.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 4.0 * config.num_hidden_layers * config.num_attention_heads * size * context
    return Floor(
        weight_bytes(model) + rows * context * cache_bytes_per_token(model),
        rows * tokens * (weight_flops(model) + attention),
    )


@torch.no_grad()
def component_table(setting: Setting, context: int, ceilings: Ceilings) -> Table:
    """One decoding pass of the student and one verifying pass of the teacher, with `context` tokens in a row's cache.

    The passes alone: no draws, no verdict. What the caches hold there is not real, which costs the same.
    """
    draws = Draws.keyed(0, "bench", 0, range(setting.rows), context)  # so that the caches are long enough
    prompts = [[0, 0]] * setting.rows
    request = RolloutRequest(prompts, prompts, draws)
    with ExitStack() as stack:
        batch = setting.engine.start(request, setting.trb(0.01), stack)
        assert batch.teacher is not None
        position_A = torch.full_like(batch.position_A, context) - batch.student.offset_S[: setting.rows]
        work = {
            "student, 1 token a row": (batch.student, 1),
            f"teacher, {VERIFIED} tokens a row": (batch.teacher, VERIFIED),
        }
        contestants = {name: partial(_pass, *what, position_A) for name, what in work.items()}
        turns = take_turns(contestants, REPEATS)
    rows = []
    for name, (cached, tokens) in work.items():
        floor = pass_floor(cached.model, setting.rows, tokens, context)
        milliseconds = [turn["milliseconds"] for turn in turns[name]]
        least = 1000 * floor.seconds(ceilings)
        notes = {
            "floor": least,
            "share_of_floor_reached": least / row(name, milliseconds).figure.median,
            "bound_by": floor.bound(ceilings),
            "gigabytes": floor.num_bytes / 1e9,
            "gigaflops": floor.num_flops / 1e9,
        }
        rows.append(row(name, milliseconds, notes=notes))
    title = f"passes, {setting.rows} rows, {context} tokens in the cache"
    remark = "floor: weights (head included) and cached keys and values read once, or all operations, at the ceilings."
    return Table(title, "milliseconds", REPEATS, rows, (remark,))


def _pass(cached: CachedModel, tokens: int, position_A: Tensor, repeat: int) -> Figures:
    cached.place(position_A)
    ids_AG = torch.zeros(len(position_A), tokens, dtype=torch.int64, device=position_A.device)
    _, seconds = timed(position_A.device, lambda: cached.extend(ids_AG))
    return {"milliseconds": 1000 * seconds}
