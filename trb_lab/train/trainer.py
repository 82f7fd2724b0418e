"""On-policy distillation with a behaviour policy that may blend in the teacher during warmup.

Each step: take the step's prompts, draw rollouts from the arm's behaviour policy (mu), let the teacher score what
it has not seen yet, descend the per-token reverse KL from student to teacher on the visited prefixes, log, and when
due evaluate and checkpoint. The behaviour policy decides which prefixes are visited; the loss stays the same
(arXiv 2605.31159), but for arms that change its target (Veto, SAKI) or begin with supervised updates (SFT). Left out
on purpose: importance weights, several updates a batch, replay.

Every draw and the prompt order are functions of (seed, step), so a run that is killed and resumed from a checkpoint
ends with the same weights and the same metrics.jsonl, bit for bit on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch

from trb_lab.models.load import Pair
from trb_lab.policy.arms import ArmContext, ArmStep, arm_at
from trb_lab.policy.behaviors import StepBehavior
from trb_lab.policy.feedback import Feedback
from trb_lab.rollout.blocks import BlockChooser
from trb_lab.rollout.engine import Keep, RolloutEngine, RolloutRequest
from trb_lab.rollout.packing import sequence_tokens
from trb_lab.seeds import derive
from trb_lab.spec import ExperimentSpec
from trb_lab.spec.warmup import SftWarmup
from trb_lab.store.metrics import plain_values
from trb_lab.store.pauses import pause_after
from trb_lab.store.run_dir import RunDir
from trb_lab.tasks.grading import Grader
from trb_lab.worker import Attempt, Interrupted, Paused, Stopped

from . import checkpoint
from .alarms import Alarms
from .backward import distil
from .data import TrainingData
from .frozen_costs import frozen_costs
from .grades import grade_rollouts
from .journal import Journal, StepRecord
from .ledger import Cost, Ledger, gpus_of
from .objective import what_to_keep
from .optimizer import MasterAdamW
from .positions import position_line
from .progress import Reporter
from .sft import SftPhase, sft_optim
from .statistics import save_samples, step_metrics, teacher_logprob_gap


@dataclass
class Trainer:
    """Everything a run needs, built by experiment.py. `evaluate(step)` scores the student: `eval/*` metrics."""

    spec: ExperimentSpec
    run_dir: RunDir
    attempt: Attempt
    pair: Pair
    data: TrainingData
    engine: RolloutEngine
    grader: Grader
    evaluate: Callable[[int], dict[str, float]]
    reporter: Reporter
    blocks: BlockChooser

    def __post_init__(self) -> None:
        self.optimizer = MasterAdamW(self.pair.student.network, self.spec.optim)
        if self.spec.resources.activation_checkpointing:
            self.pair.student.checkpoint_activations()
        self.stop, self.fence = self.attempt.stop, self.attempt.fence
        self.journal = Journal(
            self.run_dir, self.attempt.number, self.pair.student.device, self.attempt.fence
        )
        self.alarms = Alarms(self.spec.alarms)
        self.gpus = gpus_of(self.pair.student.device.type, self.spec.resources.local_gpus)
        self.next_step = 0
        self.sft: SftPhase | None = None
        self.pending: StepRecord | None = None
        self.saved: tuple[int, int | None, bool] | None = None
        """What the newest checkpoint holds, as `_progress` tells it."""
        self.feedback = Feedback()
        self.tokens = {"student": 0, "teacher_rollout": 0, "teacher_scoring": 0}

    def run(self) -> None:
        """Train to the end.

        Raises Stopped, with a checkpoint of the last complete step written, when asked to stop; Paused, likewise, where
        pause.json says so; RunLost for an alarm.
        """
        self.fence()
        self.data.record(self.run_dir)
        self._resume()
        self._supervise()
        if self.pending is not None:
            self._finish(self.pending)
        self._pause_if_due()
        for step in range(self.next_step, self.spec.steps):
            redraw_ratio = self.blocks.redraw_ratio
            try:
                record = self._step(step)
            except Interrupted:
                # Of the state that a checkpoint holds, nothing else moves before the optimiser's step.
                self.blocks.redraw_ratio = redraw_ratio
                self._save_checkpoint()
                raise self._stopped() from None
            self._finish(record)

    def _step(self, step: int) -> StepRecord:
        """One update. Raises Interrupted, with the model as it was, when asked to stop before the optimiser's step."""
        torch.manual_seed(derive(self.spec.seed, "torch", step))
        ledger, arm = self._ledger(), self._arm_at(step)
        keep = what_to_keep(self.spec.loss, self.pair.vocabulary.size, imitates=arm.imitates is not None)
        with self.stop.interruptible():
            with ledger("rollout"):
                prompts = self.data.prompts_at(step)
            request = self._with_block(prompts.request, arm.behavior, keep)
            with ledger("rollout"):
                rollouts = self.engine.rollout(request, arm.behavior, keep)
                self.blocks.observe(arm.behavior, rollouts)
            with ledger("scoring"):
                if rollouts.teacher_logprob_BT is None:
                    self.engine.score(rollouts, keep)
            positions = (
                position_line(self.spec, self.pair, step, rollouts) if self._is_sampled(step) else None
            )
            self.engine.make_room()
        if positions is not None:
            self.journal.positions.write(positions)
        with ledger("grading"):
            verdicts = grade_rollouts(self.grader, self.pair.student.tokenizer, prompts.problems, rollouts)
        with ledger("objective"), self.stop.interruptible():
            stats = distil(self.spec, self.pair, rollouts, arm, self.optimizer.accumulate)
        ledger.charge("objective", Cost(student_tokens=sequence_tokens(rollouts, rollouts.student_prompts)))
        with ledger("optimizer"):
            norm = self.optimizer.step(step)
        self.next_step = step + 1
        metrics = step_metrics(self.spec.optim, step, stats, norm, rollouts, verdicts, arm)
        self.feedback = self.feedback.after(metrics)
        self._count_tokens(rollouts.num_tokens, arm.behavior.needs_teacher)
        if self._is_sampled(step):
            if arm.behavior.needs_teacher:
                metrics["policy/teacher_logprob_gap"] = teacher_logprob_gap(self.engine, rollouts, keep)
            self.fence()
            save_samples(
                self.run_dir, step, prompts.problems, rollouts, verdicts, self.pair.student.tokenizer
            )
        return StepRecord.of(step, metrics, ledger, rollouts)

    def _resume(self) -> None:
        """Go on from the newest valid checkpoint; metrics written after it are dropped and made again."""
        saved = checkpoint.newest(self.run_dir)
        warmup, updates = self.spec.warmup, 0 if saved is None else saved.sft_updates
        if isinstance(warmup, SftWarmup) and updates is not None:
            self.optimizer = self.optimizer.renewed(sft_optim(self.spec.optim, warmup))
        if saved is not None:
            checkpoint.restore(saved, self.pair.student.network, self.optimizer)
            self.next_step = saved.step
            self.tokens.update(saved.tokens)
            self.blocks.redraw_ratio = saved.redraw_ratio
            self.feedback = Feedback(**saved.feedback)
            if saved.pending is not None:
                self.pending = StepRecord.from_json(saved.pending, self._ledger())
        for line in self.journal.rewind(saved.metrics_offset if saved else 0, self.next_step):
            self.alarms.hear(line)
        if isinstance(warmup, SftWarmup) and updates is not None:
            self.sft = SftPhase(
                self.spec, warmup, self.pair, self.data, self.optimizer, self.journal, self.reporter, self.gpus,
                updates, self.stop, self.fence,
            )  # fmt: skip
        self.saved = self._progress()

    def _supervise(self) -> None:
        """The supervised updates that are left, where the arm has them; then a fresh optimiser of the same weights."""
        if self.sft is None:
            return
        total = self.sft.warmup.updates
        try:
            for done in self.sft.updates():
                if done < total and (self.stop() or done % self.spec.checkpoint.every == 0):
                    self._save_checkpoint()
                if done < total and self.stop():
                    raise Interrupted
        except Interrupted:
            self._save_checkpoint()
            raise Stopped(
                f"stopped after {self.sft.done} of {total} supervised updates; the same command goes on from there"
            ) from None
        self.sft = None
        self.optimizer = self.optimizer.renewed(self.spec.optim)
        self._save_checkpoint()

    def _finish(self, record: StepRecord) -> None:
        """Evaluate when due, write the step's lines, listen for alarms, checkpoint when due."""
        plain_values(
            {"step": record.step, **record.metrics}
        )  # what is not finite ends the run before an evaluation
        if self._is_due(record.step, self.spec.eval.every):
            self.pending = record  # where the evaluation is cut short
            try:
                with record.ledger("eval"):
                    scores = self.evaluate(record.step)
            except Stopped:
                del record.ledger.phases["eval"]  # it is made again from the start, and counts once
                self._save_checkpoint()
                raise
            self.pending = None
            record.metrics.update(scores)
        self.journal.write(record)
        self.reporter.step(record.step, record.metrics, record.ledger.seconds)
        line = {"step": record.step, **record.metrics}
        self.alarms.hear(line)
        self.alarms.check(line)
        stopping = self.stop()
        if stopping or self._is_due(record.step, self.spec.checkpoint.every):
            self._save_checkpoint()
        if stopping and self.next_step < self.spec.steps:
            raise self._stopped()
        self._pause_if_due()

    def _stopped(self) -> Stopped:
        done, steps = self.next_step, self.spec.steps
        return Stopped(f"stopped after {done} of {steps} steps; the same command goes on from there")

    def _pause_if_due(self) -> None:
        after = pause_after(self.run_dir)
        if after is not None and after <= self.next_step < self.spec.steps:
            self._save_checkpoint()
            raise Paused(f"paused after {self.next_step} of {self.spec.steps} steps, as its search asked")

    def _ledger(self) -> Ledger:
        return Ledger(lambda: self.engine.tokens, self.gpus)

    def _arm_at(self, step: int) -> ArmStep:
        at = ArmContext(step, self.data.rows, self.spec.seed, self.spec.steps, self.feedback)
        return arm_at(self.spec.warmup, at)

    def _with_block(self, request: RolloutRequest, behavior: StepBehavior, keep: Keep) -> RolloutRequest:
        """The request with the step's block length."""
        if self.blocks.needs_costs(behavior):
            self.blocks.costs = frozen_costs(
                self.run_dir, self.spec, self.engine, request, behavior, keep, self.fence
            )
        return replace(request, block_tokens=self.blocks.at(behavior))

    def _count_tokens(self, tokens: int, teacher_in_rollout: bool) -> None:
        self.tokens["student"] += tokens
        self.tokens["teacher_rollout" if teacher_in_rollout else "teacher_scoring"] += tokens

    def _is_due(self, step: int, every: int | None) -> bool:
        """Whether it comes after the step; what comes every so many steps also comes at the end."""
        return step + 1 == self.spec.steps or (every is not None and (step + 1) % every == 0)

    def _is_sampled(self, step: int) -> bool:
        return step == 0 or self._is_due(step, self.spec.eval.every)

    def _progress(self) -> tuple[int, int | None, bool]:
        """Updates, supervised updates while they are made, and whether the last update awaits its evaluation."""
        return self.next_step, None if self.sft is None else self.sft.done, self.pending is not None

    def _save_checkpoint(self) -> None:
        """Save the state, unless the newest checkpoint holds it already (a stop just after one, or after a resume)."""
        if self.saved == self._progress():
            return
        if self.sft is not None:
            self.sft.sync()
        state = {
            "step": self.next_step,
            "sft_updates": None if self.sft is None else self.sft.done,
            "metrics_offset": self.journal.sync(),
            "pending": None if self.pending is None else self.pending.as_json(),
            "tokens": self.tokens,
            "redraw_ratio": self.blocks.redraw_ratio,
            "feedback": asdict(self.feedback),
            # Nothing more to restore: the data position and every generator follow from (seed, step).
            "seed": self.spec.seed,
            "cpu_threads": torch.get_num_threads() if self.pair.student.device.type == "cpu" else None,
        }
        checkpoint.save(
            self.run_dir,
            self.pair.student.network,
            self.optimizer,
            state,
            self.spec.checkpoint.keep,
            self.fence,
        )
        self.saved = self._progress()
