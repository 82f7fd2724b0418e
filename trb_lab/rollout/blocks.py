"""How many tokens the student drafts before the teacher looks.

A block of g tokens costs g draft passes and one verification. With a redraw rate r it commits

    E(g, r) = sum_{j < g} (1 - r)^j = (1 - (1 - r)^g) / r

tokens a row, so the best g maximises E(g, r) / (g draft + verify(g)). The costs are measured once and kept in the run
directory, and r comes from the budget and from what the checkpoint says of earlier steps: never from a live clock,
so that a resumed run repeats itself. The choice changes no token but by rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trb_lab.policy.behaviors import StepBehavior

from .engine import Rollouts

BLOCKS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
"""Block lengths that are considered."""
EQUAL = 0.02
"""Rates this close are equal: measurements differ as much, and short blocks draft less for rows that end."""


@dataclass(frozen=True)
class CostTable:
    """Seconds of the two parts of a round, for a full batch in the middle of its responses."""

    device: str
    rows: int
    context: int
    """Tokens in the cache of a row."""
    draft_seconds: float
    """One draft pass: student, head and draw."""
    verify_seconds: dict[int, float]
    """Block length -> teacher pass over the block, and the verdict on it."""

    def round_seconds(self, block: int) -> float:
        return block * self.draft_seconds + self.verify_seconds[block]

    def tokens_per_second(self, block: int, redraw_rate: float) -> float:
        """Committed tokens a second of one row."""
        return committed_tokens(block, redraw_rate) / self.round_seconds(block)

    def best(self, redraw_rate: float) -> int:
        """The shortest block length that is as fast as the fastest but for EQUAL."""
        rates = {block: self.tokens_per_second(block, redraw_rate) for block in sorted(self.verify_seconds)}
        return next(block for block, rate in rates.items() if rate >= (1.0 - EQUAL) * max(rates.values()))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> CostTable:
        verify = {int(block): float(seconds) for block, seconds in value["verify_seconds"].items()}
        return CostTable(**{**value, "verify_seconds": verify})


def committed_tokens(block: int, redraw_rate: float) -> float:
    """Expected tokens that a row gains from a block, by the redraw rate of a token."""
    if redraw_rate <= 0.0:
        return float(block)
    return float((1.0 - (1.0 - redraw_rate) ** block) / redraw_rate)


@dataclass
class BlockChooser:
    """Block length of each step. `redraw_ratio`, what was seen over what was guessed, is part of a checkpoint."""

    fixed: int | None = None
    """Block length that the spec asks for."""
    costs: CostTable | None = None
    redraw_ratio: float = field(default=1.0)

    def needs_costs(self, behavior: StepBehavior) -> bool:
        return behavior.needs_teacher and self.fixed is None and self.costs is None

    def at(self, behavior: StepBehavior) -> int | None:
        """Tokens to draft; None leaves it to the engine (no teacher takes part)."""
        if not behavior.needs_teacher:
            return None
        if self.fixed is not None:
            return self.fixed
        assert self.costs is not None, "an adaptive block length needs its cost table"
        return self.costs.best(min(1.0, self.redraw_ratio * behavior.expected_redraws))

    def observe(self, behavior: StepBehavior, rollouts: Rollouts) -> None:
        """Learn from a step's rollouts."""
        if behavior.needs_teacher and behavior.expected_redraws > 0.0:
            seen = float(rollouts.redraw_BT.double()[rollouts.mask_BT].mean())
            self.redraw_ratio = seen / behavior.expected_redraws
