"""Score against what training cost, in seconds and in tokens through the teacher: at the end, and on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from .collect import CURVE_SCORE, SweepData
from .cost_table import mean_costs, quantity
from .palette import MARKERS, colours_of
from .plot_budget import bars, limits, reference_band, score_label
from .plot_curves import choice_caption, draw_line, drawn_settings, line_styles
from .plot_layout import below, entries
from .plot_request import Request, View
from .plot_style import FigureFiles
from .plot_venue import look
from .settings import Setting, reference_setting
from .stats import Interval, mean
from .step_costs import costs_by_update

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .sources import Source

PANELS = {"seconds": "seconds of training", "teacher_tokens": "tokens through the teacher"}
LOG_FROM = 10.0
"""Largest over smallest cost from which on the axis is logarithmic."""
Looks = dict[str, tuple[str, str]]
"""Arm -> colour and marker, the same in all panels."""
ASIDE = 0.008
"""Distance between two arms of the same cost, as a share of the axis."""


def cost_figure(view: View, request: Request) -> FigureFiles | None:
    """Above, one point a setting with the reference as a dashed line; below, where steps have ledgers, the score on the
    way. None where no finished setting has a ledger.
    """
    from matplotlib import pyplot

    data, settings = view.source.data, view.settings
    costs = {s.key: mean_costs(data, s) for s in settings if s.mean_scores()}
    shown = [s for s in settings if costs.get(s.key)]
    if not shown:
        return None
    chosen = drawn_settings(data, shown, request.named, one_an_arm=True)
    along = {s.key: frame for s in chosen if not (frame := score_along(view.source, s)).empty}
    parts = 1 + bool(along)
    if look().narrow:
        size = (look().width, look().height(2.2 * 2 * parts))
        figure, grid = pyplot.subplots(2 * parts, 1, figsize=size, squeeze=False)
        lines = [list(grid[2 * i : 2 * i + 2, 0]) for i in range(parts)]
    else:
        size = (look().width, look().height(2.9 * parts))
        figure, grid = pyplot.subplots(parts, 2, figsize=size, squeeze=False, sharey="row")
        lines = [list(line) for line in grid]
    colours = colours_of({s.arm: s.kind for s in shown})
    looks = {arm: (colour, MARKERS[i % len(MARKERS)]) for i, (arm, colour) in enumerate(colours.items())}
    rows = _final(lines[0], data, settings, shown, costs, looks)
    if along:
        rows += _on_the_way(lines[1], data, [s for s in chosen if s.key in along], along, looks)
    below(figure, *entries([lines[0][0]]))
    caption = (
        "Final score against the cost of training, evaluation left out: one point a setting, means over its finished "
        f"seeds; bars and band: Student-t {look().coverage} interval over seeds (none where one seed finished). "
        "Seconds depend "
        "on the machine and on what else ran there; tokens do not. Arms are drawn a little beside each other, so that "
        "equal costs do not hide one behind another."
    )
    if along:
        caption += (
            " Below: the score at each evaluation during training against what had been spent by then, means over "
            "seeds; what an arm spends before its first step counts."
            + choice_caption(shown, [s for s in chosen if s.key in along], request.named)
        )
    return request.save(figure, pd.DataFrame(rows), "Score against cost", caption)


def score_along(source: Source, setting: Setting) -> pd.DataFrame:
    """Columns updates, seconds, teacher_tokens, mean, low, high, num_seeds of a setting's evaluations: means over its
    completed seeds, at the evaluations that all of them have. Empty where a step of one of them has no ledger.
    """
    runs = [run for seed, run in sorted(setting.run_ids.items()) if setting.states[seed] == "completed"]
    spent = [costs_by_update(source.store.trial(run)) for run in runs]
    scores = []
    for run in runs:
        curve = source.data.curves_of([run])
        known = curve.dropna(subset=[CURVE_SCORE]) if CURVE_SCORE in curve else curve.iloc[:0]
        scores.append(
            {int(s) + 1: float(v) for s, v in zip(known["step"], known.get(CURVE_SCORE, []), strict=True)}
        )
    common = (
        set[int].intersection(*(set(a) & set(b) for a, b in zip(spent, scores, strict=True))) if runs else ()
    )
    rows = []
    for updates in sorted(common):
        interval = look().interval([s[updates] for s in scores])
        rows.append(
            {
                "updates": updates,
                **{column: mean(s[updates][column] for s in spent) for column in PANELS},
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "num_seeds": interval.n,
            }
        )
    return pd.DataFrame(rows)


def _final(
    panels: Sequence[Axes],
    data: SweepData,
    settings: list[Setting],
    shown: Sequence[Setting],
    costs: dict[str, dict[str, float]],
    looks: Looks,
) -> list[dict[str, Any]]:
    """Draws the scores at the end; returns their rows."""
    reference = reference_setting(settings)
    rows = [_row(s, costs[s.key]) for s in shown]
    if reference is not None and reference.mean_scores() and reference not in shown:
        rows.append(_row(reference, {}))
    arms = {s.arm: s for s in reversed(shown)}
    for axes, (column, title) in zip(panels, PANELS.items(), strict=True):
        reference_band(axes, reference)
        every = [costs[s.key][column] for s in shown]
        for nth, (arm, (colour, marker)) in enumerate(looks.items()):
            group = [s for s in shown if s.arm == arm]
            intervals = [look().interval(list(s.mean_scores().values())) for s in group]
            axes.errorbar(
                _aside([costs[s.key][column] for s in group], every, nth - (len(looks) - 1) / 2),
                [100 * v.mean for v in intervals],
                yerr=bars(intervals),
                label=arms[arm].label,
                color=colour,
                marker=marker,
                linestyle="",
                capsize=0.4 * look().mark,
                elinewidth=0.5 * look().line,
            )
        axes.set_xlabel(title + _scale(axes, every))
        axes.set_ylim(*limits(rows))
        if axes is panels[0] or look().narrow:
            axes.set_ylabel(score_label(data))
    return rows


def _on_the_way(
    panels: Sequence[Axes],
    data: SweepData,
    chosen: list[Setting],
    along: dict[str, pd.DataFrame],
    looks: Looks,
) -> list[dict[str, Any]]:
    """Draws the scores during training; returns their rows."""
    styles = line_styles(chosen)
    for axes, (column, title) in zip(panels, PANELS.items(), strict=True):
        for setting in chosen:
            frame = along[setting.key]
            colour, marker = looks[setting.arm]
            line = replace(styles[setting.key], colour=colour, marker=marker)
            draw_line(axes, frame, frame[column], 100, None, line, True, band=False)
        _scale(axes, [0.0, 1.0])
        axes.set_xlabel(f"{title}, until then")
        if axes is panels[0] or look().narrow:
            axes.set_ylabel(score_label(data))
    return [
        {
            "setting": s.key,
            "arm": s.arm,
            "panel": "training",
            "updates": row["updates"],
            **{column: row[column] for column in PANELS},
            "pass_at_1": row["mean"],
            "half_width": None if row["high"] is None else row["high"] - row["mean"],
            "num_seeds": row["num_seeds"],
        }
        for s in chosen
        for row in along[s.key].to_dict("records")
    ]


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
    interval: Interval = look().interval(list(setting.mean_scores().values()))
    return {
        "setting": setting.key,
        "arm": setting.arm,
        "panel": "final",
        "updates": setting.steps,
        **{column: costs.get(column) for column in PANELS},
        "pass_at_1": interval.mean,
        "half_width": interval.half_width,
        "num_seeds": interval.n,
    }
