"""Seconds of one training step, vanilla OPD against a TRB warmup step, by phase."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial

from trb_lab.models.load import Pair
from trb_lab.policy.behaviors import StepBehavior, student_rollouts
from trb_lab.rollout.blocks import BlockChooser
from trb_lab.spec.experiment import OptimSpec, TopKLoss
from trb_lab.train.objective import backward_reverse_kl
from trb_lab.train.optimizer import MasterAdamW

from .ceilings import Ceilings, Floor, measure_ceilings
from .components import pass_floor, weight_flops
from .measure import Figures, hardware, middle, row, take_turns, timed
from .options import BUNDLED, Options, defaults
from .phases import rollout_turn
from .setting import TOP_K, Setting, asked_pair, bundled_setting, load, random_setting, refuse_context
from .table import Result, Table

PHASES = ("rollout", "scoring", "objective", "optimizer", "total")
VANILLA, TRB = "vanilla", "TRB"
LEARNING_RATE = 1e-12
"""An update costs the same at any rate; this one leaves the student as it is: every repeat does the same work."""
TOKEN_BUDGET, CHUNK_TOKENS = 16_384, 1024
RANDOM_NEW_TOKENS, RANDOM_CONTEXT = 256, 384
"""Of a random pair at real shapes: prompts of 256 tokens. Float32 masters and moments leave room for no more."""
ADAM_BYTES = 4 * 7.0
"""Bytes a parameter that AdamW moves: gradient, master and two moments read, the latter three written; float32."""


@dataclass
class Arm:
    """A kind of step. `blocks` learns from step to step, as in training."""

    behavior: StepBehavior
    blocks: BlockChooser


def run(options: Options | None = None) -> Result:
    """Both kinds of step in turns, on the same prompts and draws. Grading is left out: it is the same for both."""
    options = options or Options()
    name = asked_pair(options)
    pair = load(name)
    setting = _setting(options, name, pair)
    eps, repeats = (options.eps or defaults(name).eps)[0], options.repeats or defaults(name).repeats
    checkpointing = setting.device.type == "cuda" and name != BUNDLED
    if checkpointing:
        pair.student.checkpoint_activations()
    found, ceilings = hardware(setting.device), measure_ceilings(setting.device, pair.student.dtype)
    costs = setting.engine.costs(setting.request(0), setting.trb(eps), setting.keep)
    arms = {
        VANILLA: Arm(student_rollouts(setting.rows), BlockChooser()),
        TRB: Arm(setting.trb(eps), BlockChooser(costs=costs)),
    }
    optimizer = MasterAdamW(pair.student.network, OptimSpec(lr=LEARNING_RATE))
    contestants = {
        kind: partial(_step, setting, optimizer, arm, checkpointing, ceilings) for kind, arm in arms.items()
    }
    turns = take_turns(contestants, repeats)
    rows = []
    for phase in PHASES:
        seconds = {kind: [turn[phase] for turn in done] for kind, done in turns.items()}
        for kind, done in turns.items():
            notes = {"floor": middle(done, f"{phase} floor")} if any(seconds[kind]) else {}
            if notes and middle(done, phase) > 0:
                notes["share_of_floor_reached"] = notes["floor"] / middle(done, phase)
            against = {VANILLA: seconds[VANILLA]} if kind == TRB else {}
            rows.append(row(f"{phase}, {kind}", seconds[kind], against, notes))
    tokens = {kind: middle(done, "tokens") for kind, done in turns.items()}
    title = (
        f"{setting.rows} rows of at most {setting.max_new_tokens} tokens, TRB at eps {eps:g}; rollout tokens "
        f"{tokens[VANILLA]:.0f} ({VANILLA}) and {tokens[TRB]:.0f} ({TRB})"
    )
    remark = (
        f"TRB drafts blocks of {middle(turns[TRB], 'block'):.0f} (median), chosen step by step by the cost table and "
        f"the redraw rate seen before; redraw rate {middle(turns[TRB], 'redraw_rate'):.4f}."
    )
    table = Table(title, "seconds", repeats, rows, (remark,))
    described = {**asdict(found), "ceilings": asdict(ceilings), "pair": name}
    remarks = (f"pair: {name}; activation checkpointing {'on' if checkpointing else 'off'}",)
    return Result("step", described, f"{found.line()}\n{ceilings.line()}", [table], remarks)


def _setting(options: Options, name: str, pair: Pair) -> Setting:
    usual = defaults(name)
    rows = options.rows or usual.rows
    if name == BUNDLED:
        refuse_context(options)
        return bundled_setting(pair, rows, options.new_tokens or usual.new_tokens)
    large = usual.context[0] >= RANDOM_CONTEXT
    new_tokens = options.new_tokens or (RANDOM_NEW_TOKENS if large else usual.new_tokens)
    context = options.context[0] if options.context else RANDOM_CONTEXT if large else usual.context[0]
    return random_setting(pair, rows, new_tokens, context)


def _step(
    setting: Setting,
    optimizer: MasterAdamW,
    arm: Arm,
    checkpointing: bool,
    ceilings: Ceilings,
    repeat: int,
) -> Figures:
    """What train/trainer.py does in a step, phase by phase, and the floors of it."""
    pair, engine, device = setting.pair, setting.engine, setting.device
    rollouts, figures = rollout_turn(setting, arm.behavior, repeat, arm.blocks.at(arm.behavior))
    arm.blocks.observe(arm.behavior, rollouts)
    seconds: Figures = {"rollout": figures["seconds"], "scoring": 0.0}
    if rollouts.teacher_logprob_BT is None:
        _, seconds["scoring"] = timed(device, lambda: engine.score(rollouts, setting.keep))
    pair.student.network.train(checkpointing)
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
    pair.student.network.eval()
    _, seconds["optimizer"] = timed(device, lambda: optimizer.step(repeat))
    floors = _floors(setting, figures, checkpointing, ceilings)
    if seconds["scoring"] == 0.0:
        floors["scoring"] = 0.0
    floors["total"] = sum(floors.values())
    seconds["total"] = sum(seconds.values())
    named = {f"{phase} floor": value for phase, value in floors.items()}
    return {**seconds, **named, **{key: figures[key] for key in ("tokens", "block", "redraw_rate")}}


def _floors(setting: Setting, figures: Figures, checkpointing: bool, ceilings: Ceilings) -> Figures:
    """Seconds at the ceilings: decoding by its passes over a full batch, AdamW by bytes, the rest by operations."""
    student, teacher = setting.pair.student, setting.pair.teacher
    prompt = sum(map(len, setting.student_prompts)) / setting.rows
    sequence_tokens = setting.rows * prompt + figures["tokens"]
    context = prompt + figures["longest"] / 2
    with_teacher = figures["redraw_rate"] > 0
    prefill = setting.rows * prompt * (weight_flops(student) + with_teacher * weight_flops(teacher))
    drafting = pass_floor(student, setting.rows, 1, context).seconds(ceilings) * figures["draft_passes"]
    verifying = pass_floor(teacher, setting.rows, int(figures["block"]), context).seconds(ceilings)
    passes = (
        3 + checkpointing
    )  # forward, twice as much backward, and forward again where activations are dropped
    parameters = sum(p.numel() for p in student.network.parameters())
    return {
        "rollout": Floor(0.0, prefill).seconds(ceilings)
        + drafting
        + with_teacher * verifying * figures["rounds"],
        "scoring": Floor(0.0, sequence_tokens * weight_flops(teacher)).seconds(ceilings),
        "objective": Floor(0.0, passes * sequence_tokens * weight_flops(student)).seconds(ceilings),
        "optimizer": Floor(parameters * ADAM_BYTES, 0.0).seconds(ceilings),
    }
