"""A trial as a sweep file means it, before it has an identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .experiment import ExperimentSpec


@dataclass(frozen=True)
class TrialDraft:
    """One trial of a sweep: base + overrides + seed."""

    arm: str
    setting: str
    """The grid point, `kl_budget=0.05 steps=25`; empty where the arm has one setting."""
    seed: int
    overrides: dict[str, Any]
    """Dotted key -> value, all that differs from the base but the seed."""
    spec: ExperimentSpec
