"""The warmup arms: which behaviour policy drives the rollouts, and for how long. One class an arm.

`steps` is the warmup horizon K: from 0-based step K on, every arm is plain on-policy distillation.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Spec
from .schedule import Anneal, LinearAnneal, annealed


class OpdWarmup(Spec):
    """Vanilla on-policy distillation: mu = p throughout, no warmup."""

    kind: Literal["opd"] = "opd"

    @property
    def horizon_steps(self) -> int:
        return 0


class _AnnealedWarmup(Spec):
    anneal: Anneal = LinearAnneal()
    """Shape of the anneal: linear (the paper's), cosine, exponential, step or constant."""
    steps: int = Field(25, ge=1)
    """Warmup horizon K in training steps; the annealed value is 0 from step K on."""

    @property
    def horizon_steps(self) -> int:
        return self.steps

    def _annealed(self, initial: float, step: int) -> float:
        return annealed(initial, self.anneal, self.steps, step)


class TrbWarmup(_AnnealedWarmup):
    """Trust-region behaviour blending: mu = argmin KL(mu||q) subject to KL(mu||p) <= budget."""

    kind: Literal["trb"] = "trb"
    kl_budget: float = Field(0.01, ge=0)
    """Initial budget eps_0 on KL(mu||p) at each token, in nats."""

    def kl_budget_at(self, step: int) -> float:
        return self._annealed(self.kl_budget, step)


class MixtureWarmup(_AnnealedWarmup):
    """mu = (1 - weight) p + weight q at each token, or a coin of that weight for each whole rollout."""

    kind: Literal["mixture"] = "mixture"
    weight: float = Field(0.5, ge=0, le=1)
    """Initial weight lambda of the teacher."""
    level: Literal["token", "sequence"] = "token"
    """`token` mixes distributions; `sequence` flips a coin for each rollout."""

    def weight_at(self, step: int) -> float:
        return self._annealed(self.weight, step)


class TeacherForcedWarmup(_AnnealedWarmup):
    """The teacher drives a share of whole rollouts (mu = q on those rows), annealed to none."""

    kind: Literal["teacher_forced"] = "teacher_forced"
    share: float = Field(1.0, ge=0, le=1)
    """Initial share of the rollouts of a step that the teacher drives."""

    def share_at(self, step: int) -> float:
        return self._annealed(self.share, step)


Warmup = Annotated[OpdWarmup | TrbWarmup | MixtureWarmup | TeacherForcedWarmup, Field(discriminator="kind")]
