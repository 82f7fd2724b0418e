"""Where in its space a search found what: one panel a parameter, and all parameters side by side.

Colours come in at most six steps of the palette's ramp, so that the page's dark mode can recolour them; violet is late
in the slices and good in the parallel coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .palette import INK, MUTED, SHADE, ramp
from .plot_layout import CHARACTER
from .plot_style import FigureFiles, save
from .plot_venue import look
from .search_data import COMPLETE, PAUSED, Candidate, Goal, Search
from .search_space import Axis, axes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
MOST_PANELS = 12
"""Parameters of one figure: the most important ones where there are more."""
SHADES = 6
LONGEST_TICK = 16
INCHES_AN_AXIS = 0.62
"""Of parallel coordinates."""
ABSENT = -0.13
"""Where a parallel line passes an axis that its setting does not have."""


def shown_axes(search: Search, most: int = MOST_PANELS) -> list[Axis]:
    """The parameters that a figure with room for `most` shows."""
    axes = axes_of(search)
    if len(axes) <= most:
        return axes
    weights = (search.raw.get("importance") or {}).get(search.goal.metric) or {}
    kept = sorted(axes, key=lambda a: -float(weights.get(a.key) or 0.0))[:most]
    return [a for a in axes if a in kept]


def slice_figures(search: Search, out: Path) -> list[FigureFiles]:
    """One figure a goal; none where no setting has a value."""
    figures = [_slices(search, goal, nth, out) for nth, goal in enumerate(search.goals)]
    return [f for f in figures if f is not None]


def _slices(search: Search, goal: Goal, nth: int, out: Path) -> FigureFiles | None:
    from matplotlib import pyplot

    parameters = shown_axes(search)
    points = [(c, v) for c in search.candidates if (v := _value(search, c, goal)) is not None]
    if not points or not parameters:
        return None
    columns = look().columns(len(parameters), 2 if len(parameters) == 4 else COLUMNS)
    lines = math.ceil(len(parameters) / columns)
    figure, grid = pyplot.subplots(
        lines, columns, figsize=(look().width, look().height(0.7 + 2.3 * lines)), sharey=True, squeeze=False
    )
    edges = _even_edges([c.number for c, _ in points])
    colours = ramp(len(edges) - 1)[::-1]
    rows = []
    for i, panel in enumerate(grid.flat):
        if i >= len(parameters):
            panel.set_visible(False)
            continue
        axis = parameters[i]
        for c, value in points:
            at = axis.at(c.params[axis.key]) if axis.key in c.params else None
            if at is None:
                continue
            panel.plot([at], [goal.scale * value], **_mark(c, colours[_step(edges, c.number)]))
            rows.append(
                {
                    "parameter": axis.key,
                    "number": c.number,
                    "position": at,
                    "label": axis.text(c.params[axis.key]),
                    "goal": goal.metric,
                    "value": value,
                    "state": c.state,
                    "feasible": int(c.feasible),
                }
            )
        _dress(panel, axis, _room() // columns)
        if i % columns == 0:
            panel.set_ylabel(goal.title)
    _colour_bar(figure, grid, colours, edges, "number of the setting", _spans(edges))
    caption = (
        f"{goal.metric} against each parameter alone, from green (tried early) to violet (late). Other parameters "
        "differ between the points, so this shows no effect of one parameter by itself."
    )
    if len(axes_of(search)) > len(parameters):
        caption += f" The {len(parameters)} most important of {len(axes_of(search))} parameters."
    if any(c.state == PAUSED for c, _ in points):
        caption += " Triangles: paused, at the value of their last stop."
    if any(not c.feasible for c, _ in points):
        caption += " Hollow: outside the constraints."
    name = f"search_{search.slug}_slices" + (f"_{nth + 1}" if nth else "")
    title = "Value by parameter" + (f": {goal.metric}" if len(search.goals) > 1 else "")
    return save(figure, pd.DataFrame(rows), out, name, title, caption)


def _value(search: Search, candidate: Candidate, goal: Goal) -> float | None:
    """Of a complete setting, or of a paused one at its last stop."""
    if candidate.state == COMPLETE:
        return candidate.mean(goal)
    if candidate.state == PAUSED and len(search.goals) == 1 and candidate.last_stop is not None:
        return candidate.stops[candidate.last_stop]
    return None


def _mark(candidate: Candidate, colour: str) -> dict[str, Any]:
    if candidate.state == PAUSED:
        return {"marker": "v", "color": colour, "alpha": 0.45, "markersize": 0.8 * look().mark, "zorder": 2}
    fill = {} if candidate.feasible else {"markerfacecolor": "none"}
    return {"marker": "o", "color": colour, "markersize": 1.1 * look().mark, "zorder": 3, **fill}


def _dress(panel: Axes, axis: Axis, room_for: int) -> None:
    """Scale, ticks and name of a panel's parameter; names of choices slant where they have more characters."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    if axis.log:
        panel.set_xscale("log")
        room = (axis.high / axis.low) ** 0.06
        panel.set_xlim(axis.low / room, axis.high * room)
    else:
        room = 0.5 if axis.choices else 0.06 * (axis.high - axis.low)
        panel.set_xlim(axis.low - room, axis.high + room)
    ticks = axis.ticks(3 if axis.log and room_for < _room() // 2 else 5)
    panel.xaxis.set_major_locator(FixedLocator([at for at, _ in ticks]))
    panel.xaxis.set_major_formatter(FixedFormatter([_short(label) for _, label in ticks]))
    panel.xaxis.set_minor_locator(NullLocator())
    if axis.choices and sum(len(_short(label)) + 2 for _, label in ticks) > room_for:
        panel.tick_params(axis="x", rotation=40)
        for label in panel.get_xticklabels():
            label.set_horizontalalignment("right")
            label.set_rotation_mode("anchor")
    panel.set_xlabel(middle_cut(axis.name, room_for - 11) + " (log)" * axis.log)


def _room() -> int:
    """Characters side by side in the width of a figure."""
    return int(72 * look().width / (CHARACTER * look().small))


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_TICK else label[: LONGEST_TICK - 1] + "…"


def middle_cut(text: str, longest: int) -> str:
    """A long name without its middle: both ends tell names apart."""
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2]}…{text[-(longest - longest // 2 - 1) :]}"


def parallel_figure(search: Search, out: Path) -> FigureFiles | None:
    """None where no setting has run to the end, or there is one parameter alone."""
    from matplotlib import pyplot

    room = int(look().width / INCHES_AN_AXIS) - len(search.goals)
    parameters, complete = shown_axes(search, max(2, min(MOST_PANELS, room))), search.measured
    if not complete or len(parameters) < 2:
        return None
    goal = search.goal
    scales = [_goal_axis(search, g) for g in search.goals]
    edges = _quantile_edges([goal.scale * v for c in complete if (v := c.mean(goal)) is not None])
    colours = ramp(len(edges) - 1)[:: -1 if goal.maximize else 1]
    n = len(parameters) + len(scales)
    figure, axes = pyplot.subplots(figsize=(look().width, look().height(4.3)))
    crowded = look().width / n < 14 * CHARACTER * look().small / 72
    rows = []
    paused = [c for c in search.candidates if c.state == PAUSED]
    ordered = sorted(complete, key=lambda c: goal.better(c.mean(goal) or 0.0))
    absent: set[str] = set()
    for c in [*paused, *ordered]:
        heights = [axis.share(c.params[axis.key]) if axis.key in c.params else None for axis in parameters]
        absent |= {a.key for a, h in zip(parameters, heights, strict=True) if h is None}
        texts = {a.key: a.text(c.params[a.key]) for a in parameters if a.key in c.params}
        places = [ABSENT if h is None else h for h in heights]
        value = c.mean(goal) if c.state == COMPLETE else None
        if value is None:
            axes.plot(
                range(len(places)), places, color=MUTED, linewidth=0.5 * look().line, alpha=0.3, zorder=1
            )
        else:
            ends = zip(search.goals, scales, (c.mean(g) for g in search.goals), strict=True)
            places += [axis.share(g.scale * (m or 0.0)) or 0.0 for g, axis, m in ends]
            best = search.best is c and len(search.goals) == 1
            axes.plot(
                range(len(places)),
                places,
                color=colours[_step(edges, goal.scale * value)],
                linewidth=(1.6 if best else 0.8) * look().line,
                linestyle="-" if c.feasible else (0, (2, 1.6)),
                alpha=1.0 if best else 0.85,
                zorder=3 if best else 2,
            )
        rows.append(
            {
                "number": c.number,
                "state": c.state,
                "feasible": int(c.feasible),
                **{a.key: texts.get(a.key) for a in parameters},
                **{g.metric: c.mean(g) if c.state == COMPLETE else None for g in search.goals},
            }
        )
    for x, axis in enumerate([*parameters, *scales]):
        _draw_axis(axes, x, axis, axis.key in absent, crowded)
    axes.set_xlim(-0.35, n - 0.55)
    axes.set_ylim((ABSENT if absent else 0) - 0.06, 1.12)
    axes.axis("off")
    _colour_bar(figure, axes, colours, edges, goal.title, [f"{e:.3g}" for e in edges])
    caption = (
        f"One line a setting, coloured by {goal.metric} from green to violet as it gets better; each shade holds "
        "equally many."
    )
    if len(axes_of(search)) > len(parameters):
        caption += f" The {len(parameters)} most important of {len(axes_of(search))} parameters."
    if paused:
        caption += " Pale lines: paused, without a final value."
    if any(not c.feasible for c in complete):
        caption += " Broken lines: outside the constraints."
    if absent:
        caption += " Lines pass below an axis (none) where the parameter does not take part."
    return save(
        figure,
        pd.DataFrame(rows),
        out,
        f"search_{search.slug}_parallel",
        "All parameters side by side",
        caption,
    )


def _goal_axis(search: Search, goal: Goal) -> Axis:
    values = [goal.scale * v for c in search.measured if (v := c.mean(goal)) is not None]
    return Axis("", goal.title, min(values), max(values))


def _draw_axis(axes: Axes, x: int, axis: Axis, partial: bool, crowded: bool) -> None:
    tick = max(7, look().small - 1)
    axes.plot([x, x], [0, 1], color=INK, linewidth=0.6 * look().line, zorder=4)
    name = middle_cut(axis.name, LONGEST_TICK - 3) + (" (log)" if crowded else "\n(log)") * axis.log
    slant = {"rotation": 25, "ha": "left", "rotation_mode": "anchor"} if crowded else {"ha": "center"}
    axes.text(x, 1.05, name, va="bottom", fontsize=look().small, color=INK, **slant)
    box = {"boxstyle": "round,pad=0.12", "facecolor": SHADE, "edgecolor": "none", "alpha": 0.85}
    ticks = [(axis.low, f"{axis.low:.3g}")] if axis.high <= axis.low else axis.ticks()
    for at, label in ticks:
        y = axis.share(axis.choices[int(at)] if axis.choices else at)
        if y is None:
            continue
        axes.plot([x - 0.03, x], [y, y], color=INK, linewidth=0.5 * look().line, zorder=4)
        axes.text(
            x - 0.05, y, _short(label), ha="right", va="center", fontsize=tick, color=INK, zorder=5, bbox=box
        )
    if partial:
        axes.text(
            x - 0.05, ABSENT, "none", ha="right", va="center", fontsize=tick, color=MUTED, zorder=5, bbox=box
        )


def _even_edges(numbers: Sequence[int]) -> list[float]:
    """At most SHADES equal spans of whole numbers, as boundaries between them."""
    low, high = min(numbers), max(numbers)
    n = min(SHADES, high - low + 1)
    return [low + round((high - low + 1) * i / n) - 0.5 for i in range(n + 1)]


def _spans(edges: Sequence[float]) -> list[str]:
    """`0–6`, `7–13`: the whole numbers of each group."""
    ends = [(math.ceil(a), math.floor(b)) for a, b in pairwise(edges)]
    return [str(a) if a == b else f"{a}–{b}" for a, b in ends]


def _quantile_edges(values: Sequence[float]) -> list[float]:
    """Boundaries of at most SHADES groups that hold equally many values."""
    ordered = sorted(values)
    n = min(SHADES, len(set(ordered)))
    edges: list[float] = []
    for i in range(n + 1):
        place = i * (len(ordered) - 1) / n
        below, share = ordered[int(place)], place - int(place)
        above = ordered[min(int(place) + 1, len(ordered) - 1)]
        edge = below + share * (above - below)
        if not edges or edge > edges[-1]:
            edges.append(edge)
    return edges if len(edges) > 1 else [edges[0], edges[0]]


def _step(edges: Sequence[float], value: float) -> int:
    """Which group a value is in."""
    return sum(value > edge for edge in edges[1:-1])


def _colour_bar(
    figure: Figure,
    axes: Any,
    colours: Sequence[str],
    edges: Sequence[float],
    title: str,
    texts: Sequence[str],
) -> None:
    """What the shades mean: a text at each boundary, or one in each shade; nothing where there is one shade."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    if len(colours) < 2:
        return
    shades = ScalarMappable(BoundaryNorm(list(edges), len(colours)), ListedColormap(list(colours)))
    bar = figure.colorbar(
        shades, ax=axes, location="bottom", shrink=0.6, aspect=40, pad=0.03, spacing="uniform"
    )
    middles = [(a + b) / 2 for a, b in pairwise(edges)]
    bar.set_ticks(list(edges) if len(texts) == len(edges) else middles, labels=list(texts))
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=look().small, length=2)
    bar.set_label(title, fontsize=look().small)
