"""Seconds of one training step of the bundled task: vanilla OPD against a TRB warmup step, by phase."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from trb_lab.policy.behaviors import StepBehavior, student_rollouts
from trb_lab.spec.experiment import OptimSpec, TopKLoss
from trb_lab.train.objective import backward_reverse_kl
from trb_lab.train.optimizer import MasterAdamW

from .measure import Figures, hardware, row, take_turns, timed
from .rollout import trb_behavior
from .setting import KL_BUDGET, TOP_K, Setting, setting
from .table import Result, Table

PHASES = ("rollout", "scoring", "objective", "optimizer", "total")
VANILLA, TRB = "vanilla", "TRB"
LEARNING_RATE = 1e-12
"""An update costs the same at any rate; this one leaves the student as it is: every repeat does the same work."""
TOKEN_BUDGET, CHUNK_TOKENS = 16_384, 1024


def run(bundled: Setting | None = None, repeats: int = 9) -> Result:
    """Both kinds of step in turns, on the same prompts and draws. Grading is left out: it is the same for both."""
    bundled = bundled or setting()
    optimizer = MasterAdamW(bundled.pair.student.network, OptimSpec(lr=LEARNING_RATE))
    behaviors = {VANILLA: student_rollouts(bundled.rows), TRB: trb_behavior(bundled.rows)}
    found = hardware(bundled.device)
    contestants = {name: partial(_step, bundled, optimizer, behavior) for name, behavior in behaviors.items()}
    turns = take_turns(contestants, repeats)
    rows = []
    for phase in PHASES:
        seconds = {name: [turn[phase] for turn in done] for name, done in turns.items()}
        rows.append(row(f"{phase}, {VANILLA}", seconds[VANILLA]))
        rows.append(row(f"{phase}, {TRB}", seconds[TRB], {VANILLA: seconds[VANILLA]}))
    tokens = {name: sum(turn["tokens"] for turn in done) / repeats for name, done in turns.items()}
    title = (
        f"{bundled.rows} rows of at most {bundled.max_new_tokens} tokens, TRB at eps {KL_BUDGET:g}; mean rollout "
        f"tokens {tokens[VANILLA]:.0f} ({VANILLA}) and {tokens[TRB]:.0f} ({TRB})"
    )
    return Result("step", asdict(found), found.line(), [Table(title, "seconds", repeats, rows)])


def _step(bundled: Setting, optimizer: MasterAdamW, behavior: StepBehavior, repeat: int) -> Figures:
    """What train/trainer.py does in a step, phase by phase."""
    pair, engine, device = bundled.pair, bundled.engine, bundled.device
    request = bundled.request(repeat)
    seconds: Figures = {}
    rollouts, seconds["rollout"] = timed(device, lambda: engine.rollout(request, behavior, bundled.keep))
    seconds["scoring"] = 0.0
    if rollouts.teacher_logprob_BT is None:
        _, seconds["scoring"] = timed(device, lambda: engine.score(rollouts, bundled.keep))
    _, seconds["objective"] = timed(
        device,
        lambda: backward_reverse_kl(
            pair,
            rollouts,
            TopKLoss(top_k=TOP_K),
            token_budget=TOKEN_BUDGET,
            chunk_tokens=CHUNK_TOKENS,
            after_backward=optimizer.accumulate,
        ),
    )
    _, seconds["optimizer"] = timed(device, lambda: optimizer.step(repeat))
    return {**seconds, "total": sum(seconds.values()), "tokens": float(rollouts.num_tokens)}
