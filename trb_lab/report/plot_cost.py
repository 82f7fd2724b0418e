"""Final score against what training cost: in seconds, and in tokens through the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .collect import SweepData
from .cost_table import mean_costs, quantity
from .plot_budget import bars, limits, reference_band, score_label
from .plot_style import MARKERS, WIDTH_INCHES, FigureFiles, colours_of, save
from .settings import Setting, reference_setting
from .stats import Interval, t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = {"seconds": "seconds of training", "teacher_tokens": "tokens through the teacher"}
LOG_FROM = 10.0
"""Largest over smallest cost from which on the axis is logarithmic."""
LEGEND_COLUMNS = 3
ASIDE = 0.008
"""Distance between two arms of the same cost, as a share of the axis."""


def cost_figure(data: SweepData, settings: list[Setting], out: Path) -> FigureFiles | None:
    """One point a setting, the reference arm as a dashed line; None where no finished setting has a ledger."""
    from matplotlib import pyplot

    costs = {s.key: mean_costs(data, s) for s in settings if s.mean_scores()}
    shown = [s for s in settings if costs.get(s.key)]
    if not shown:
        return None
    reference = reference_setting(settings)
    rows = [_row(s, costs[s.key]) for s in shown]
    if reference is not None and reference.mean_scores() and reference not in shown:
        rows.append(_row(reference, {}))
    arms = {s.arm: s for s in reversed(shown)}
    colours = colours_of({s.arm: s.kind for s in shown})
    markers = {arm: MARKERS[i % len(MARKERS)] for i, arm in enumerate(colours)}
    lines = -(-(len(arms) + 1) // LEGEND_COLUMNS)
    figure, grid = pyplot.subplots(1, 2, figsize=(WIDTH_INCHES + 0.8, 3.6 + 0.18 * lines), sharey=True)
    for axes, (column, title) in zip(grid, PANELS.items(), strict=True):
        reference_band(axes, reference)
        every = [costs[s.key][column] for s in shown]
        for nth, arm in enumerate(colours):
            group = [s for s in shown if s.arm == arm]
            intervals = [t_interval(list(s.mean_scores().values())) for s in group]
            axes.errorbar(
                _aside([costs[s.key][column] for s in group], every, nth - (len(colours) - 1) / 2),
                [100 * v.mean for v in intervals],
                yerr=bars(intervals),
                label=arms[arm].label,
                color=colours[arm],
                marker=markers[arm],
                linestyle="",
                capsize=2,
                elinewidth=0.9,
            )
        axes.set_xlabel(title + _scale(axes, every))
    grid[0].set_ylim(*limits(rows))
    grid[0].set_ylabel(score_label(data))
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower left", ncols=LEGEND_COLUMNS)
    caption = (
        "Final score against the cost of training, evaluation left out: one point a setting, means over its finished "
        "seeds; bars: Student-t 95 % interval over seeds (none where one seed finished). Seconds depend on the machine "
        "and on what else ran there; tokens do not. Arms are drawn a little beside each other, so that equal costs do "
        "not hide one behind another."
    )
    return save(figure, pd.DataFrame(rows), out, "score_by_cost", "Score against cost", caption)


def _scale(axes: Axes, values: list[float]) -> str:
    """Sets the axis of costs, logarithmic where they differ much; returns what to add to its title."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: quantity(x)))
    if _logarithmic(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: quantity(x)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        return " (log scale)"
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.08)
    return ""


def _aside(values: list[float], every: list[float], place: float) -> list[float]:
    """Costs moved sideways on the axis of `every`: by `place` times ASIDE of its length."""
    low, high = min(every), max(every)
    if _logarithmic(every):
        return [v * (high / low) ** (place * ASIDE) for v in values]
    return [v + place * ASIDE * ((high - low) or high or 1.0) for v in values]


def _logarithmic(values: list[float]) -> bool:
    return min(values) > 0 and max(values) > LOG_FROM * min(values)


def _row(setting: Setting, costs: dict[str, float]) -> dict[str, Any]:
    interval: Interval = t_interval(list(setting.mean_scores().values()))
    return {
        "setting": setting.key,
        "arm": setting.arm,
        **{column: costs.get(column) for column in PANELS},
        "pass_at_1": interval.mean,
        "half_width_95": interval.half_width,
        "num_seeds": interval.n,
    }
