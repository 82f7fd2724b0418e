"""All figures of a sweep's report: which there are, and in what order."""

from __future__ import annotations

from pathlib import Path

from .collect import SweepData
from .plot_budget import budget_figure
from .plot_cost import cost_figure
from .plot_curves import early_figure, learning_figure
from .plot_policy import policy_figure
from .plot_style import FigureFiles, style
from .settings import Setting

FIGURES = {
    "score_by_budget": budget_figure,
    "score_by_cost": cost_figure,
    "learning_curves": learning_figure,
    "trust_region": policy_figure,
    "early_rollouts": early_figure,
}
"""File name -> the function that draws it, or returns None where the sweep has no data for it."""


def build_figures(data: SweepData, settings: list[Setting], out: Path) -> list[FigureFiles]:
    """Draw and save what the data allow; files of a figure that cannot be drawn any more are removed."""
    drawn = []
    with style():
        for name, draw in FIGURES.items():
            figure = draw(data, settings, out)
            if figure is not None:
                drawn.append(figure)
                continue
            for suffix in ("svg", "png", "csv"):
                (out / "figures" / f"{name}.{suffix}").unlink(missing_ok=True)
    return drawn
