"""All figures of a report: which there are, and who draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trb_lab.spec.report import FigureBlock

from .plot_budget import budget_figure
from .plot_cost import cost_figure
from .plot_curves import early_figure, learning_figure
from .plot_policy import policy_figure
from .plot_style import FigureFiles, style
from .sources import Source

if TYPE_CHECKING:
    from .sections import Context

Draw = Callable[[Sequence[Source], FigureBlock, Path], FigureFiles | None]
"""Draws and saves one figure of these sources into a report's folder; None where they have no data for it."""


def _of_one(drawn: Callable[..., FigureFiles | None]) -> Draw:
    """A figure of the first source."""
    return lambda sources, block, out: drawn(sources[0].data, sources[0].settings, out)


FIGURES: dict[str, Draw] = {
    "score_by_budget": _of_one(budget_figure),
    "score_by_cost": _of_one(cost_figure),
    "learning_curves": _of_one(learning_figure),
    "trust_region": _of_one(policy_figure),
    "early_rollouts": _of_one(early_figure),
}


def draw(context: Context, block: FigureBlock, sources: Sequence[Source]) -> FigureFiles | None:
    """One figure in the definition's style; None where the sources have no data for it."""
    with style():
        return FIGURES[block.figure](sources, block, context.out) if block.figure in FIGURES else None
