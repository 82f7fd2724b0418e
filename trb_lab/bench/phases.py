"""Where the time of a rollout goes: an engine that notes when its phases begin and end, and one measured rollout."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trb_lab.models.load import Pair
from trb_lab.policy.behaviors import StepBehavior
from trb_lab.rollout.batch import Batch
from trb_lab.rollout.engine import Keep, RolloutRequest, Rollouts
from trb_lab.rollout.judge import Judge, Verdict
from trb_lab.rollout.torch_engine import TorchEngine

from .measure import Figures, timed

if TYPE_CHECKING:
    from .setting import Setting

PHASES = ("prefill", "drafting", "verifying")
"""What is not in them is bookkeeping: taking tokens, records, rows that leave."""


class PhasedEngine(TorchEngine):
    """The engine as it is; on a GPU the marks are events in its stream, so that nothing waits for them."""

    def __init__(self, pair: Pair, rows: int) -> None:
        super().__init__(pair, max_rows=rows)
        self.marks: list[tuple[str, Any, Any]] = []

    def rollout(self, request: RolloutRequest, behavior: StepBehavior, keep: Keep) -> Rollouts:
        self.marks = []
        return super().rollout(request, behavior, keep)

    def start(self, request: RolloutRequest, behavior: StepBehavior, stack: ExitStack) -> Batch:
        with self._phase("prefill"):
            return super().start(request, behavior, stack)

    def draft(self, batch: Batch, judge: Judge, block: int) -> Tensor:
        with self._phase("drafting"):
            return super().draft(batch, judge, block)

    def verify(self, batch: Batch, judge: Judge, drafts_AG: Tensor, keep: Keep) -> Verdict:
        with self._phase("verifying"):
            return super().verify(batch, judge, drafts_AG, keep)

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase of the last rollout. Call it on an idle device."""
        total = dict.fromkeys(PHASES, 0.0)
        for name, begin, end in self.marks:
            total[name] += end - begin if isinstance(begin, float) else begin.elapsed_time(end) / 1000.0
        return total

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        begin = self._mark()
        yield
        self.marks.append((name, begin, self._mark()))

    def _mark(self) -> Any:
        if self.pair.student.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def rollout_turn(
    setting: Setting, behavior: StepBehavior, repeat: int, block: int | None = None
) -> tuple[Rollouts, Figures]:
    """One rollout of the setting's rows: what came of it, and seconds, tokens, rounds and rates."""
    request, engine = setting.request(repeat, block), setting.engine
    rollouts, seconds = timed(setting.device, lambda: engine.rollout(request, behavior, setting.keep))
    work, split = rollouts.work, engine.seconds()
    assert work is not None, "the engine counts its passes"
    mask_BT = rollouts.mask_BT
    figures = {
        "seconds": seconds,
        **split,
        "bookkeeping": seconds - sum(split.values()),
        "tokens": float(rollouts.num_tokens),
        "longest": float(rollouts.lengths_B.max()),
        "block": float(work.block_tokens),
        "rounds": float(work.rounds),
        "draft_passes": float(work.draft_passes),
        "drafted": float(work.drafted_tokens),
        "redraw_rate": float(rollouts.redraw_BT.double()[mask_BT].mean()),
    }
    if rollouts.beta_BT is not None:
        beta_N = rollouts.beta_BT[mask_BT]
        figures["budget_binds"] = float(((beta_N > 0) & (beta_N < 1)).double().mean())
    return rollouts, figures
