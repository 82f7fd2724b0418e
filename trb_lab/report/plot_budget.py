"""Figure 1: final score against the KL budget, one line a horizon, the reference arm as a dashed line with
its band.

A budget that is annealed and one that stays for the whole run are different things: an arm has lines of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pandas as pd

from .collect import MEAN, SweepData
from .palette import INK, MARKERS, MUTED, RAMP, SERIES, colours_of, ramp
from .plot_layout import below, entries
from .plot_request import Request
from .plot_style import FigureFiles
from .plot_venue import look
from .settings import Setting, reference_setting, setting_key
from .stats import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes


SAID = ("kl_budget", "steps")
"""Keys of a grid that the axis and the horizon say."""


def series_of(data: SweepData, settings: list[Setting]) -> dict[str, list[Setting]]:
    """Settings that differ in their budget alone, in the order of horizons; label -> settings by budget."""
    trials = data.plan.get("trials", [])
    specs = {setting_key(t["arm"], t.get("setting") or ""): t.get("spec") or {} for t in trials}
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        if setting.kl_budget is not None and setting.mean_scores():
            spec: dict[str, Any] = dict(specs[setting.key])
            warmup = {k: v for k, v in (spec.get("warmup") or {}).items() if k != "kl_budget"}
            rest = {k: v for k, v in spec.items() if k not in ("seed", "warmup", "name")}
            key = json.dumps([setting.arm, warmup, rest], sort_keys=True)
            groups.setdefault(key, []).append(setting)
    ordered = sorted(
        groups.values(), key=lambda g: (g[0].kind != "trb", g[0].arm, g[0].horizon_steps, g[0].key)
    )
    several_arms = len({g[0].arm for g in ordered}) > 1
    labelled: dict[str, list[Setting]] = {}
    for group in ordered:
        first = group[0]
        lasting = f"horizon {first.horizon_steps} steps" if first.warms_up else "whole run"
        further = " ".join(p for p in first.point.split() if p.partition("=")[0] not in SAID)
        label = f"{first.label}, " * several_arms + f"{further}, " * bool(further) + lasting
        if label in labelled:
            label = first.title
        labelled[label] = sorted(group, key=lambda s: s.kl_budget or 0.0)
    return labelled


def budget_figure(data: SweepData, settings: list[Setting], request: Request) -> FigureFiles | None:
    """None where the sweep has no finished setting with a positive KL budget."""
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullLocator

    series = {k: [s for s in v if s.kl_budget] for k, v in series_of(data, settings).items()}
    series = {k: v for k, v in series.items() if v}
    if not series:
        return None
    figure, axes = pyplot.subplots(figsize=(look().width, look().height(3.5)))
    reference = reference_setting(settings)
    rows = []
    if (interval := reference_band(axes, reference)) is not None and reference is not None:
        rows.append(_csv_row(reference.title, None, reference.horizon_steps, interval))
    budgets = sorted({s.kl_budget or 0.0 for group in series.values() for s in group})
    drawn = _colours(series)
    beside = _beside(budgets, len(series))
    for i, (label, group) in enumerate(series.items()):
        intervals = [look().interval(list(s.mean_scores().values())) for s in group]
        xs = [(s.kl_budget or 0.0) * beside ** (i - (len(series) - 1) / 2) for s in group]
        axes.errorbar(
            xs,
            [100 * v.mean for v in intervals],
            yerr=bars(intervals),
            label=label,
            color=drawn[label],
            linestyle="-" if group[0].warms_up else "--",
            marker=MARKERS[i % len(MARKERS)],
            capsize=0.6 * look().mark,
            elinewidth=0.7 * look().line,
        )
        rows += [
            _csv_row(label, s.kl_budget, s.horizon_steps, v) for s, v in zip(group, intervals, strict=True)
        ]
    axes.set_xscale("log")
    axes.set_xticks(budgets)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    room = 1.18 * beside ** (len(series) / 2)
    axes.set_xlim(budgets[0] / room, budgets[-1] * room)
    axes.set_ylim(*limits(rows))
    axes.set_xlabel("KL budget, initial where it is annealed (nats a token, log scale)")
    axes.set_ylabel(score_label(data))
    below(figure, *entries([axes]))
    caption = (
        f"Final score against the KL budget. Bars and band: Student-t {look().coverage} interval over seeds (none "
        "where one seed finished), within 0 and 100 %. Points at one budget are set side by side. Whole run: the "
        "budget is not annealed."
    )
    return request.save(figure, pd.DataFrame(rows), "Score against KL budget", caption)


def _beside(budgets: Sequence[float], lines: int) -> float:
    """Factor between two lines at one budget, so that their intervals stand side by side: all lines together take at
    most half of the way to the next budget.
    """
    nearest = min([b / a for a, b in pairwise(budgets)], default=2.0)
    return min(1.05, nearest ** (0.5 / max(1, lines - 1)))


def _colours(series: dict[str, list[Setting]]) -> dict[str, str]:
    """Horizons of an arm with several lines lie on the ramp, as long as it has enough shades; an arm with one line has
    its own colour.
    """
    by_arm: dict[str, list[str]] = {}
    for label, group in series.items():
        by_arm.setdefault(group[0].arm, []).append(label)
    own = colours_of({group[0].arm: group[0].kind for group in series.values()})
    colours: dict[str, str] = {}
    on_ramp = max(by_arm, key=lambda arm: len(by_arm[arm]))
    for arm, labels in by_arm.items():
        shades = ramp(len(labels)) if len(labels) <= len(RAMP) else [*SERIES, *ramp(len(labels))]
        shades = shades[: len(labels)] if arm == on_ramp else [own[arm]] * len(labels)
        colours |= dict(zip(labels, shades, strict=True))
    return colours


def bars(intervals: Sequence[Interval]) -> list[list[float]]:
    """Lengths of error bars in percent, below and above the means; a score cannot lie outside 0 and 100."""
    return [
        [100 * min(v.half_width or 0.0, v.mean) for v in intervals],
        [100 * min(v.half_width or 0.0, 1.0 - v.mean) for v in intervals],
    ]


def reference_band(axes: Axes, reference: Setting | None) -> Interval | None:
    """The reference arm across the axes: dashed, with its interval, which is returned."""
    if reference is None or not reference.mean_scores():
        return None
    interval = look().interval(list(reference.mean_scores().values()))
    level = 100 * interval.mean
    below_it, above = (side[0] for side in bars([interval]))
    axes.axhline(level, color=INK, linestyle="--", linewidth=0.9 * look().line, label=reference.title)
    axes.axhspan(level - below_it, level + above, color=MUTED, alpha=0.16, linewidth=0)
    return interval


def score_label(data: SweepData) -> str:
    return f"pass@1 (%), mean of {len(data.mean_sets)} sets" if len(data.mean_sets) > 1 else "pass@1 (%)"


def _csv_row(label: str, budget: float | None, horizon: int, interval: Interval) -> dict[str, Any]:
    return {
        "series": label,
        "kl_budget": budget,
        "horizon_steps": horizon,
        "set": MEAN,
        "pass_at_1": interval.mean,
        "half_width": interval.half_width,
        "num_seeds": interval.n,
    }


def limits(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Limits that show every mean with its whole interval (columns pass_at_1 and half_width), and some room."""
    intervals = [Interval(r["pass_at_1"], r["half_width"], r["num_seeds"]) for r in rows]
    below_it, above = bars(intervals)
    low = min(100 * v.mean - length for v, length in zip(intervals, below_it, strict=True))
    high = max(100 * v.mean + length for v, length in zip(intervals, above, strict=True))
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin
