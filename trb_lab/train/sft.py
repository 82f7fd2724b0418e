"""The phase before training of the arm `sft`: supervised updates on the teacher's own samples.

Update i takes the prompts of training step i, in the same order. Samples that were cut at the limit are trained on as
far as they go, and counted. The phase has an optimiser of its own; training begins at step 0 with a fresh one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from trb_lab.models.load import Pair
from trb_lab.rollout.engine import Rollouts
from trb_lab.rollout.packing import sequence_tokens
from trb_lab.seeds import derive
from trb_lab.spec import ExperimentSpec
from trb_lab.spec.experiment import OptimSpec
from trb_lab.spec.warmup import SftWarmup
from trb_lab.store.metrics import MetricsWriter
from trb_lab.worker import StopFlag

from .backward import imitate
from .data import TrainingData
from .journal import Journal
from .ledger import Cost, Ledger
from .optimizer import MasterAdamW, learning_rate
from .progress import Reporter
from .teacher_samples import TeacherSampler, TeacherSamples


def sft_optim(optim: OptimSpec, warmup: SftWarmup) -> OptimSpec:
    """The optimiser of the phase: the run's, with what the arm says otherwise."""
    steps = optim.lr_warmup_steps if warmup.lr_warmup_steps is None else warmup.lr_warmup_steps
    return optim.model_copy(update={"lr": warmup.lr or optim.lr, "lr_warmup_steps": steps})


class SftPhase:
    """Makes the supervised updates of a run, from its first or from a checkpoint's."""

    def __init__(
        self,
        spec: ExperimentSpec,
        warmup: SftWarmup,
        pair: Pair,
        data: TrainingData,
        optimizer: MasterAdamW,
        journal: Journal,
        reporter: Reporter,
        gpus: int,
        done: int,
        stop: StopFlag,
        fence: Callable[[], None],
    ) -> None:
        """`optimizer` is the phase's own; `done`: updates made before."""
        self.spec, self.warmup, self.pair, self.data = spec, warmup, pair, data
        self.optimizer, self.journal, self.reporter, self.gpus = optimizer, journal, reporter, gpus
        self.done, self.stop = done, stop
        self.sampler = TeacherSampler(spec, pair, warmup.samples_per_prompt, gpus)
        self.lines = MetricsWriter(journal.run_dir.sft, fence)
        self.lines.rewind("update", done)
        self.timing = MetricsWriter(journal.run_dir.sft_timing, fence)

    def updates(self) -> Iterator[int]:
        """Make the updates that are left; yields how many are made, after each.

        Raises Interrupted, with `done` and the optimiser as after the last whole update, when asked to stop.
        """
        while self.done < self.warmup.updates:
            self._update(self.done)
            self.done += 1
            yield self.done
        self.lines.sync()

    def _update(self, update: int) -> None:
        torch.manual_seed(derive(self.spec.seed, "torch/sft", update))
        counted = {"student": 0, "teacher": 0}
        ledger = Ledger(lambda: counted, self.gpus)
        started = time.perf_counter()
        rows = self.data.rows_at(update, self.warmup.samples_per_prompt)
        with self.stop.interruptible():
            samples = self.sampler.at(update, [self.data.teacher_ids[i] for i in rows])
        sampling = time.perf_counter() - started
        with ledger("sft"):
            with self.stop.interruptible():
                batch = as_rollouts(samples, [self.data.student_ids[i] for i in rows])
                stats = imitate(self.spec, self.pair.student, batch, self.optimizer.accumulate)
            norm = self.optimizer.step(update)
            counted["student"] += sequence_tokens(batch, batch.student_prompts)
        line = {
            "update": update,
            "loss": stats.loss,
            "grad_norm": norm,
            "lr": learning_rate(self.optimizer.spec, update),
            "tokens": batch.num_tokens,
            "truncated_share": float((~samples.finished_B).double().mean()),
            "samples_sha256": samples.digest[:16],
        }
        self.lines.write(line)
        self._write_timing(update, ledger, sampling, samples.cost)
        self.reporter.supervised(update, self.warmup.updates, line)

    def _write_timing(self, update: int, ledger: Ledger, sampling_seconds: float, sampling: Cost) -> None:
        """Seconds are this run's; the cost of the samples is that of making them, whichever run made them."""
        sft_seconds = ledger.seconds["sft"]
        seconds = {
            "sft_samples": sampling_seconds,
            "sft": sft_seconds,
            "total": sampling_seconds + sft_seconds,
        }
        ledger.charge("sft_samples", sampling)
        self.timing.write(
            {**self.journal.stamp(), "update": update, "seconds": seconds, "cost": ledger.as_json()}
        )

    def sync(self) -> None:
        """Wait until the lines are on disk."""
        self.lines.sync()


def as_rollouts(samples: TeacherSamples, student_prompts: list[list[int]]) -> Rollouts:
    """The samples behind the student's prompts; what a rollout would have recorded besides is 0."""
    tokens_BT = samples.tokens_BT
    zeros_BT = torch.zeros(tokens_BT.shape)
    return Rollouts(
        student_prompts=student_prompts,
        teacher_prompts=None,
        tokens_BT=tokens_BT,
        mask_BT=torch.arange(tokens_BT.shape[1]) < samples.lengths_B[:, None],
        finished_B=samples.finished_B,
        student_logprob_BT=zeros_BT,
        behavior_logprob_BT=zeros_BT,
        kl_BT=zeros_BT,
        redraw_BT=zeros_BT,
        redrawn_BT=zeros_BT.bool(),
    )
