"""All figures of a report: which there are, what a definition may choose of each, and who draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trb_lab.errors import UsageError
from trb_lab.spec.report import FigureBlock, FigureName

from .collect import SweepData
from .plot_best import best_figure
from .plot_budget import budget_figure
from .plot_continuation import diagnostic_figure
from .plot_cost import cost_figure
from .plot_early import early_figure
from .plot_entropy import entropy_figure
from .plot_learning import learning_figure
from .plot_policy import policy_figure
from .plot_request import Request, View, requested
from .plot_style import FigureFiles
from .plot_support import support_figure
from .plot_trajectories import trajectories_figure
from .plot_venue import style
from .settings import Setting
from .sources import Source

if TYPE_CHECKING:
    from .sections import Context

OfOne = Callable[[View, Request], FigureFiles | None]
"""Draws one source; None where it has no data for the figure."""
OfAll = Callable[[Sequence[View], Request], FigureFiles | None]
"""Draws all sources in panels of one figure."""


@dataclass(frozen=True)
class Figure:
    """One name that definitions can use."""

    title: str
    """What it is called where there is nothing to draw."""
    one: OfOne | None = None
    panels: OfAll | None = None
    steps: bool = False
    """Whether `steps` of a definition means something here."""


def _of_data(drawn: Callable[[SweepData, list[Setting], Request], FigureFiles | None]) -> OfOne:
    return lambda view, request: drawn(view.source.data, view.settings, request)


FIGURES: dict[FigureName, Figure] = {
    "score_by_budget": Figure("Score against KL budget", _of_data(budget_figure)),
    "score_by_cost": Figure("Score against cost", cost_figure),
    "learning_curves": Figure("Learning curves", _of_data(learning_figure), steps=True),
    "trust_region": Figure("What the trust region did", _of_data(policy_figure), steps=True),
    "early_rollouts": Figure("Early rollouts", _of_data(early_figure), steps=True),
    "trajectories": Figure("Score over training", panels=trajectories_figure, steps=True),
    "teacher_entropy": Figure("Teacher entropy and score", panels=entropy_figure, steps=True),
    "best_over_training": Figure("Best score over training", panels=best_figure),
    "support_reward": Figure("Support and reward", _of_data(support_figure), steps=True),
}
CONTINUATION: FigureName = "continuation_gain"
"""The one figure that is drawn from a diagnostic, not from sources."""


@dataclass(frozen=True)
class Drawn:
    """What became of a block."""

    title: str
    figures: list[FigureFiles]
    absent: str = ""
    """What could not be drawn, and why."""


def draw(context: Context, block: FigureBlock, name: str, sources: Sequence[Source]) -> Drawn:
    """A block's figures in the definition's style. Raises UsageError for what it chooses and the figure has not."""
    _refuse(block, name)
    options = context.spec.figures
    with style(options.venue, options.formats, context.spec.statistics.level):
        if block.figure == CONTINUATION:
            return _continuation(context, block, name)
        figure = FIGURES[block.figure]
        without: list[str] = []
        request, views = requested(block, sources, context.out, name)
        if figure.panels is not None:
            drawn = figure.panels(views, request)
            found = [drawn] if drawn else []
        else:
            found, without = _each(figure, views, request)
    title = block.title or (found[0].title if len(found) == 1 else figure.title)
    if not found:
        return Drawn(title, [], "The runs hold no data for this figure.")
    missing = f"No data for this figure: {', '.join(without)}." if without else ""
    return Drawn(title, found, missing)


def _each(figure: Figure, views: Sequence[View], request: Request) -> tuple[list[FigureFiles], list[str]]:
    """One figure a source, and the labels of those without data."""
    assert figure.one is not None
    found, without = [], []
    for view in views:
        own = request if len(views) == 1 else request.of(view.source, figure.title)
        drawn = figure.one(view, own)
        if drawn is None:
            without.append(view.label)
        else:
            found.append(drawn)
    return found, without


def _continuation(context: Context, block: FigureBlock, name: str) -> Drawn:
    request = Request(context.out, name, block.title, block.caption)
    wanted = [block.diagnostic] if isinstance(block.diagnostic, str) else block.diagnostic
    found = diagnostic_figure(context.store, wanted, block.arms, request)
    title = block.title or "Continuation gain"
    return Drawn(title, [], found) if isinstance(found, str) else Drawn(title, [found])


def _refuse(block: FigureBlock, name: str) -> None:
    """Options that this figure has no use for: none may be without effect."""
    where = f"blocks.{name}"
    if block.figure != CONTINUATION:
        if block.diagnostic is not None:
            raise UsageError(f"{where}: `diagnostic` belongs to {CONTINUATION}, and this is {block.figure}.")
        if block.steps is not None and not FIGURES[block.figure].steps:
            able = ", ".join(n for n, f in FIGURES.items() if f.steps)
            raise UsageError(
                f"{where}: {block.figure} has no axis of steps to cut. `steps` goes with {able}."
            )
        return
    for option, given in (("settings", block.settings), ("steps", block.steps), ("sources", block.sources)):
        if given is not None:
            raise UsageError(
                f"{where}: {CONTINUATION} is drawn from a diagnostic, which has no {option}. It takes `diagnostic` and "
                "`arms`."
            )
