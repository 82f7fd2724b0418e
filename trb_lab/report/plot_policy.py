"""Figure 3: what the trust region did.

Schedule and realised KL, beta, redraw rate under its bound, teacher entropy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .collect import SweepData
from .plot_curves import seed_bands
from .plot_style import DASHES, INK, MUTED, WIDTH_INCHES, FigureFiles, ramp, save
from .settings import Setting, reference_setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BUDGETS = 5
MAX_HORIZONS = 2
ENTROPY = "policy/teacher_entropy"
METRICS = ["policy/schedule", "policy/kl_mean", "policy/beta_mean", "policy/redraw_rate", ENTROPY]


def policy_figure(data: SweepData, settings: list[Setting], out: Path) -> FigureFiles | None:
    """2 x 2 panels for the TRB settings, or for those of the other arms with a KL budget where no TRB has run.

    Arms of several kinds are never drawn together: the same budget means another thing in each.
    """
    from matplotlib import pyplot

    ran = set(data.curves["run_id"])
    budgeted = [s for s in settings if s.kl_budget and ran & set(s.run_ids.values())]
    kind = min((s.kind for s in budgeted), key=lambda k: (k != "trb", k), default=None)
    trb = [s for s in budgeted if s.kind == kind]
    chosen, styles = _chosen(trb)
    if not chosen or "policy/schedule" not in data.curves:
        return None
    bands = {(s.key, m): seed_bands(data, s, m) for s in chosen for m in METRICS}
    last = max(s.horizon_steps for s in chosen)
    shown = min(last + max(2, last // 4), max(s.steps for s in chosen))
    figure, grid = pyplot.subplots(2, 2, figsize=(WIDTH_INCHES + 0.8, 5.6), sharex=True)
    for setting in chosen:
        colour, dash = styles[setting.key]
        limits = (setting, bands, shown, colour, dash)
        schedule = _early(bands[setting.key, "policy/schedule"], shown)
        active = schedule[schedule["mean"] > 0]
        grid[0, 0].plot(
            active["step"], active["mean"], color=colour, linestyle=dash, linewidth=0.8, alpha=0.7
        )
        _panel(grid[0, 0], *limits, "policy/kl_mean", 1, positive=True)
        _panel(grid[0, 1], *limits, "policy/beta_mean", 1)
        _panel(grid[1, 0], *limits, "policy/redraw_rate", 100)
        bound = 100 * np.sqrt(schedule["mean"].to_numpy(dtype=float) / 2)
        grid[1, 0].plot(schedule["step"], bound, color=colour, linestyle=dash, linewidth=0.8, alpha=0.7)
        _panel(grid[1, 1], *limits, ENTROPY, 1)
    reference = reference_setting(settings)
    if reference is not None:
        bands[reference.key, ENTROPY] = seed_bands(data, reference, ENTROPY)
        _panel(grid[1, 1], reference, bands, shown, INK, (0, (4, 2)), ENTROPY, 1)
    _titles(grid, shown)
    _legend(figure, chosen, styles, reference)
    tables = [f.assign(setting=k, metric=m) for (k, m), f in bands.items() if not f.empty]
    caption = (
        f"What the trust region did ({chosen[0].label}). Thick: mean over seeds with the range over "
        "seeds as band; thin: the "
        "budget in force (KL panel) and the bound sqrt(budget / 2) on the redraw rate that it "
        "implies. Teacher entropy "
        "is measured on the prefixes that the rollouts visited."
        + (
            f" Drawn are {len(chosen)} of {len(trb)} settings, spread over budgets and horizons."
            * (len(chosen) < len(trb))
        )
    )
    return save(
        figure,
        pd.concat(tables, ignore_index=True),
        out,
        "trust_region",
        "What the trust region did",
        caption,
    )


def _chosen(trb: list[Setting]) -> tuple[list[Setting], dict[str, tuple[str, object]]]:
    """Up to MAX_BUDGETS budgets x MAX_HORIZONS horizons (ends and evenly between): colour a budget, dashes
    a horizon.
    """
    budgets = _spread(sorted({s.kl_budget for s in trb if s.kl_budget}), MAX_BUDGETS)
    horizons = _spread(sorted({s.horizon_steps for s in trb}, reverse=True), MAX_HORIZONS)
    colours = dict(zip(budgets, ramp(len(budgets)), strict=True))
    dashes = dict(zip(horizons, DASHES, strict=False))
    first: dict[tuple, Setting] = {}
    for setting in trb:
        if setting.kl_budget in colours and setting.horizon_steps in dashes:
            first.setdefault((setting.kl_budget, setting.horizon_steps), setting)
    chosen = [first[k] for k in sorted(first)]
    return chosen, {s.key: (colours[s.kl_budget], dashes[s.horizon_steps]) for s in chosen}


def _spread(values: list, count: int) -> list:
    if len(values) <= count:
        return values
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]


def _early(frame: pd.DataFrame, shown: int) -> pd.DataFrame:
    return frame[frame["step"] < shown]


def _panel(
    axes: Axes,
    setting: Setting,
    bands: dict,
    shown: int,
    colour: str,
    dash: object,
    metric: str,
    scale: float,
    positive: bool = False,
) -> None:
    frame = _early(bands[setting.key, metric], shown)
    if positive:  # a log axis has no place for the zeros after the horizon
        frame = frame[frame["low"] > 0]
    if not frame.empty:
        axes.plot(frame["step"], scale * frame["mean"], color=colour, linestyle=dash)
        axes.fill_between(
            frame["step"], scale * frame["low"], scale * frame["high"], color=colour, alpha=0.15, linewidth=0
        )


def _titles(grid: np.ndarray, shown: int) -> None:
    from matplotlib.ticker import LogFormatter, MaxNLocator

    titles = [
        "KL(mu || p), nats a token (log)",
        "beta (0 student, 1 teacher)",
        "redraw rate (%)",
        "teacher entropy (nats)",
    ]
    for axes, title in zip(grid.flat, titles, strict=True):
        axes.set_title(title)
    grid[0, 0].set_xlim(0, shown - 1)
    grid[0, 0].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    grid[0, 0].set_yscale("log")
    # The formatters of a log scale write mathtext, which the style leaves unparsed.
    grid[0, 0].yaxis.set_major_formatter(LogFormatter())
    grid[0, 0].yaxis.set_minor_formatter(LogFormatter())
    for axes in (grid[0, 1], grid[1, 0]):
        axes.set_ylim(bottom=0)
    for axes in grid[1]:
        axes.set_xlabel("training step (0-based)")


def _legend(figure: Figure, chosen: list[Setting], styles: dict, reference: Setting | None) -> None:
    """Budgets by colour and horizons by dash, named once below all panels."""
    from matplotlib.lines import Line2D

    handles: dict[str, Line2D] = {}
    for setting in chosen:
        handles.setdefault(f"budget {setting.kl_budget:g}", Line2D([], [], color=styles[setting.key][0]))
    if len({s.horizon_steps for s in chosen}) > 1:
        for setting in chosen:
            line = Line2D([], [], color=MUTED, linestyle=styles[setting.key][1])
            handles.setdefault(f"horizon {setting.horizon_steps}", line)
    handles["budget, bound"] = Line2D([], [], color=MUTED, linewidth=0.8)
    if reference is not None:
        handles[reference.title] = Line2D([], [], color=INK, linestyle=(0, (4, 2)))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, columnspacing=1.6)
