"""A sweep: one question, a base experiment, arms, seeds."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from .base import Spec
from .search import SearchSpec


class ArmSpec(Spec):
    """One row of the comparison, or a grid of them."""

    overrides: dict[str, Any] = {}
    """Changes to the base: nested mappings or dotted keys. One that changes `kind` replaces the whole block."""
    grid: dict[str, list[Any]] = {}
    """Dotted key -> values; every combination is a setting of this arm."""
    search: SearchSpec | None = None
    """Settings that are asked of a sampler, in place of a grid or beside it; see docs/search.md."""
    label: str | None = None
    """Name in tables; null takes the arm's key."""


class ReportOptions(Spec):
    """What the sweep's report compares."""

    reference: str | None = None
    """Arm that is drawn as the dashed line; null takes the first arm of kind opd."""
    references: bool = True
    """Evaluate the teacher and the untrained student once, as rows of the table."""


class SweepSpec(Spec):
    """What `trb-lab sweep` runs: every arm's settings x every seed."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    question: str
    base: str
    """Experiment YAML, relative to this file."""
    seeds: list[int] = Field(min_length=1)
    arms: dict[str, ArmSpec] = Field(min_length=1)
    overrides: dict[str, Any] = {}
    """Changes to the base for every arm."""
    parallel: int | None = Field(None, ge=1)
    """Trials at once; null takes one a GPU, or one a core on machines without."""
    report: ReportOptions = ReportOptions()

    @field_validator("name")
    @classmethod
    def _not_taken(cls, name: str) -> str:
        if name == "runs":
            raise ValueError("a sweep cannot be called 'runs': runs that belong to no sweep have that name")
        return name
