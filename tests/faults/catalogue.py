"""What can befall a sweep, and how a seeded case picks from it.

A fault is drawn with its details, so a seed names a case completely. `Scenario.text` lists them; docs/faults.md says
what each stands for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

STEPS = 8
TRIALS = 3

DRIVER_POINTS = ("driver.plan.before", "driver.plan.after", "driver.result.before", "driver.result.after")
SLURM_POINTS = (
    "driver.claim.before",
    "driver.claim.after",
    "driver.sbatch.before",
    "driver.sbatch.after",
    "driver.id.after",
)
MIRROR_POINTS = ("driver.mirror.before", "driver.mirror.after")
WORKER_POINTS = (
    "worker.start.after",
    "worker.checkpoint.inside",
    "worker.checkpoint.after",
    "worker.metrics.after",
    "worker.result.before",
    "worker.result.after",
)
ONCE = ("worker.start.after", "worker.result.before", "worker.result.after")


@dataclass(frozen=True)
class Fault:
    """One fault: `when` is "before" the sweep starts, or the number of steps that some trial must have made."""

    name: str
    when: int | Literal["before"] = "before"
    details: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        said = " ".join(f"{key}={value}" for key, value in self.details.items())
        at = "" if self.when == "before" else f"@{self.when}"
        return f"{self.name}{at}" + (f"({said})" if said else "")


@dataclass(frozen=True)
class Scenario:
    seed: int
    launcher: Literal["local", "slurm"]
    real: bool
    """Real workers on a tiny pair; else fake ones, which keep the same promises."""
    faults: tuple[Fault, ...]

    @property
    def text(self) -> str:
        worker = "real" if self.real else "fake"
        return f"seed {self.seed}: {self.launcher}, {worker} workers: " + ", ".join(map(str, self.faults))


def draw(seed: int, real: bool = False) -> Scenario:
    """The case of a seed."""
    rng = Random(f"trb-lab fault {seed}")
    launcher: Literal["local", "slurm"] = "slurm" if rng.random() < 0.75 else "local"
    kinds = list(ANYWHERE + (ON_SLURM if launcher == "slurm" else ()) + (WITH_MLFLOW if real else ()))
    chosen = list(dict.fromkeys(rng.sample(kinds, rng.choice((1, 1, 2, 2, 3)))))
    if "mirror dies at" in chosen and "driver dies at" in chosen:  # a process has one failpoint
        chosen.remove("driver dies at")
    faults = [_detailed(name, rng, launcher) for name in chosen]
    faults.sort(key=lambda fault: -1 if fault.when == "before" else fault.when)
    return Scenario(seed, launcher, real, tuple(faults))


# Some stand here twice: the list is long there.

ANYWHERE = (
    "driver dies at",
    "driver dies at",
    "worker dies at",
    "worker dies at",
    "driver is killed",
    "driver is stopped",
    "driver is relieved",
    "second driver",
    "worker is killed",
    "torn line",
    "half a checkpoint",
    "stale lock",
)
ON_SLURM = (
    "preempted",
    "preempted without grace",
    "time limit",
    "cancelled",
    "requeued",
    "node lost",
    "node lost, processes live on",
    "out of memory",
    "squeue fails",
    "squeue is slow",
    "unknown state",
    "unreachable",
    "accounting",
    "id of somebody else",
    "sbatch",
    "submit limit",
    "small arrays",
    "packed",
)


WITH_MLFLOW = ("mirror dies at", "mirror dies at")


def _detailed(name: str, rng: Random, launcher: str) -> Fault:
    """A fault with its details, and when it strikes."""
    details: dict[str, Any]
    match name:
        case "driver dies at":
            point = rng.choice(DRIVER_POINTS + (SLURM_POINTS if launcher == "slurm" else ()))
            nth = rng.choice((1, 2)) if "result" in point or "claim" in point else 1
            details = {"point": f"{point}:{nth}"}
        case "mirror dies at":
            details = {"point": f"{rng.choice(MIRROR_POINTS)}:{rng.choice((1, 2, 3))}"}
        case "worker dies at":
            point = rng.choice(WORKER_POINTS)
            nth = 1 if point in ONCE else rng.choice((1, 2, 3))
            details = {"point": f"{point}:{nth}", "trial": rng.randrange(TRIALS), "times": rng.choice((1, 2))}
        case "time limit":
            details = {"minute": rng.choice((0.08, 0.1))}
        case "stale lock":
            details = {"trial": rng.randrange(TRIALS), "what": rng.choice(("empty", "torn", "dead"))}
        case "accounting":
            how = rng.choice(({"sacct": "fail"}, {"sacct": "empty"}, {"sacct_lag": 3}, {"accounting": False}))
            details = {**how, "min_job_age": rng.choice((0, 300))}
        case "sbatch":
            answers = ("accepted", "timeout", "unavailable", "killed")
            details = {"sbatch": [rng.choice(answers) for _ in range(rng.choice((1, 2)))]}
        case "submit limit":
            details = {"max_submit": rng.choice((1, 2, 3))}
        case "small arrays":
            details = {"max_array_size": rng.choice((2, 3))}
        case "packed":
            details = {"pack": rng.choice((2, 3)), "pack_parallel": rng.choice((1, 2))}
        case "node lost, processes live on":  # early: the zombie needs steps left that it must not make
            return Fault(name, rng.randrange(1, 4))
        case "preempted":
            return Fault(name, rng.randrange(1, STEPS - 1), {"grace": 5.0})
        case _:
            return Fault(name, rng.randrange(1, STEPS - 1))
    return Fault(name, "before", details)
