"""Measures the cost table that block lengths are chosen by."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch

from trb_lab.policy.behaviors import StepBehavior

from .blocks import BLOCKS, CostTable
from .engine import Keep, RolloutRequest
from .judge import judge_for

if TYPE_CHECKING:
    from .torch_engine import TorchEngine

T = TypeVar("T")
SLOW_SECONDS = 3.0
"""Rounds longer than this are measured once: their noise is small beside them."""


@torch.no_grad()
def measure_costs(
    engine: TorchEngine,
    request: RolloutRequest,
    behavior: StepBehavior,
    keep: Keep,
    blocks: tuple[int, ...] = BLOCKS,
    repeats: int = 3,
) -> CostTable:
    """Median seconds of draft passes and verifications of this request's batch, half-way through its responses.

    The rows' caches hold nothing real there, which costs the same. Shorter blocks are beginnings of the longest.
    """
    device = engine.pair.student.device
    with ExitStack() as stack:
        batch = engine.start(request, behavior, stack)
        batch.position_S.fill_(batch.limit // 2)
        judge = judge_for(engine.pair, behavior, keep)
        context = int((batch.student.offset_S[: len(batch)] + batch.position_A).float().mean())
        drafts: list[float] = []
        verifies: dict[int, list[float]] = {block: [] for block in blocks}
        for repeat in range(
            repeats + 1
        ):  # all lengths in turn: a slow stretch of the machine meets them alike
            start = time.perf_counter()
            drafts_AG, seconds = _timed(device, partial(engine.draft, batch, judge, max(blocks)))
            drafted, drafting = list(judge.drafted), seconds / max(blocks)
            found = {}
            for block in blocks:
                judge.drafted = drafted[:block]
                _, found[block] = _timed(
                    device, partial(engine.verify, batch, judge, drafts_AG[:, :block], keep)
                )
            if repeat > 0:  # the first one warms up
                drafts.append(drafting)
                for block, seconds in found.items():
                    verifies[block].append(seconds)
            if repeat > 0 and time.perf_counter() - start > SLOW_SECONDS:
                break
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        costs = CostTable(
            name,
            len(batch),
            context,
            statistics.median(drafts),
            {block: statistics.median(seconds) for block, seconds in verifies.items()},
        )
    engine.release()  # the captured passes of all lengths hold memory, and most will not be used
    return costs


def _timed(device: torch.device, work: Callable[[], T]) -> tuple[T, float]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start
