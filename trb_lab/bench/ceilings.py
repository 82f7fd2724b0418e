"""What this machine can do at best, measured: the copy bandwidth and the rate of a large matrix product."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .measure import timed

REPEATS = 7
GPU_COPY_BYTES, CPU_COPY_BYTES = 1 << 30, 1 << 26
GPU_MATRIX, CPU_MATRIX = 8192, 1024


@dataclass(frozen=True)
class Ceilings:
    """Rates that no code on the device passes by much."""

    bytes_per_second: float
    """Bytes read plus bytes written of a large copy on the device."""
    flops_per_second: float
    """Of a square matrix product in the models' dtype, a multiplication and an addition counted apart."""
    dtype: str

    def line(self) -> str:
        return (
            f"ceilings measured: copy {self.bytes_per_second / 1e9:,.0f} GB/s, matrix product in {self.dtype} "
            f"{self.flops_per_second / 1e12:,.3g} TFLOP/s"
        )


@dataclass(frozen=True)
class Floor:
    """The least that a piece of work must move and compute."""

    num_bytes: float
    num_flops: float

    def seconds(self, ceilings: Ceilings) -> float:
        """No version runs much faster."""
        return max(self.num_bytes / ceilings.bytes_per_second, self.num_flops / ceilings.flops_per_second)

    def bound(self, ceilings: Ceilings) -> str:
        """Which of the two is larger."""
        moving = self.num_bytes / ceilings.bytes_per_second
        return "bytes" if moving >= self.num_flops / ceilings.flops_per_second else "operations"


@torch.no_grad()
def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Medians of a few copies and products of random numbers."""
    copying, num_bytes = _copy(device)
    multiplying, num_flops = _product(device, dtype)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return Ceilings(num_bytes / copying, num_flops / multiplying, str(dtype).removeprefix("torch."))


def _copy(device: torch.device) -> tuple[float, float]:
    """Seconds and bytes."""
    num_bytes = GPU_COPY_BYTES if device.type == "cuda" else CPU_COPY_BYTES
    source = torch.rand(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return _median(device, lambda: target.copy_(source)), 2.0 * num_bytes


def _product(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Seconds and operations."""
    size = GPU_MATRIX if device.type == "cuda" else CPU_MATRIX
    left, right = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    return _median(device, lambda: torch.mm(left, right, out=product)), 2.0 * size**3


def _median(device: torch.device, work: Callable[[], Tensor]) -> float:
    for _ in range(2):
        work()
    return statistics.median(timed(device, work)[1] for _ in range(REPEATS))
