"""On-policy distillation with a behaviour policy that may blend in the teacher during warmup.

Each step: take the step's prompts, draw rollouts from the arm's behaviour policy (mu), let the teacher score what
it has not seen yet, descend the per-token reverse KL from student to teacher on the visited prefixes, log, and when
due evaluate and checkpoint. The behaviour policy decides which prefixes are visited and nothing else; the loss
never changes (arXiv 2605.31159). Left out on purpose: importance weights, several updates a batch, replay.

Every draw and the prompt order are functions of (seed, step), so a run that is killed and resumed from a checkpoint
ends with the same weights and the same metrics.jsonl, bit for bit on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import torch

from trb_lab.models.load import Pair
from trb_lab.policy.arms import ArmContext, ArmStep, arm_at
from trb_lab.policy.behaviors import StepBehavior
from trb_lab.policy.feedback import Feedback
from trb_lab.rollout.blocks import BlockChooser
from trb_lab.rollout.engine import Keep, RolloutEngine, RolloutRequest, Rollouts
from trb_lab.seeds import derive
from trb_lab.spec import ExperimentSpec
from trb_lab.store.metrics import MetricsWriter
from trb_lab.store.run_dir import RunDir
from trb_lab.store.samples import write_samples
from trb_lab.tasks.grading import Grader, Verdict
from trb_lab.tasks.problem import Problem
from trb_lab.worker import Stopped

from . import checkpoint
from .data import TrainingData
from .frozen_costs import frozen_costs
from .objective import backward_reverse_kl, what_to_keep
from .optimizer import MasterAdamW, learning_rate
from .statistics import policy_metrics, rollout_metrics, sample_rows, teacher_logprob_gap


class Reporter(Protocol):
    """Shows a run's progress."""

    def step(self, step: int, metrics: dict[str, float], seconds: dict[str, float]) -> None: ...


@dataclass
class Clock:
    """Wall-clock seconds of each phase of a step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


@dataclass
class Trainer:
    """Everything a run needs, built by experiment.py. `evaluate()` scores the student: `eval/*` metrics."""

    spec: ExperimentSpec
    run_dir: RunDir
    attempt: int
    pair: Pair
    data: TrainingData
    engine: RolloutEngine
    grader: Grader
    evaluate: Callable[[], dict[str, float]]
    reporter: Reporter
    should_stop: Callable[[], bool]
    blocks: BlockChooser

    def __post_init__(self) -> None:
        self.optimizer = MasterAdamW(self.pair.student.network, self.spec.optim)
        if self.spec.resources.activation_checkpointing:
            self.pair.student.checkpoint_activations()
        self.metrics = MetricsWriter(self.run_dir.metrics)
        self.timing = MetricsWriter(self.run_dir.timing)
        self.next_step = 0
        self.feedback = Feedback()
        self.tokens = {"student": 0, "teacher_rollout": 0, "teacher_scoring": 0}

    def run(self) -> None:
        """Train to the end. Raises Stopped, with a checkpoint written, when asked to stop."""
        self._resume()
        for step in range(self.next_step, self.spec.steps):
            torch.manual_seed(derive(self.spec.seed, "torch", step))
            clock = Clock()
            with clock("rollout"):
                prompts = self.data.prompts_at(step)
                arm = self._arm_at(step)
                behavior, keep = arm.behavior, what_to_keep(self.spec.loss, imitates=arm.imitates is not None)
                request = self._with_block(prompts.request, behavior, keep)
                rollouts = self.engine.rollout(request, behavior, keep)
                self.blocks.observe(behavior, rollouts)
            with clock("scoring"):
                if rollouts.teacher_logprob_BT is None:
                    self.engine.score(rollouts, keep)
            self.engine.make_room()
            with clock("grading"):
                verdicts = self._grade(prompts.problems, rollouts)
            with clock("objective"):
                stats = self._backward(rollouts, arm)
            with clock("optimizer"):
                norm = self.optimizer.step(step)
            self.next_step = step + 1
            metrics: dict[str, float] = {
                "train/loss": stats.loss,
                "train/reverse_kl": stats.reverse_kl,
                "train/logprob_gap": stats.logprob_gap,
                "train/grad_norm": norm,
                "train/lr": learning_rate(self.spec.optim, step),
                **rollout_metrics(rollouts, verdicts),
                **policy_metrics(rollouts, arm),
            }
            self.feedback = self.feedback.after(metrics)
            self._count_tokens(rollouts, behavior.needs_teacher)
            if self._is_sampled(step):
                if behavior.needs_teacher:
                    metrics["policy/teacher_logprob_gap"] = teacher_logprob_gap(self.engine, rollouts, keep)
                self._save_samples(step, prompts.problems, rollouts, verdicts)
            if self._evaluation_is_due():
                with clock("eval"):
                    metrics.update(self.evaluate())
            self._log(step, metrics, clock.seconds, rollouts)
            stopping = self.should_stop()
            if stopping or self._checkpoint_is_due():
                self._save_checkpoint()
            if stopping and self.next_step < self.spec.steps:
                raise Stopped(
                    f"stopped after {self.next_step} of {self.spec.steps} steps; the same command goes on from there"
                )

    def _resume(self) -> None:
        """Go on from the newest valid checkpoint; metrics written after it are dropped and made again."""
        saved = checkpoint.newest(self.run_dir)
        if saved is None:
            self.metrics.truncate(0)
            return
        checkpoint.restore(saved, self.pair.student.network, self.optimizer)
        self.metrics.truncate(saved.metrics_offset)
        self.next_step = saved.step
        self.tokens.update(saved.tokens)
        self.blocks.redraw_ratio = saved.redraw_ratio
        self.feedback = Feedback(**saved.feedback)

    def _arm_at(self, step: int) -> ArmStep:
        at = ArmContext(step, self.data.rows, self.spec.seed, self.spec.steps, self.feedback)
        return arm_at(self.spec.warmup, at)

    def _with_block(self, request: RolloutRequest, behavior: StepBehavior, keep: Keep) -> RolloutRequest:
        """The request with the step's block length."""
        if self.blocks.needs_costs(behavior):
            self.blocks.costs = frozen_costs(self.run_dir, self.spec, self.engine, request, behavior, keep)
        return replace(request, block_tokens=self.blocks.at(behavior))

    def _grade(self, problems: list[Problem], rollouts: Rollouts) -> list[Verdict | None]:
        """Verdicts of the rollouts; None where the problem has no answer to grade against."""
        texts = self.pair.student.tokenizer.batch_decode(rollouts.responses(), skip_special_tokens=True)
        answered = [i for i, problem in enumerate(problems) if problem.answer is not None]
        graded = self.grader.grade([(str(problems[i].answer), texts[i]) for i in answered])
        verdicts: list[Verdict | None] = [None] * len(problems)
        for i, verdict in zip(answered, graded, strict=True):
            verdicts[i] = verdict
        return verdicts

    def _backward(self, rollouts: Rollouts, arm: ArmStep) -> Any:
        resources = self.spec.resources
        network = self.pair.student.network
        network.train(
            resources.activation_checkpointing
        )  # transformers checkpoints activations in this mode only
        try:
            return backward_reverse_kl(
                self.pair,
                rollouts,
                self.spec.loss,
                target=arm.target,
                imitates_BT=arm.imitates(rollouts) if arm.imitates else None,
                token_budget=resources.micro_batch_tokens,
                chunk_tokens=resources.loss_chunk_tokens,
                after_backward=self.optimizer.accumulate,
            )
        finally:
            network.eval()

    def _count_tokens(self, rollouts: Rollouts, teacher_in_rollout: bool) -> None:
        self.tokens["student"] += rollouts.num_tokens
        self.tokens["teacher_rollout" if teacher_in_rollout else "teacher_scoring"] += rollouts.num_tokens

    def _evaluation_is_due(self) -> bool:
        every = self.spec.eval.every
        return self.next_step == self.spec.steps or (every is not None and self.next_step % every == 0)

    def _checkpoint_is_due(self) -> bool:
        return self.next_step == self.spec.steps or self.next_step % self.spec.checkpoint.every == 0

    def _is_sampled(self, step: int) -> bool:
        return step == 0 or self._evaluation_is_due()

    def _save_samples(
        self, step: int, problems: list[Problem], rollouts: Rollouts, verdicts: list[Verdict | None]
    ) -> None:
        rows = sample_rows(
            rollouts,
            self.pair.student.tokenizer,
            [p.prompt for p in problems],
            [p.answer for p in problems],
            verdicts,
        )
        write_samples(self.run_dir, step, "rollout", rows)

    def _log(
        self, step: int, metrics: dict[str, float], seconds: dict[str, float], rollouts: Rollouts
    ) -> None:
        self.metrics.write({"step": step, **metrics})
        seconds = {**seconds, "total": sum(seconds.values())}
        line: dict[str, Any] = {
            "step": step,
            "time": time.time(),
            "attempt": self.attempt,
            "seconds": seconds,
        }
        line["tokens_per_second"] = rollouts.num_tokens / max(seconds["rollout"], 1e-9)
        line["memory_bytes"] = _peak_memory_bytes(self.pair.student.device)
        if rollouts.work is not None:
            line["work"] = asdict(rollouts.work)
        self.timing.write(line)
        self.reporter.step(step, metrics, seconds)

    def _save_checkpoint(self) -> None:
        self.metrics.sync()
        state = {
            "step": self.next_step,
            "metrics_offset": self.metrics.offset,
            "tokens": self.tokens,
            "redraw_ratio": self.blocks.redraw_ratio,
            "feedback": asdict(self.feedback),
            # Nothing more to restore: the data position and every generator follow from (seed, step).
            "data_position": self.next_step * self.spec.rollout.prompts_per_step,
            "seed": self.spec.seed,
            "cpu_threads": torch.get_num_threads() if self.pair.student.device.type == "cpu" else None,
        }
        checkpoint.save(
            self.run_dir, self.pair.student.network, self.optimizer, state, self.spec.checkpoint.keep
        )


def _peak_memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
