"""The arms: what drives the rollouts, for how long, and what else an arm changes. One class an arm.

The defaults are the paper's (arXiv 2605.31159, section 4 and its sweeps) or the arm's own paper's. docs/arms.md has
the formulas. `horizon` is the number of training steps K in which an arm differs from plain on-policy distillation:
from 0-based step K on, every arm is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from .base import Spec
from .plugins import with_plugins
from .schedule import AdaptiveAnneal, Anneal, LinearAnneal, TrbAnneal, annealed


class ArmSpec(Spec):
    """The base of every arm, third parties' included."""

    kind: str
    """Which arm: the name that people write."""
    teacher_in_rollout: ClassVar[bool] = True
    """Whether the teacher takes part in rollouts within the horizon."""

    def horizon(self, steps: int) -> int:
        """Training steps, of `steps` in the run, in which this arm differs from plain on-policy distillation."""
        return 0


class OpdWarmup(ArmSpec):
    """Vanilla on-policy distillation: mu = p throughout, no warmup."""

    kind: Literal["opd"] = "opd"
    teacher_in_rollout: ClassVar[bool] = False


class _AnnealedWarmup(ArmSpec):
    anneal: Anneal = LinearAnneal()
    """Shape of the anneal: linear (the paper's), cosine, exponential, step or constant."""
    steps: int = Field(25, ge=1)
    """Warmup horizon K in training steps; the annealed value is 0 from step K on."""

    def horizon(self, steps: int) -> int:
        return self.steps

    def _annealed(self, initial: float, step: int) -> float:
        return annealed(initial, self.anneal, self.steps, step)


class TrbWarmup(ArmSpec):
    """Trust-region behaviour blending: mu = argmin KL(mu||q) subject to KL(mu||p) <= budget."""

    kind: Literal["trb"] = "trb"
    kl_budget: float = Field(0.01, ge=0)
    """Initial budget eps_0 on KL(mu||p) at each token, in nats."""
    kl_budget_mode: Literal["token", "sequence"] = "token"
    """`token`: the budget holds at each token. `sequence`: what a token does not spend is kept for later tokens of its
    rollout, so that the first t tokens spend at most t budgets together."""
    anneal: TrbAnneal = LinearAnneal()
    """Shape of the anneal: linear (the paper's), cosine, exponential, step, constant, or adaptive."""
    steps: int = Field(25, ge=1)
    """Warmup horizon K in training steps; the budget is 0 from step K on."""

    def horizon(self, steps: int) -> int:
        return self.steps

    def kl_budget_at(self, step: int, remaining: float = 1.0) -> float:
        """The budget at 0-based `step`; `remaining` is what an adaptive anneal has left (policy/feedback.py)."""
        if isinstance(self.anneal, AdaptiveAnneal):
            return self.kl_budget * remaining if step < self.steps else 0.0
        return annealed(self.kl_budget, self.anneal, self.steps, step)


class FixedEpsilonWarmup(ArmSpec):
    """TRB's blend with a constant budget for the whole run."""

    kind: Literal["fixed_epsilon"] = "fixed_epsilon"
    kl_budget: float = Field(0.01, ge=0)
    """Budget on KL(mu||p) at each token, in nats."""

    def horizon(self, steps: int) -> int:
        return steps


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


class TemperatureWarmup(_AnnealedWarmup):
    """The student's rollouts at a temperature that goes from its initial value to 1: mu = p^(1/tau) / Z."""

    kind: Literal["temperature"] = "temperature"
    teacher_in_rollout: ClassVar[bool] = False
    temperature: float = Field(0.9, gt=0, le=2)
    """Initial temperature tau_0."""

    def temperature_at(self, step: int) -> float:
        return 1.0 - self._annealed(1.0 - self.temperature, step)


class SftWarmup(ArmSpec):
    """Supervised updates on the teacher's own samples first, then plain on-policy distillation.

    Update i takes the prompts of training step i, in the same order; training then begins at step 0 with a fresh
    optimiser.
    """

    kind: Literal["sft"] = "sft"
    teacher_in_rollout: ClassVar[bool] = False
    updates: int = Field(25, ge=1)
    """Supervised updates n before training."""
    samples_per_prompt: int = Field(4, ge=1)
    """Teacher samples of each prompt."""
    lr: float | None = Field(None, gt=0)
    """Learning rate; null takes optim.lr."""
    lr_warmup_steps: int | None = Field(None, ge=0)
    """Updates of cosine warmup; null takes optim.lr_warmup_steps."""


class SkdWarmup(ArmSpec):
    """Speculative knowledge distillation: student tokens outside the teacher's top-K are redrawn from the teacher."""

    kind: Literal["skd"] = "skd"
    top_k: int = Field(25, ge=1)
    """K: drafts among the teacher's K likeliest tokens are kept."""
    teacher_temperature: float = Field(0.6, gt=0)
    """Temperature of the teacher that a replacement is drawn from."""
    variant: Literal["published", "released_code"] = "published"
    """`published` tests the student's draft. `released_code` tests a second draw of the student in its place and keeps
    or replaces the draft by that."""

    def horizon(self, steps: int) -> int:
        return steps


def _below_one(b: float) -> float:
    if b >= 1:
        raise ValueError(
            f"{b} is outside [0, 1): the student settles at q^(1/(1-b)), which is the teacher's likeliest token alone "
            "as b nears 1, and nothing beyond. The paper takes .2 to .8."
        )
    return b


class VetoWarmup(ArmSpec):
    """The student matches the geometric bridge Q ~ q p^b instead of the teacher; b goes to 0. Rollouts are its own."""

    kind: Literal["veto"] = "veto"
    teacher_in_rollout: ClassVar[bool] = False
    b_start: Annotated[float, AfterValidator(_below_one)] = Field(
        0.4, ge=0, json_schema_extra={"exclusiveMaximum": 1}
    )
    """Initial exponent b of the student, below 1."""
    anneal: Anneal = LinearAnneal()
    """Shape of the decay of b: linear (the paper's), cosine, exponential, step or constant."""
    steps: int | None = Field(None, ge=1)
    """Steps until b is 0; null is the whole run."""

    def horizon(self, steps: int) -> int:
        return self.steps or steps

    def b_at(self, step: int, steps: int) -> float:
        """The exponent at 0-based `step` of a run of `steps`."""
        return annealed(self.b_start, self.anneal, self.horizon(steps), step)


class SakiWarmup(_AnnealedWarmup):
    """TRB's rollouts; redrawn positions learn the teacher's likeliest token, kept ones the run's loss."""

    kind: Literal["saki"] = "saki"
    kl_budget: float = Field(0.02, ge=0)
    """Initial budget eps_0 on KL(mu||p) at each token, in nats."""
    steps: int = Field(50, ge=1)
    """Warmup horizon K in training steps; the budget is 0 from step K on."""

    def kl_budget_at(self, step: int) -> float:
        return self._annealed(self.kl_budget, step)


ARM_SPECS: tuple[type[ArmSpec], ...] = (
    OpdWarmup, TrbWarmup, FixedEpsilonWarmup, TeacherForcedWarmup, MixtureWarmup, TemperatureWarmup, SftWarmup,
    SkdWarmup, VetoWarmup, SakiWarmup,
)  # fmt: skip

if TYPE_CHECKING:
    Warmup = ArmSpec | Any
else:
    Warmup = Annotated[with_plugins("trb_lab.arm_specs", ARM_SPECS), Field(discriminator="kind")]
