"""Rollouts of a random pair at real shapes: TRB by draft-and-verify against lock-step, and against vanilla training."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch

from trb_lab.models.load import Pair
from trb_lab.policy.behaviors import StepBehavior, student_rollouts
from trb_lab.rollout.cached_model import ROW_BUCKETS
from trb_lab.rollout.engine import Draws, RolloutRequest
from trb_lab.rollout.torch_engine import MAX_BLOCK

from .ceilings import Ceilings
from .components import component_table
from .measure import Figures, column, middle, row, take_turns, timed
from .phases import rollout_turn
from .prediction import cost_table, prediction_table
from .random_pair import ENTROPY_NATS, mean_entropy
from .setting import Setting, random_setting
from .table import Table

VANILLA, SCORED = "vanilla rollout", "vanilla rollout + scoring"
ANNEAL = (5 / 6, 1 / 2, 1 / 6)
"""Shares of the first budget: the middles of three equal parts of a linear anneal to 0."""
PILOT_TOKENS, PILOT_PROMPT = 32, 16
"""A short rollout that the redraw rate is seen in before blocks are chosen."""

Turns = Mapping[str, Sequence[Figures]]


def remarks(pair: Pair) -> tuple[str, ...]:
    """What the figures hold for."""
    student, teacher = mean_entropy(pair.student), mean_entropy(pair.teacher)
    return (
        f"Random weights; final norms scaled to a mean next-token entropy of {ENTROPY_NATS:g} nat (measured: student "
        f"{student:.2f}, teacher {teacher:.2f}). Teacher and student are independent, so the budget binds at every "
        "token: the worst case for redraws; real pairs agree on most tokens.",
        "Responses are of full length; the context is what a row's cache holds half-way through its response. The "
        "anneal is the mean of rollouts at 5/6, 1/2 and 1/6 of the first budget, the middles of three equal parts of a "
        "linear anneal to 0; each at the block length that the cost table chooses for it.",
    )


def tables(
    pair: Pair,
    rows: int,
    new_tokens: int,
    context: int,
    budgets: Sequence[float],
    repeats: int,
    ceilings: Ceilings,
) -> list[Table]:
    """Wall time, tokens a second, the passes, the cost table and what it predicts, at one context."""
    setting = random_setting(pair, rows, new_tokens, context)
    first = budgets[0]
    costs = setting.engine.costs(setting.request(0), setting.trb(first), setting.keep)
    _make_caches(setting, context)
    blocks = {}
    for eps in dict.fromkeys([*budgets, *(share * first for share in ANNEAL)]):
        blocks[eps] = setting.choose_block(setting.trb(eps), costs, _pilot(setting))
    for block in dict.fromkeys([1, *blocks.values()]):
        if setting.device.type == "cuda":
            _capture(setting, setting.trb(first), block)
    lock_step, anneal = f"TRB {first:g}, lock-step", f"TRB, anneal from {first:g}"
    contestants: dict[str, Callable[[int], Figures]] = {
        VANILLA: partial(_vanilla, setting),
        lock_step: partial(_engine, setting, setting.trb(first), 1),
    }
    for eps in budgets:
        contestants[f"TRB {eps:g}"] = partial(_engine, setting, setting.trb(eps), blocks[eps])
    contestants[anneal] = partial(_anneal, setting, {s * first: blocks[s * first] for s in ANNEAL})
    turns = take_turns(contestants, repeats, warm_up=setting.device.type != "cuda")
    seen = {f"eps_{eps:g}": middle(turns[f"TRB {eps:g}"], "redraw_rate") for eps in budgets}
    where = f"{rows} rows, context {context}, {new_tokens} new tokens"
    engine = {name: done for name, done in turns.items() if name != anneal}
    found = [
        _wall_time(where, turns, repeats),
        _rates(where, turns, lock_step, repeats, decode_only=False),
        _rates(where, turns, lock_step, repeats, decode_only=True),
        component_table(setting, context, ceilings),
        cost_table(costs, seen),
        prediction_table(f"cost model, {where}", costs, engine, float(new_tokens)),
    ]
    setting.engine.release()
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def _wall_time(where: str, turns: Turns, repeats: int) -> Table:
    """Seconds, and ratios to what a vanilla training step takes for the same: a rollout and the teacher's scores."""
    scored = [turn["seconds"] + turn["scoring"] for turn in turns[VANILLA]]
    rows = []
    for name, done in turns.items():
        keys = ("prefill",) if name == VANILLA else ("prefill", "redraw_rate", "budget_binds", "block")
        notes = {key: middle(done, key) for key in keys}
        rows.append(row(name, column(done, "seconds"), {SCORED: scored}, notes))
        if name == VANILLA:
            rows.append(row(SCORED, scored, None, {"scoring": middle(done, "scoring")}))
    return Table(f"wall time, {where}", "seconds", repeats, rows)


def _rates(where: str, turns: Turns, lock_step: str, repeats: int, *, decode_only: bool) -> Table:
    """Committed tokens a second, with prefill or without."""

    def rate(turn: Figures) -> float:
        return turn["tokens"] / (turn["seconds"] - turn["prefill"] * decode_only)

    rates = {name: [rate(turn) for turn in done] for name, done in turns.items()}
    rows = [
        row(name, values, {} if name in (VANILLA, lock_step) else {lock_step: rates[lock_step]})
        for name, values in rates.items()
    ]
    title = f"{'decoding alone, prefill left out' if decode_only else 'rollout with prefill'}, {where}"
    return Table(title, "committed tokens a second", repeats, rows)


def _engine(setting: Setting, behavior: StepBehavior, block: int, repeat: int) -> Figures:
    return rollout_turn(setting, behavior, repeat, block)[1]


def _vanilla(setting: Setting, repeat: int) -> Figures:
    """A rollout of the student, then the teacher's batched pass over it."""
    rollouts, figures = rollout_turn(setting, student_rollouts(setting.rows), repeat)
    _, scoring = timed(setting.device, lambda: setting.engine.score(rollouts, setting.keep))
    return {**figures, "scoring": scoring}


def _anneal(setting: Setting, blocks: Mapping[float, int], repeat: int) -> Figures:
    """Means over rollouts at the anneal's budgets."""
    parts = [_engine(setting, setting.trb(eps), block, repeat) for eps, block in blocks.items()]
    return {key: statistics.mean(part[key] for part in parts) for key in parts[0]}


def _make_caches(setting: Setting, context: int) -> None:
    """Caches of full size, so that no later rollout makes them anew."""
    caches, room = setting.engine.caches, setting.max_new_tokens + MAX_BLOCK
    for role in ("student", "teacher"):
        with ExitStack() as stack:
            caches.ready(role, setting.rows, context + room, stack)
    setting.engine.rollout(
        _pilot(setting), setting.trb(0.01), setting.keep
    )  # layers allocate when first seen


def _pilot(setting: Setting) -> RolloutRequest:
    """A short rollout after short prompts: cheap, and the redraw rate is the same."""
    prompts = [prompt[:PILOT_PROMPT] for prompt in setting.student_prompts]
    width = min(PILOT_TOKENS, setting.max_new_tokens)
    return RolloutRequest(prompts, prompts, Draws.keyed(0, "pilot", 0, range(setting.rows), width))


def _capture(setting: Setting, behavior: StepBehavior, block: int) -> None:
    """One round at every batch size that rows leaving may bring about: no graph is captured while the clock runs."""
    pilot = _pilot(setting)
    for rows in (size for size in (*ROW_BUCKETS, setting.rows) if size <= setting.rows):
        prompts = pilot.student_prompts[:rows]
        request = RolloutRequest(prompts, prompts, Draws.keyed(0, "pilot", 0, range(rows), 1), block)
        setting.engine.rollout(
            request, replace(behavior, row_values=behavior.row_values[:rows]), setting.keep
        )
