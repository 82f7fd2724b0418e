"""Timing that survives a shared machine: contestants take turns, and ratios are of neighbours in time."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from .table import Row, Spread

T = TypeVar("T")
Figures = dict[str, float]
"""What one turn of a contestant measured: name -> value."""


def timed(device: torch.device, work: Callable[[], T]) -> tuple[T, float]:
    """Result and wall-clock seconds of `work`, from an idle device to an idle device."""
    _synchronize(device)
    start = time.perf_counter()
    result = work()
    _synchronize(device)
    return result, time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def take_turns(
    contestants: Mapping[str, Callable[[int], Figures]], repeats: int, *, warm_up: bool = True
) -> dict[str, list[Figures]]:
    """Figures of every contestant in every repeat, after one round that does not count (if `warm_up`).

    Contestants are called with the number of the repeat. The order turns round from one repeat to the next, so
    that a slow stretch of the machine meets both ends of it alike.
    """
    names = list(contestants)
    found: dict[str, list[Figures]] = {name: [] for name in names}
    if warm_up:
        for name in names:
            contestants[name](0)
    for repeat in range(repeats):
        for name in names if repeat % 2 == 0 else reversed(names):
            found[name].append(contestants[name](repeat))
    return found


def column(turns: Sequence[Figures], name: str) -> list[float]:
    """One figure of every repeat."""
    return [turn[name] for turn in turns]


def middle(turns: Sequence[Figures], name: str) -> float:
    """Median of one figure."""
    return statistics.median(column(turns, name))


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def row(
    what: str,
    values: Sequence[float],
    against: Mapping[str, Sequence[float]] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Row:
    """One line of a table; ratios are `values` over those of `against`, repeat by repeat."""
    ratios = {
        name: spread([ours / theirs for ours, theirs in zip(values, others, strict=True)])
        for name, others in (against or {}).items()
        if all(others)
    }
    return Row(what, spread(values), ratios, dict(notes or {}))


@dataclass(frozen=True)
class Hardware:
    """What the figures hold for."""

    cpu: str
    cores: int
    threads: int
    load: float
    """Load average of the last minute before the benchmark: well above 0 means that others used the machine."""
    device: str
    torch: str

    def line(self) -> str:
        return (
            f"{self.cpu}, {self.cores} cores, {self.threads} threads, load {self.load:.1f} before; "
            f"device {self.device}; torch {self.torch}"
        )


def hardware(device: torch.device) -> Hardware:
    affinity = getattr(os, "sched_getaffinity", None)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return Hardware(
        cpu=_cpu_model(),
        cores=len(affinity(0)) if affinity is not None else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0,
        device=name,
        torch=torch.__version__,
    )


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
