"""One experiment: everything that decides its result. Defaults are the paper's common configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from .base import Spec
from .dataset import Dataset, EvalSetField
from .quantities import Memory, Time
from .warmup import OpdWarmup, SftWarmup, VetoWarmup, Warmup


class ModelSpec(Spec):
    """A causal language model: a bundled name, a local folder, or a hub id."""

    name: str
    """Bundled name (`trb-lab models list`), folder with config.json (absolute, or relative to the YAML, else to the
    current directory), or hub id."""
    revision: str | None = None
    """Hub revision to pin."""
    template: Literal["auto", "chat", "plain"] = "auto"
    """How prompts are written: the tokenizer's chat template, plain text, or chat where there is a template."""
    thinking: bool = False
    """Thinking mode of chat templates that have one (kept the same for both models)."""


def _model_shorthand(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


ModelField = Annotated[ModelSpec, BeforeValidator(_model_shorthand, json_schema_input_type=str | ModelSpec)]


class PromptSpec(Spec):
    """What is put around each problem."""

    system: str | None = None
    """System prompt (chat templates), or the first paragraph (plain text)."""
    plain: str = "{prompt}\n"
    """Plain-text layout, for models without a chat template; `{prompt}` is the problem."""


class TopKLoss(Spec):
    """Reverse KL on the student's top-k support. `truncated` is a labelled negative control (method, section 1)."""

    kind: Literal["renormalised", "advantage", "truncated"] = "renormalised"
    top_k: int = Field(16, ge=1)


class FullLoss(Spec):
    """Reverse KL over the whole shared vocabulary."""

    kind: Literal["full"] = "full"


class SampledLoss(Spec):
    """Reverse KL estimated by the sampled token alone: detached (log p - log q) times log p."""

    kind: Literal["sampled"] = "sampled"


Loss = Annotated[TopKLoss | FullLoss | SampledLoss, Field(discriminator="kind")]


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimSpec(Spec):
    """AdamW, constant learning rate after a cosine warmup."""

    lr: float = Field(1e-5, gt=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    """Largest global gradient norm."""
    lr_warmup_steps: int = Field(15, ge=0)


class RolloutSpec(Spec):
    """One step's rollouts: prompts_per_step x samples_per_prompt sequences, temperature 1, no truncation."""

    prompts_per_step: int = Field(64, ge=1)
    samples_per_prompt: int = Field(4, ge=1)
    max_prompt_tokens: int = Field(1024, ge=1)
    """Longer prompts are dropped and counted."""
    max_new_tokens: int = Field(7168, ge=1)
    block_tokens: int | None = Field(None, ge=1, le=32)
    """Tokens that the student drafts before the teacher verifies them; 1 decodes in lock step. null follows the redraw
    rate and a cost table that is measured once. It changes speed and rounding, and is not part of the identity."""
    batch_invariant: bool = False
    """A row's tokens do not depend, bit for bit, on the rows beside it: rows decode one by one, and block_tokens null
    means 4. CPU, float32."""


AtK = Annotated[int, Field(ge=1)]


class EvalSpec(Spec):
    """n samples a problem at temperature 1: pass@1, and pass@k, mean@k, maj@k."""

    sets: list[EvalSetField] = []
    samples: int = Field(4, ge=1)
    """Samples n for each problem, where a set does not say otherwise."""
    at_k: list[AtK] | None = None
    """k of pass@k, mean@k and maj@k; null takes each set's number of samples, where that is more than one."""
    every: int | None = Field(20, ge=1)
    """Training steps between evaluations; null evaluates at the end only. The end is always evaluated."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Longest response; null takes rollout.max_new_tokens."""
    seed: int = Field(0, ge=0)
    """Seed of the evaluation's random draws, together with the training seed: arms of one seed share them."""

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        names = [s.name for s in self.sets]
        if len(names) != len(set(names)):
            raise ValueError(f"evaluation sets need different names, got {names}")
        for entry in self.sets if self.at_k else ():
            fewest = entry.samples or self.samples
            if max(self.at_k or [1]) > fewest:
                raise ValueError(
                    f"at_k asks for {max(self.at_k or [1])} of the {fewest} samples of set {entry.name}: "
                    f"raise its samples, or lower at_k."
                )
        return self


class CheckpointSpec(Spec):
    """How often the complete state is saved, and how many are kept. Not part of the identity."""

    every: int = Field(20, ge=1)
    keep: int = Field(1, ge=1)
    """Newest checkpoints kept; the final one is always among them."""


class ResourcesSpec(Spec):
    """Where and how large. Not part of the identity: none of it is meant to change the result."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    cpu_threads: int | None = Field(None, ge=1)
    """Threads of one worker; null shares the machine's cores among the sweep's slots."""
    micro_batch_tokens: int = Field(16_384, ge=1)
    """Prompt and response tokens (padding counted) in one forward and backward pass."""
    loss_chunk_tokens: int = Field(512, ge=1)
    """Tokens whose logits exist at once."""
    rollout_rows: int | None = Field(None, ge=1)
    """Sequences decoded at once; the others wait for a free place. null: as many as fit, at most 256."""
    activation_checkpointing: bool = False
    grading_workers: int = Field(1, ge=1)
    grading_timeout_seconds: float = Field(5.0, gt=0)
    gpus: int | None = Field(None, ge=0)
    """GPUs of one trial; null: one where there are any, and on a cluster what its profile says."""
    mem: Memory | None = None
    """Memory of one trial on a cluster: 64GB; null: what its profile says."""
    time: Time | None = None
    """Time limit of one trial on a cluster: 30m, 12h, 2-00:00:00, or whole minutes; null: what its profile says."""

    @property
    def local_gpus(self) -> int:
        """GPUs of one trial on this machine, where it has any."""
        return 1 if self.gpus is None else self.gpus


class AlarmSpec(Spec):
    """When a run is lost: it then stops, and fails with the alarm's name. Not part of the identity."""

    patience: int | None = Field(10, ge=1)
    """Steps in a row that must look lost before an alarm rings; null switches the alarms off (but NaN always stops)."""
    truncated_share: float = Field(0.95, gt=0, le=1)
    """Length explosion: at least this share of rollouts is cut at the limit, and fewer were at the start."""
    kl_factor: float = Field(10.0, gt=1)
    """KL blow-up: the reverse KL is this many times that of the first step."""


class ExperimentSpec(Spec):
    """What `trb-lab run` runs."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    student: ModelField
    teacher: ModelField
    dataset: Dataset
    prompt: PromptSpec = PromptSpec()
    warmup: Warmup = OpdWarmup()
    loss: Loss = TopKLoss()
    optim: OptimSpec = OptimSpec()
    rollout: RolloutSpec = RolloutSpec()
    eval: EvalSpec = EvalSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    alarms: AlarmSpec = AlarmSpec()
    resources: ResourcesSpec = ResourcesSpec()
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Working weights: auto is bfloat16 on GPU (float32 master weights in the optimiser) and float32 on CPU."""
    grader: str = "math_verify"
    """Who tells right answers: math_verify, or a grader that an installed package registers (docs/evaluation.md)."""
    steps: int = Field(400, ge=1)
    """Training steps, one update each."""
    seed: int = Field(0, ge=0)
    """Seed of prompt order and rollout draws."""

    @property
    def horizon_steps(self) -> int:
        """Training steps in which the arm differs from plain on-policy distillation."""
        return self.warmup.horizon(self.steps)

    @property
    def teacher_in_rollout(self) -> bool:
        """Whether the teacher takes part in any rollout of the run."""
        return self.warmup.teacher_in_rollout and self.horizon_steps > 0

    @model_validator(mode="after")
    def _arm_fits(self) -> Self:
        if self.horizon_steps > self.steps:
            raise ValueError(
                f"warmup.steps is {self.horizon_steps} and the run has {self.steps} steps: "
                f"a warmup cannot outlast the run. Lower warmup.steps to at most {self.steps}, or raise steps."
            )
        if isinstance(self.warmup, SftWarmup) and self.warmup.updates > self.steps:
            raise ValueError(
                f"warmup.updates is {self.warmup.updates} and the run has {self.steps} steps: update i takes the "
                f"prompts of step i. Lower warmup.updates to at most {self.steps}, or raise steps."
            )
        if isinstance(self.warmup, VetoWarmup) and self.loss.kind not in ("renormalised", "full"):
            raise ValueError(
                f"warmup.kind is veto and loss.kind is {self.loss.kind}: Veto's target q p^b needs its normaliser, "
                "which cancels in `renormalised` and is at hand in `full`. Take one of these."
            )
        return self

    @model_validator(mode="after")
    def _one_thinking_mode(self) -> Self:
        if self.student.thinking != self.teacher.thinking:
            raise ValueError(
                f"thinking is {str(self.student.thinking).lower()} for the student and "
                f"{str(self.teacher.thinking).lower()} for the teacher: their prompts would differ. Set both the same."
            )
        return self
