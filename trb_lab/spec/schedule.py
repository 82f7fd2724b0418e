"""Anneal shapes: how a warmup quantity goes from its initial value to zero.

With 0-based step k and horizon K, the value is `initial * shape(k / K)` for k < K and exactly 0 from K on
(method: eps_k = eps_0 (1 - k/K)). Pure Python: the driver plans with it without torch.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from .base import Spec


class LinearAnneal(Spec):
    """1 - k/K, the paper's."""

    kind: Literal["linear"] = "linear"

    def fraction(self, progress: float) -> float:
        return 1.0 - progress


class CosineAnneal(Spec):
    """(1 + cos(pi k/K)) / 2."""

    kind: Literal["cosine"] = "cosine"

    def fraction(self, progress: float) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * progress))


class ExponentialAnneal(Spec):
    """final_fraction ** (k/K): reaches `final_fraction` of the initial value just before it drops to 0."""

    kind: Literal["exponential"] = "exponential"
    final_fraction: float = Field(0.01, gt=0, lt=1)

    def fraction(self, progress: float) -> float:
        return self.final_fraction**progress


class StepAnneal(Spec):
    """A staircase of `stages` equal stairs: 1 - floor(stages k/K) / stages."""

    kind: Literal["step"] = "step"
    stages: int = Field(4, ge=1)

    def fraction(self, progress: float) -> float:
        return 1.0 - math.floor(self.stages * progress + 1e-9) / self.stages


class ConstantAnneal(Spec):
    """The initial value until the horizon."""

    kind: Literal["constant"] = "constant"

    def fraction(self, progress: float) -> float:
        return 1.0


class AdaptiveAnneal(Spec):
    """Follows what the rollouts show instead of the calendar; never rises, and is 0 from the horizon on.

    The value is the initial one times what remains of `signal` against the first step (policy/feedback.py).
    """

    kind: Literal["adaptive"] = "adaptive"
    signal: Literal["reverse_kl", "binding_share"] = "reverse_kl"
    """`reverse_kl`: the student's distance to the teacher on visited prefixes. `binding_share`: the share of tokens
    where the teacher lies outside the budget."""


def _shorthand(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Anneal = Annotated[
    Annotated[
        LinearAnneal | CosineAnneal | ExponentialAnneal | StepAnneal | ConstantAnneal,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_shorthand, json_schema_input_type=str | dict[str, Any]),
]

TrbAnneal = Annotated[
    Annotated[
        LinearAnneal | CosineAnneal | ExponentialAnneal | StepAnneal | ConstantAnneal | AdaptiveAnneal,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_shorthand, json_schema_input_type=str | dict[str, Any]),
]


def annealed(initial: float, anneal: Anneal, horizon_steps: int, step: int) -> float:
    """The annealed value at 0-based `step`: `initial * fraction(step / horizon)`, 0 from the horizon on."""
    if step >= horizon_steps:
        return 0.0
    return initial * anneal.fraction(step / horizon_steps)
