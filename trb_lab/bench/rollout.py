"""Committed tokens a second: this lab's engine against transformers.generate, on the same prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import torch

from trb_lab.policy.behaviors import StepBehavior, behavior_at, student_rollouts
from trb_lab.seeds import derive
from trb_lab.spec.warmup import TrbWarmup

from .measure import Figures, hardware, row, take_turns, timed
from .reference import TeacherBlend, generate
from .setting import KL_BUDGET, Setting, setting
from .table import Result, Table

OURS, OURS_TRB = "vanilla, trb_lab", "TRB, trb_lab"
PLAIN, PLAIN_TRB = "vanilla, generate", "TRB, generate with teacher"
AGAINST = {PLAIN: (), OURS: (PLAIN,), PLAIN_TRB: (PLAIN,), OURS_TRB: (PLAIN_TRB, OURS)}
"""Row -> the rows that its ratios refer to."""


def run(bundled: Setting | None = None, repeats: int = 7) -> Result:
    """Vanilla and TRB rollouts of both, in turns. Responses end by themselves or at the limit."""
    bundled = bundled or setting()
    contestants: dict[str, Callable[[int], Figures]] = {
        PLAIN: partial(_generate, bundled, False),
        OURS: partial(_engine, bundled, student_rollouts(bundled.rows)),
        PLAIN_TRB: partial(_generate, bundled, True),
        OURS_TRB: partial(_engine, bundled, trb_behavior(bundled.rows)),
    }
    found = hardware(bundled.device)
    turns = take_turns(contestants, repeats)
    rates = {name: [turn["tokens"] / turn["seconds"] for turn in done] for name, done in turns.items()}
    rows = []
    for name, against in AGAINST.items():
        notes = {
            "tokens_a_row": sum(turn["tokens"] for turn in turns[name]) / (repeats * bundled.rows),
            "longest_row": max(int(turn["longest"]) for turn in turns[name]),
        }
        rows.append(row(name, rates[name], {other: rates[other] for other in against}, notes))
    title = f"{bundled.rows} rows of at most {bundled.max_new_tokens} tokens, TRB at eps {KL_BUDGET:g}"
    table = Table(title, "committed tokens a second", repeats, rows)
    return Result("rollout", asdict(found), found.line(), [table])


def trb_behavior(rows: int) -> StepBehavior:
    """TRB at its full budget."""
    return behavior_at(TrbWarmup(kind="trb", kl_budget=KL_BUDGET, steps=1), 0, rows, 0)


def _engine(bundled: Setting, behavior: StepBehavior, repeat: int) -> Figures:
    request, engine = bundled.request(repeat), bundled.engine
    rollouts, seconds = timed(bundled.device, lambda: engine.rollout(request, behavior, bundled.keep))
    return {"tokens": rollouts.num_tokens, "longest": int(rollouts.lengths_B.max()), "seconds": seconds}


def _generate(bundled: Setting, blend: bool, repeat: int) -> Figures:
    torch.manual_seed(derive(0, "bench", repeat))
    limit = bundled.max_new_tokens

    def work() -> list[list[int]]:
        processor = TeacherBlend(bundled.pair, bundled.teacher_prompts, limit, KL_BUDGET) if blend else None
        return generate(bundled.pair, bundled.student_prompts, limit, processor)

    responses, seconds = timed(bundled.device, work)
    lengths = [len(response) for response in responses]
    return {"tokens": sum(lengths), "longest": max(lengths), "seconds": seconds}
