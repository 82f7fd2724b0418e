"""Figure 3: what the trust region did.

Schedule and realised KL, beta, redraw rate under its bound, teacher entropy.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from trb_lab.errors import UsageError

from .collect import SweepData
from .palette import DASHES, INK, MUTED, SERIES, ramp
from .plot_curves import seed_bands
from .plot_layout import below
from .plot_request import Request
from .plot_style import FigureFiles
from .plot_venue import look
from .settings import Setting, reference_setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BUDGETS = 5
MAX_HORIZONS = 2
FEW_DECADES = 2
"""Under which 2 and 5 are ticks of a log axis too."""
ENTROPY = "policy/teacher_entropy"
METRICS = ["policy/schedule", "policy/kl_mean", "policy/beta_mean", "policy/redraw_rate", ENTROPY]


def policy_figure(data: SweepData, settings: list[Setting], request: Request) -> FigureFiles | None:
    """2 x 2 panels for the TRB settings, or for those of the other arms with a KL budget where no TRB has run.

    Arms of several kinds are never drawn together: the same budget means another thing in each.
    """
    from matplotlib import pyplot

    ran = data.begun
    budgeted = [s for s in settings if s.kl_budget and ran & set(s.run_ids.values())]
    budgeted = [s for s in budgeted if s.key in request.named] or budgeted
    kinds = sorted({s.kind for s in budgeted}, key=lambda k: (k != "trb", k))
    if len(kinds) > 1 and (request.arms or request.named):
        raise UsageError(
            f"blocks.{request.name}: trust_region draws arms of one kind, since a budget means another thing in each; "
            f"chosen are {', '.join(kinds)}. Make a block for each."
        )
    trb = [s for s in budgeted if s.kind in kinds[:1]]
    chosen, styles = _chosen(trb, request.named)
    if not chosen or "policy/schedule" not in data.curves:
        return None
    bands = {(s.key, m): seed_bands(data, s, m) for s in chosen for m in METRICS}
    last = max(s.horizon_steps for s in chosen)
    shown = min(request.steps or last + max(2, last // 4), max(s.steps for s in chosen))
    lines, columns = (4, 1) if look().narrow else (2, 2)
    size = (look().width, look().height((1.8 if look().narrow else 2.4) * lines))
    figure, grid = pyplot.subplots(lines, columns, figsize=size, sharex=True)
    schedule_kl, beta, redraw, entropy = grid.flat
    for setting in chosen:
        colour, dash = styles[setting.key]
        limits = (setting, bands, shown, colour, dash)
        schedule = _early(bands[setting.key, "policy/schedule"], shown)
        active = schedule[schedule["mean"] > 0]
        schedule_kl.plot(
            active["step"],
            active["mean"],
            color=colour,
            linestyle=dash,
            linewidth=0.5 * look().line,
            alpha=0.7,
        )
        _panel(schedule_kl, *limits, "policy/kl_mean", 1, positive=True)
        _panel(beta, *limits, "policy/beta_mean", 1)
        _panel(redraw, *limits, "policy/redraw_rate", 100)
        bound = 100 * np.sqrt(schedule["mean"].to_numpy(dtype=float) / 2)
        redraw.plot(
            schedule["step"], bound, color=colour, linestyle=dash, linewidth=0.5 * look().line, alpha=0.7
        )
        _panel(entropy, *limits, ENTROPY, 1)
    reference = reference_setting(settings)
    if reference is not None:
        bands[reference.key, ENTROPY] = seed_bands(data, reference, ENTROPY)
        _panel(entropy, reference, bands, shown, INK, (0, (4, 2)), ENTROPY, 1)
    _titles(list(grid.flat), grid[-1:].flat, shown)
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
    return request.save(figure, pd.concat(tables, ignore_index=True), "What the trust region did", caption)


def _chosen(
    trb: list[Setting], named: Collection[str]
) -> tuple[list[Setting], dict[str, tuple[str, object]]]:
    """Up to MAX_BUDGETS budgets x MAX_HORIZONS horizons (ends and evenly between), or the settings that are named:
    colour a budget, dashes a horizon.
    """
    wanted = [s for s in trb if s.key in named]
    budgets = sorted({s.kl_budget for s in wanted or trb if s.kl_budget})
    horizons = sorted({s.horizon_steps for s in wanted or trb}, reverse=True)
    if not wanted:
        budgets, horizons = _spread(budgets, MAX_BUDGETS), _spread(horizons, MAX_HORIZONS)
    colours = dict(zip(budgets, ramp(len(budgets)), strict=True))
    dashes = {h: DASHES[i % len(DASHES)] for i, h in enumerate(horizons)}
    if wanted and not _told_apart(wanted):
        return wanted, {s.key: (SERIES[i % len(SERIES)], "-") for i, s in enumerate(wanted)}
    if wanted:
        wanted = sorted(wanted, key=lambda s: (s.kl_budget or 0.0, s.horizon_steps))
        return wanted, {s.key: (colours[s.kl_budget or 0.0], dashes[s.horizon_steps]) for s in wanted}
    first: dict[tuple, Setting] = {}
    for setting in trb:
        if setting.kl_budget in colours and setting.horizon_steps in dashes:
            first.setdefault((setting.kl_budget, setting.horizon_steps), setting)
    chosen = [first[k] for k in sorted(first)]
    return chosen, {s.key: (colours[s.kl_budget or 0.0], dashes[s.horizon_steps]) for s in chosen}


def _told_apart(chosen: list[Setting]) -> bool:
    """Whether budget and horizon do; settings may differ in the anneal alone."""
    return len({(s.kl_budget, s.horizon_steps) for s in chosen}) == len(chosen)


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


def _titles(panels: list[Axes], lowest: Iterable[Axes], shown: int) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    titles = [
        "KL(mu || p), nats a token (log)",
        "beta (0 student, 1 teacher)",
        "redraw rate (%)",
        "teacher entropy (nats)",
    ]
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title)
    divergence, beta, redraw, _ = panels
    divergence.set_xlim(0, max(1, shown - 1))
    divergence.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    divergence.set_yscale("log")
    low, high = divergence.get_ylim()
    decades = math.log10(high / low)
    divergence.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < FEW_DECADES else (1,)))
    divergence.yaxis.set_minor_locator(NullLocator())
    # The formatters of a log scale write mathtext, which the style leaves unparsed.
    divergence.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    for axes in (beta, redraw):
        axes.set_ylim(bottom=0)
    for axes in lowest:
        axes.set_xlabel("training step (0-based)")


def _legend(figure: Figure, chosen: list[Setting], styles: dict, reference: Setting | None) -> None:
    """Budgets by colour and horizons by dash, named once below all panels."""
    from matplotlib.lines import Line2D

    handles: dict[str, Line2D] = {}
    apart = _told_apart(chosen)
    for setting in chosen:
        told = f"budget {setting.kl_budget:g}" if apart else setting.title
        handles.setdefault(told, Line2D([], [], color=styles[setting.key][0]))
    if apart and len({s.horizon_steps for s in chosen}) > 1:
        for setting in chosen:
            line = Line2D([], [], color=MUTED, linestyle=styles[setting.key][1])
            handles.setdefault(f"horizon {setting.horizon_steps}", line)
    handles["budget, bound"] = Line2D([], [], color=MUTED, linewidth=0.5 * look().line)
    if reference is not None:
        handles[reference.title] = Line2D([], [], color=INK, linestyle=(0, (4, 2)))
    below(figure, list(handles.values()), list(handles))
