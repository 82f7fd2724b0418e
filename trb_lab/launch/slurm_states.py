"""Slurm's job states in our words: does a worker live, may one come, and what ended it.

Slurm adds states over the years, and sites run many versions. So a state that is not listed here counts as
running: a job that may live is never started a second time.
"""

from __future__ import annotations

from dataclasses import dataclass

from .base import End, Phase

WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
)
ENDED = {
    "COMPLETED": End.EXITED,
    "FAILED": End.EXITED,
    "CANCELLED": End.CANCELLED,
    "REVOKED": End.CANCELLED,
    "TIMEOUT": End.TIME_LIMIT,
    "DEADLINE": End.TIME_LIMIT,
    "OUT_OF_MEMORY": End.OUT_OF_MEMORY,
    "NODE_FAIL": End.NODE_FAILURE,
    "BOOT_FAIL": End.NODE_FAILURE,
    "LAUNCH_FAILED": End.NODE_FAILURE,
    "PREEMPTED": End.PREEMPTED,
}


@dataclass(frozen=True)
class Standing:
    """Where one job element stands with Slurm."""

    phase: Phase
    end: End | None = None
    where: str = ""
    """Node, or why it waits."""

    @property
    def over(self) -> bool:
        return self.phase is Phase.ENDED


def standing(state: str, reason: str = "", node: str = "") -> Standing:
    """`state` as squeue or sacct print it, such as `RUNNING` or `CANCELLED by 1000`."""
    name = state.split()[0].rstrip("+").upper() if state.strip() else ""
    if name in WAITING:
        return Standing(Phase.WAITING, where=f"waits: {reason}" if reason not in ("", "None") else "waits")
    if name in ENDED:
        return Standing(Phase.ENDED, ENDED[name], node)
    # COMPLETING, SUSPENDED, STAGE_OUT, SIGNALING ... and whatever the next version invents.
    return Standing(Phase.RUNNING, where=node if name == "RUNNING" else f"{node} {name.lower()}".strip())
