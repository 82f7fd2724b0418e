"""Rollouts of the bundled pair against transformers.generate: responses of unequal length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from trb_lab.models.load import Pair
from trb_lab.policy.behaviors import StepBehavior, student_rollouts
from trb_lab.seeds import derive

from .ceilings import Ceilings
from .components import component_table
from .measure import Figures, column, middle, row, take_turns, timed
from .phases import rollout_turn
from .prediction import cost_table, prediction_table
from .reference import TeacherBlend, generate
from .setting import Setting, bundled_setting
from .table import Table

PLAIN, OURS = "vanilla, generate", "vanilla, trb_lab"


def tables(
    pair: Pair, rows: int, new_tokens: int, budgets: Sequence[float], repeats: int, ceilings: Ceilings
) -> list[Table]:
    """Tokens a second, the passes, the cost table and what it predicts."""
    setting = bundled_setting(pair, rows, new_tokens)
    costs = setting.engine.costs(setting.request(0), setting.trb(budgets[0]), setting.keep)
    contestants: dict[str, Callable[[int], Figures]] = {
        PLAIN: partial(_generate, setting, None),
        OURS: partial(_engine, setting, student_rollouts(setting.rows), None),
    }
    against: dict[str, tuple[str, ...]] = {PLAIN: (), OURS: (PLAIN,)}
    for eps in budgets:
        plain, lock_step, ours = names(eps)
        behavior = setting.trb(eps)
        block = setting.choose_block(behavior, costs, setting.request(0))
        contestants[plain] = partial(_generate, setting, eps)
        contestants[lock_step] = partial(_engine, setting, behavior, 1)
        contestants[ours] = partial(_engine, setting, behavior, block)
        against |= {plain: (PLAIN,), lock_step: (plain,), ours: (plain, lock_step, OURS)}
    turns = take_turns(contestants, repeats)
    rates = {name: [turn["tokens"] / turn["seconds"] for turn in done] for name, done in turns.items()}
    lines = []
    for name, others in against.items():
        notes = {
            "tokens_a_row": sum(column(turns[name], "tokens")) / (repeats * rows),
            "longest_row": int(max(column(turns[name], "longest"))),
        }
        for key in ("block", "redraw_rate", "budget_binds"):
            if key in turns[name][0] and others != (PLAIN,):
                notes[key] = middle(turns[name], key)
        lines.append(row(name, rates[name], {other: rates[other] for other in others}, notes))
    main = Table(f"{rows} rows of at most {new_tokens} tokens", "committed tokens a second", repeats, lines)
    engine = {name: done for name, done in turns.items() if "rounds" in done[0]}
    seen = {f"eps_{eps:g}": middle(turns[names(eps)[2]], "redraw_rate") for eps in budgets}
    return [
        main,
        component_table(setting, costs.context, ceilings),
        cost_table(costs, seen),
        prediction_table("cost model", costs, engine, None),
    ]


def names(eps: float) -> tuple[str, str, str]:
    """Contestants at one budget: generate with a teacher, lock-step, the block that the cost table chooses."""
    return (
        f"TRB {eps:g}, generate with teacher",
        f"TRB {eps:g}, trb_lab lock-step",
        f"TRB {eps:g}, trb_lab",
    )


def _engine(setting: Setting, behavior: StepBehavior, block: int | None, repeat: int) -> Figures:
    return rollout_turn(setting, behavior, repeat, block)[1]


def _generate(setting: Setting, eps: float | None, repeat: int) -> Figures:
    torch.manual_seed(derive(0, "bench", repeat))
    limit = setting.max_new_tokens

    def work() -> list[list[int]]:
        processor = None if eps is None else TeacherBlend(setting.pair, setting.teacher_prompts, limit, eps)
        return generate(setting.pair, setting.student_prompts, limit, processor)

    responses, seconds = timed(setting.device, work)
    lengths = [len(response) for response in responses]
    return {"tokens": float(sum(lengths)), "longest": float(max(lengths)), "seconds": seconds}
