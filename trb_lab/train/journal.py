"""The files that grow while a run trains, and what a step writes into them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from trb_lab.failpoints import reach
from trb_lab.rollout.engine import Rollouts
from trb_lab.store.metrics import MetricsWriter, read_metrics
from trb_lab.store.run_dir import RunDir

from .ledger import Cost, Ledger


@dataclass
class StepRecord:
    """A step whose update is made: what will be written of it."""

    step: int
    metrics: dict[str, Any]
    ledger: Ledger
    response_tokens: int
    work: dict[str, int] | None
    """How the rollouts were made (rollout.engine.Work)."""

    @classmethod
    def of(cls, step: int, metrics: dict[str, Any], ledger: Ledger, rollouts: Rollouts) -> StepRecord:
        work = None if rollouts.work is None else asdict(rollouts.work)
        return cls(step, metrics, ledger, rollouts.num_tokens, work)

    def as_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "metrics": self.metrics,
            "cost": self.ledger.as_json(),
            "response_tokens": self.response_tokens,
            "work": self.work,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], ledger: Ledger) -> StepRecord:
        """`ledger` is empty and goes on with what the step has cost so far."""
        for phase, cost in value["cost"].items():
            ledger.charge(phase, Cost(**cost))
        return cls(value["step"], value["metrics"], ledger, value["response_tokens"], value["work"])


class Journal:
    """metrics.jsonl and positions.jsonl, which a resume cuts back, and timing.jsonl, which only grows."""

    def __init__(
        self, run_dir: RunDir, attempt: int, device: torch.device, fence: Callable[[], None]
    ) -> None:
        self.run_dir, self.attempt, self.device = run_dir, attempt, device
        self.metrics = MetricsWriter(run_dir.metrics, fence)
        self.positions = MetricsWriter(run_dir.positions, fence)
        self.timing = MetricsWriter(run_dir.timing, fence)

    def rewind(self, metrics_offset: int, next_step: int) -> list[dict[str, Any]]:
        """Drop what will be made again; the lines of metrics.jsonl that stay."""
        self.metrics.truncate(metrics_offset)
        self.positions.rewind("step", next_step)
        return read_metrics(self.run_dir.metrics, metrics_offset)

    def sync(self) -> int:
        """Wait until the deterministic files are on disk; the offset in metrics.jsonl that a checkpoint stores."""
        self.positions.sync()
        self.metrics.sync()
        return self.metrics.offset

    def write(self, record: StepRecord) -> None:
        """The lines of a finished step."""
        seconds = record.ledger.seconds
        line: dict[str, Any] = {
            **self.stamp(),
            "step": record.step,
            "seconds": seconds,
            "cost": record.ledger.as_json(),
            "tokens_per_second": record.response_tokens / max(seconds["rollout"], 1e-9),
        }
        if record.work is not None:
            line["work"] = record.work
        self.metrics.write({"step": record.step, **record.metrics})
        reach("worker.metrics.after")
        self.timing.write(line)

    def stamp(self) -> dict[str, Any]:
        """When and how large."""
        return {
            "time": time.time(),
            "attempt": self.attempt,
            "memory_bytes": _peak_memory_bytes(self.device),
        }


def _peak_memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
