"""Best score over training of every setting, one panel an arm with a grid (the paper's figures 5 and 6).

The grid's first key groups the settings along the axis (TRB: the horizon), the second colours them, further ones mark
them. The reference arm is a dashed line across all panels of its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from .best_scores import Layout, best_over_training, grid_layout, ordered
from .palette import INK, MARKERS, MUTED, RAMP, SERIES, ramp
from .plot_budget import bars, limits, score_label
from .plot_layout import below, panels
from .plot_request import Request, View
from .plot_style import FigureFiles
from .plot_venue import look
from .settings import Setting, reference_setting
from .stats import Interval, SeedScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_GROUPS = 8
"""Groups that have their value below them; of more, every second or third has."""
SPREAD = 0.62
"""Share of a group's room that its points take."""


@dataclass(frozen=True)
class Panel:
    """Settings of one arm, or the settings of all arms that have one each."""

    view: View
    title: str
    settings: list[Setting]
    layout: Layout | None
    """None where each setting is an arm."""


def best_figure(views: Sequence[View], request: Request) -> FigureFiles | None:
    """None where no setting has an evaluated checkpoint of a completed seed."""
    scores = {
        (v.source.name, key): found
        for v in views
        for key, found in best_over_training(v.source.data, v.settings).items()
        if found
    }
    shown = [p for v in views for p in _panels(v, {key for name, key in scores if name == v.source.name})]
    if not shown:
        return None
    colours, marks = _legend_of(shown)
    figure, grid = panels(len(shown), 2.7 if len(shown) > 1 else 3.5, in_a_column=2)
    rows: list[dict[str, Any]] = []
    for panel, (axes,) in zip(shown, grid, strict=True):
        mine = {key: found for (name, key), found in scores.items() if name == panel.view.source.name}
        rows += _draw(axes, panel, mine, colours, marks, several=len(views) > 1)
    for name in dict.fromkeys(p.view.source.name for p in shown):
        own = [r for r in rows if r["source"] == name]
        for panel, (axes,) in zip(shown, grid, strict=True):
            if panel.view.source.name == name:
                axes.set_ylim(*limits(own))
    handles = _handles(shown, colours, marks)
    below(figure, list(handles.values()), list(handles))
    caption = (
        "Best score over training: of each seed the highest mean over the evaluation sets of any evaluated checkpoint; "
        f"points are means over seeds, bars Student-t {look().coverage} intervals over seeds (none where one seed "
        "finished). The best of many noisy checkpoints is too high, for every setting alike, and the best setting of "
        "the figure is too high again: the selection table corrects for both."
    )
    return request.save(figure, pd.DataFrame(rows), "Best score over training", caption)


def _panels(view: View, scored: set[str]) -> list[Panel]:
    """One an arm with a grid, and one of all other arms; the reference has none where it is a line."""
    by_arm: dict[str, list[Setting]] = {}
    for setting in view.settings:
        if setting.key in scored:
            by_arm.setdefault(setting.arm, []).append(setting)
    single = [g[0] for g in by_arm.values() if len(g) == 1 and not g[0].is_reference]
    found = [
        Panel(view, group[0].label, group, grid_layout(view.source.data, group))
        for group in by_arm.values()
        if len(group) > 1
    ]
    if single:
        found.append(Panel(view, "one setting each" if found else "", single, None))
    return found


def _legend_of(shown: Sequence[Panel]) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    """Key -> value -> colour, and key -> value -> marker: the same value looks the same in every panel."""
    colour_values: dict[str, list[str]] = {}
    mark_values: dict[str, list[str]] = {}
    for panel in shown:
        if panel.layout is not None:
            colour_values.setdefault(panel.layout.colour_key, []).extend(panel.layout.values("colour"))
            mark_values.setdefault(panel.layout.mark_key, []).extend(panel.layout.values("mark"))
    colours = {}
    for key, values in colour_values.items():
        found = ordered(values)
        shades = ramp(len(found)) if len(found) <= len(RAMP) and _numbers(found) else SERIES
        if key and len(found) <= len(shades):
            colours[key] = dict(zip(found, shades, strict=False))
    marks = {
        key: dict(zip(found, MARKERS, strict=False))
        for key, values in mark_values.items()
        if key and len(found := ordered(values)) <= len(MARKERS)
    }
    return colours, marks


def _numbers(values: Sequence[str]) -> bool:
    try:
        return all(float(v) == float(v) for v in values)
    except ValueError:
        return False


def _draw(
    axes: Axes,
    panel: Panel,
    scores: dict[str, SeedScores],
    colours: dict[str, dict[str, str]],
    marks: dict[str, dict[str, str]],
    several: bool,
) -> list[dict[str, Any]]:
    """Draws a panel; returns its rows."""
    data = panel.view.source.data
    reference = reference_setting(panel.view.settings)
    rows: list[dict[str, Any]] = []
    if reference is not None and reference.key in scores:
        interval = look().interval(list(scores[reference.key].values()))
        down, up = (side[0] for side in bars([interval]))
        axes.axhline(100 * interval.mean, color=INK, linestyle="--", linewidth=0.9 * look().line)
        axes.axhspan(
            100 * interval.mean - down, 100 * interval.mean + up, color=MUTED, alpha=0.16, linewidth=0
        )
        rows.append(_row(panel, reference, interval, "", "", ""))
    groups = panel.layout.values("group") if panel.layout else [s.label for s in panel.settings]
    alike: dict[tuple[str, str], list[tuple[float, Interval]]] = {}
    """Colour and marker -> place and interval of the settings that look so, drawn as one artist."""
    offsets = _offsets(panel.layout) if panel.layout else {}
    for setting in panel.settings:
        interval = look().interval(list(scores[setting.key].values()))
        x, colour, marker = float(groups.index(setting.label)) if not panel.layout else 0.0, SERIES[0], "o"
        group, second, third = setting.label, "", ""
        if panel.layout is not None:
            place = panel.layout.places[setting.key]
            group, second, third = place.group, place.colour, place.mark
            x = groups.index(group) + offsets[second, third]
            colour = colours.get(panel.layout.colour_key, {}).get(second, colour)
            marker = marks.get(panel.layout.mark_key, {}).get(third, marker)
        alike.setdefault((colour, marker), []).append((x, interval))
        rows.append(_row(panel, setting, interval, group, second, third))
    for (colour, marker), points in alike.items():
        intervals = [interval for _, interval in points]
        axes.errorbar(
            [x for x, _ in points],
            [100 * interval.mean for interval in intervals],
            yerr=bars(intervals),
            color=colour,
            marker=marker,
            linestyle="",
            capsize=0.3 * look().mark,
            elinewidth=0.6 * look().line,
        )
    _dress(axes, panel, groups, several)
    slot = axes.get_subplotspec()
    if slot is None or slot.is_first_col():
        axes.set_ylabel(score_label(data))
    return rows


def _offsets(layout: Layout) -> dict[tuple[str, str], float]:
    """(colour, mark) -> distance from the group's middle: settings of one group stand side by side."""
    pairs = [(colour, mark) for colour in layout.values("colour") for mark in layout.values("mark")]
    last = len(pairs) - 1
    return {pair: SPREAD * (place / last - 0.5) if last else 0.0 for place, pair in enumerate(pairs)}


def _dress(axes: Axes, panel: Panel, groups: list[str], several: bool) -> None:
    every = -(-len(groups) // MOST_GROUPS) if panel.layout else 1
    ticks = list(range(0, len(groups), every))
    axes.set_xticks(ticks, [groups[i] for i in ticks])
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.grid(axis="x", visible=False)
    edges = [edge - 0.5 for edge in range(1, len(groups))]
    axes.vlines(
        edges,
        0,
        1,
        transform=axes.get_xaxis_transform(),
        color=MUTED,
        alpha=0.25,
        linewidth=0.3 * look().line,
    )
    if panel.layout:
        axes.set_xlabel({"steps": "horizon (steps)"}.get(panel.layout.group_key, panel.layout.group_key))
    axes.set_title(": ".join(t for t in (panel.view.label * several, panel.title) if t))


def _handles(
    shown: Sequence[Panel], colours: dict[str, dict[str, str]], marks: dict[str, dict[str, str]]
) -> dict[str, Any]:
    from matplotlib.lines import Line2D

    handles: dict[str, Any] = {}
    for panel in shown:
        reference = reference_setting(panel.view.settings)
        if reference is not None:
            handles.setdefault(reference.title, Line2D([], [], color=INK, linestyle="--"))
    for key, values in colours.items():
        for value, colour in values.items():
            handles[f"{key}={value}"] = Line2D([], [], color=colour, marker="o", linestyle="")
    for key, values in marks.items():
        for value, marker in values.items():
            handles[f"{key}={value}"] = Line2D([], [], color=MUTED, marker=marker, linestyle="")
    return handles


def _row(
    panel: Panel, setting: Setting, interval: Interval, group: str, colour: str, mark: str
) -> dict[str, Any]:
    return {
        "source": panel.view.source.name,
        "panel": panel.title,
        "setting": setting.key,
        "group": group,
        "colour": colour,
        "mark": mark,
        "pass_at_1": interval.mean,
        "half_width": interval.half_width,
        "num_seeds": interval.n,
    }
