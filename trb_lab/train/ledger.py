"""What a run costs: seconds, GPU-seconds and tokens of each phase of a step, and their sum over a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from trb_lab.store.metrics import read_metrics
from trb_lab.store.run_dir import RunDir


@dataclass(frozen=True)
class Cost:
    """Of one phase. Tokens are positions that went forward through the model, prompts included."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Processor time of the worker, all its threads; the processes that grade are not in it."""
    gpu_seconds: float = 0.0
    """Seconds times the GPUs of the run."""
    student_tokens: int = 0
    teacher_tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            self.gpu_seconds + other.gpu_seconds,
            self.student_tokens + other.student_tokens,
            self.teacher_tokens + other.teacher_tokens,
        )


@dataclass
class Ledger:
    """The costs of one step, by phase."""

    tokens: Callable[[], Mapping[str, int]]
    """Positions that have gone through "student" and "teacher" so far: an engine's counters."""
    gpus: int = 0
    phases: dict[str, Cost] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """The block belongs to the phase: its time, and the tokens that the engine counts meanwhile."""
        before, start, cpu = dict(self.tokens()), time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            seconds, now = time.perf_counter() - start, self.tokens()
            cost = Cost(
                seconds,
                time.process_time() - cpu,
                seconds * self.gpus,
                now["student"] - before["student"],
                now["teacher"] - before["teacher"],
            )
            self.charge(phase, cost)

    def charge(self, phase: str, cost: Cost) -> None:
        """Add what was measured elsewhere."""
        self.phases[phase] = self.phases.get(phase, Cost()) + cost

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each phase, and their total."""
        found = {phase: cost.seconds for phase, cost in self.phases.items()}
        return {**found, "total": sum(found.values())}

    def as_json(self) -> dict[str, dict[str, float]]:
        return {phase: asdict(cost) for phase, cost in self.phases.items()}


def gpus_of(device_type: str, wanted: int) -> int:
    """GPUs that a run occupies: none on a CPU."""
    return max(1, wanted) if device_type == "cuda" else 0


def run_cost(run_dir: RunDir, gpus: int) -> dict[str, Any] | None:
    """`{"phases", "total", "gpus"}` of a run: each step and each supervised update once, as last timed.

    None where a step has no ledger (it was made before ledgers were kept): a sum over the others would mislead.
    """
    steps = {line["step"]: line.get("cost") for line in read_metrics(run_dir.timing)}
    updates = {line["update"]: line.get("cost") for line in read_metrics(run_dir.sft_timing)}
    ledgers = [*updates.values(), *steps.values()]
    if not steps or not all(ledgers):
        return None
    phases = summed(ledger for ledger in ledgers if ledger)
    total = sum(phases.values(), Cost())
    return {
        "phases": {name: asdict(cost) for name, cost in phases.items()},
        "total": asdict(total),
        "gpus": gpus,
    }


def summed(ledgers: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, Cost]:
    """Cost of each phase over ledgers as files have them."""
    phases: dict[str, Cost] = {}
    for ledger in ledgers:
        for phase, cost in ledger.items():
            phases[phase] = phases.get(phase, Cost()) + Cost(**cost)
    return phases


def run_seconds(run_dir: RunDir) -> float:
    """Seconds of what counts: each step and each supervised update as last timed."""
    steps = {line["step"]: line["seconds"]["total"] for line in read_metrics(run_dir.timing)}
    updates = {line["update"]: line["seconds"]["total"] for line in read_metrics(run_dir.sft_timing)}
    return float(sum(steps.values()) + sum(updates.values()))
