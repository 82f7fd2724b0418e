"""What a sampler is told of candidates, and what it proposes: plain values, so that files can hold them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["running", "complete", "pruned", "failed"]


@dataclass(frozen=True)
class Told:
    """A candidate as it stands. Its dicts are not changed once it is made."""

    number: int
    """Of the candidate in its search."""
    params: dict[str, Any]
    """Dotted key -> value, of the parameters that take part."""
    state: State
    """Paused candidates are "pruned" until they go on."""
    values: tuple[float, ...] = ()
    """One for each goal; complete candidates only."""
    intermediate: dict[int, float] = field(default_factory=dict)
    """Training steps done -> value of the one goal, at the rungs that were reached."""
    constraints: dict[str, float] = field(default_factory=dict)
    """Metric -> by how much its bounds are violated; 0 and less is feasible. Complete candidates only."""
    attrs: dict[str, Any] = field(default_factory=dict)
    """The notes that the sampler made when it proposed the candidate (`Proposal.attrs`)."""


@dataclass(frozen=True)
class Proposal:
    """A setting to try, and what the sampler wants to remember of it. All of it is JSON."""

    params: dict[str, Any]
    """Dotted key -> value, of the parameters that take part."""
    attrs: dict[str, Any]
    """The sampler's notes on this candidate: to be told with it from now on."""
    study_attrs: dict[str, Any]
    """The sampler's notes on the search: to be handed to the next ask."""
