"""The arms: what each of them does at a training step. One spec class (spec/warmup.py) and one function here.

An arm is a behaviour policy and, where it needs one, a target transform or a mask of positions that imitate the
teacher; SFT also has a phase before training (train/sft.py). docs/arms.md has the formulas and shows how to add an
arm, here or in a package of your own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import Tensor

from trb_lab.errors import UsageError
from trb_lab.seeds import generator
from trb_lab.spec.schedule import AdaptiveAnneal
from trb_lab.spec.warmup import (
    FixedEpsilonWarmup,
    MixtureWarmup,
    OpdWarmup,
    SakiWarmup,
    SftWarmup,
    SkdWarmup,
    TeacherForcedWarmup,
    TemperatureWarmup,
    TrbWarmup,
    VetoWarmup,
)

from .behaviors import (
    StepBehavior,
    drive_rows,
    mix_rows,
    replace_outside_top_k,
    student_rollouts,
    tempered_rollouts,
    trust_region_rollouts,
)
from .feedback import Feedback


@dataclass(frozen=True)
class ArmContext:
    """What an arm may depend on."""

    step: int
    """0-based training step."""
    rows: int
    """Rollouts of the step."""
    seed: int
    steps: int
    """Training steps of the run."""
    feedback: Feedback = field(default_factory=Feedback)
    """What earlier steps have shown, for arms that adapt to it."""


@dataclass(frozen=True)
class ArmStep:
    """What an arm does at one training step."""

    behavior: StepBehavior
    """What drives the rollouts."""
    target: Callable[[Tensor, Tensor], Tensor] | None = None
    """(student's log-probs, detached; teacher's log-probs) of the same tokens -> log-probs that the student is to
    match, up to a constant a position; None is the teacher's."""
    imitates: Callable[[Any], Tensor] | None = None
    """rollouts -> bool [B, T]: positions whose loss is the NLL of the teacher's likeliest token; None is none."""
    value: float | None = None
    """The annealed quantity, where it is not the behaviour policy's."""

    @property
    def schedule(self) -> float:
        return self.behavior.value if self.value is None else self.value


Arm = Callable[[Any, ArmContext], ArmStep]


def _opd(warmup: OpdWarmup, at: ArmContext) -> ArmStep:
    return ArmStep(student_rollouts(at.rows))


def _within(budget: float, rows: int, *, banked: bool = False) -> StepBehavior:
    """Rollouts inside one budget for all rows; the student's own without a budget."""
    if budget == 0.0:
        return student_rollouts(rows)
    budgets = torch.full((rows,), budget, dtype=torch.float64)
    return trust_region_rollouts(budgets, budget, banked=banked)


def _trb(warmup: TrbWarmup, at: ArmContext) -> ArmStep:
    anneal = warmup.anneal
    remaining = at.feedback.remaining(anneal) if isinstance(anneal, AdaptiveAnneal) else 1.0
    budget = warmup.kl_budget_at(at.step, remaining)
    return ArmStep(_within(budget, at.rows, banked=warmup.kl_budget_mode == "sequence"))


def _fixed_epsilon(warmup: FixedEpsilonWarmup, at: ArmContext) -> ArmStep:
    return ArmStep(_within(warmup.kl_budget, at.rows))


def _teacher_forced(warmup: TeacherForcedWarmup, at: ArmContext) -> ArmStep:
    """The teacher drives the nearest whole number of rollouts to share x rows, drawn anew each step."""
    share = warmup.share_at(at.step)
    count = round(share * at.rows)
    if count == 0:
        return ArmStep(student_rollouts(at.rows, share))
    chosen = generator(at.seed, "teacher_forced", at.step).permutation(at.rows)[:count]
    driven = torch.zeros(at.rows, dtype=torch.float64)
    driven[torch.from_numpy(chosen)] = 1.0
    return ArmStep(StepBehavior(share, drive_rows, driven, expected_redraws=0.5 * count / at.rows))


def _mixture(warmup: MixtureWarmup, at: ArmContext) -> ArmStep:
    """mu = (1 - lam) p + lam q at each token, or a coin of probability lam for each rollout."""
    weight = warmup.weight_at(at.step)
    if weight == 0.0:
        return ArmStep(student_rollouts(at.rows))
    if warmup.level == "sequence":
        coins = generator(at.seed, "mixture", at.step).random(at.rows) < weight
        if not coins.any():
            return ArmStep(student_rollouts(at.rows, weight))
        return ArmStep(StepBehavior(weight, drive_rows, torch.from_numpy(coins).double(), 0.5 * weight))
    weights = torch.full((at.rows,), weight, dtype=torch.float64)
    return ArmStep(StepBehavior(weight, mix_rows, weights, 0.5 * weight))


def _temperature(warmup: TemperatureWarmup, at: ArmContext) -> ArmStep:
    return ArmStep(tempered_rollouts(at.rows, warmup.temperature_at(at.step)))


def _sft(warmup: SftWarmup, at: ArmContext) -> ArmStep:
    """Plain on-policy distillation: the supervised updates come before step 0."""
    return ArmStep(student_rollouts(at.rows))


def _skd(warmup: SkdWarmup, at: ArmContext) -> ArmStep:
    rule = partial(
        replace_outside_top_k,
        top_k=warmup.top_k,
        temperature=warmup.teacher_temperature,
        tests_another_draw=warmup.variant == "released_code",
    )
    ones = torch.ones(at.rows, dtype=torch.float64)
    target = lambda log_p_NV, log_q_NV, value_N: rule(log_p_NV, log_q_NV)  # noqa: E731
    return ArmStep(StepBehavior(1.0, target, ones, expected_redraws=0.05))


def _veto(warmup: VetoWarmup, at: ArmContext) -> ArmStep:
    b = warmup.b_at(at.step, at.steps)
    bridge = (lambda log_p, log_q: log_q + b * log_p) if b > 0 else None
    return ArmStep(student_rollouts(at.rows), target=bridge, value=b)


def _saki(warmup: SakiWarmup, at: ArmContext) -> ArmStep:
    behavior = _within(warmup.kl_budget_at(at.step), at.rows)
    return ArmStep(behavior, imitates=_redrawn if behavior.needs_teacher else None)


def _redrawn(rollouts: Any) -> Tensor:
    redrawn_BT: Tensor = rollouts.redrawn_BT
    return redrawn_BT


GROUP = "trb_lab.arms"
"""Entry points of installed packages: kind -> function."""

ARMS: dict[str, Arm] = {
    "opd": _opd,
    "trb": _trb,
    "fixed_epsilon": _fixed_epsilon,
    "teacher_forced": _teacher_forced,
    "mixture": _mixture,
    "temperature": _temperature,
    "sft": _sft,
    "skd": _skd,
    "veto": _veto,
    "saki": _saki,
}


def arm_at(warmup: Any, at: ArmContext) -> ArmStep:
    """What the arm does at a step.

    Raises UsageError for an arm whose package registers a spec and no function that can be used.
    """
    return arm_function(warmup.kind)(warmup, at)


@cache
def arm_function(kind: str) -> Arm:
    """The function of an arm, from here or from an installed package. Raises UsageError where there is none."""
    if kind in ARMS:
        return ARMS[kind]
    entries = list(entry_points(group=GROUP, name=kind))
    if not entries:
        raise UsageError(
            f"the arm '{kind}' has settings and no function. Its package must name one under the entry "
            f"point group {GROUP} (docs/arms.md), or take another arm."
        )
    owners = [f"{entry.dist.name if entry.dist else 'a package'} ({entry.value})" for entry in entries]
    if len(owners) > 1:
        raise UsageError(
            f"the arm '{kind}' has several functions, of {' and of '.join(owners)}. Remove all packages "
            "but one."
        )
    where = f"the arm '{kind}' of {owners[0]}"
    try:
        function: Any = entries[0].load()
    except Exception as error:  # whatever a foreign module raises, the reader must learn whose it is
        raise UsageError(
            f"{where} cannot be imported: {type(error).__name__}: {error}. Mend that package, or take another arm."
        ) from error
    if not callable(function):
        raise UsageError(f"{where} is a {type(function).__name__}, no function of (settings, ArmContext).")
    return function  # type: ignore[no-any-return]
