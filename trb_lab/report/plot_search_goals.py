"""What a search's goals depend on, and where two of them pull apart: importance of parameters, the Pareto front."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from .palette import MUTED, SERIES
from .plot_layout import below, entries
from .plot_style import FigureFiles, save
from .plot_venue import look
from .search_data import Search

MOST_NAMED = 12
"""Settings of the front that have their number beside them."""


def importance_figure(search: Search, out: Path) -> FigureFiles | None:
    """Bars of the parameters' shares, one panel a goal; None where they cannot be told."""
    from matplotlib import pyplot

    known = {g.metric: (search.raw.get("importance") or {}).get(g.metric) for g in search.goals}
    weights = {metric: found for metric, found in known.items() if found}
    if not weights:
        return None
    first = next(iter(weights.values()))
    keys = sorted({k for found in weights.values() for k in found}, key=lambda k: (first.get(k, 0.0), k))
    columns = look().columns(len(weights))
    lines = math.ceil(len(weights) / columns)
    figure, grid = pyplot.subplots(
        lines,
        columns,
        figsize=(look().width, lines * look().height(1.0 + 0.34 * len(keys))),
        sharey=True,
        squeeze=False,
    )
    for empty in grid.flat[len(weights) :]:
        empty.set_visible(False)
    rows: list[dict[str, Any]] = []
    for axes, (metric, found) in zip(grid.flat, weights.items(), strict=False):
        values = [float(found.get(k, 0.0)) for k in keys]
        axes.barh(range(len(keys)), values, color=SERIES[0], height=0.62)
        for y, value in enumerate(values):
            axes.annotate(
                f"{value:.2f}",
                (value, y),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=look().small,
            )
        axes.set_yticks(range(len(keys)), [search.name(k) for k in keys])
        axes.set_xlim(0, 1.15 * max([*values, 1e-9]))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"importance for {metric}")
        rows += [{"goal": metric, "parameter": k, "importance": found.get(k)} for k in keys]
    n = len(search.measured)
    caption = (
        f"How much of the spread of values each parameter accounts for, as estimated from the {n} settings that ran to "
        "the end. With few settings the estimate is rough, and it says nothing outside the space that was searched."
    )
    return save(
        figure,
        pd.DataFrame(rows),
        out,
        f"search_{search.slug}_importance",
        "Importance of parameters",
        caption,
    )


def front_figure(search: Search, out: Path) -> FigureFiles | None:
    """Two goals against each other with the front as a step line; None for another number of goals, or no values."""
    from matplotlib import pyplot

    if len(search.goals) != 2 or not search.measured:
        return None
    x, y = search.goals
    points = {c.number: (x.scale * (c.mean(x) or 0.0), y.scale * (c.mean(y) or 0.0)) for c in search.measured}
    figure, axes = pyplot.subplots(figsize=(look().width, look().height(3.8)))
    inside = {c.number for c in search.comparable}
    front = [n for n in search.front if n in points]
    groups: dict[str, tuple[list[int], dict[str, Any]]] = {
        "on the front": (front, {"color": SERIES[0], "markersize": 1.4 * look().mark, "zorder": 4}),
        "behind it": ([n for n in points if n in inside and n not in front], {"color": MUTED, "alpha": 0.75}),
        "outside the constraints": (
            [n for n in points if n not in inside],
            {"color": MUTED, "markerfacecolor": "none"},
        ),
    }
    if front:
        # Between two of its points the front is what the next one beyond still reaches.
        line = sorted(points[n] for n in front)
        axes.step(
            *zip(*line, strict=True),
            where="pre" if x.maximize else "post",
            color=SERIES[0],
            linewidth=0.8 * look().line,
            label="Pareto front",
        )
    for label, (numbers, mark) in groups.items():
        if numbers:
            xs, ys = zip(*(points[n] for n in numbers), strict=True)
            axes.plot(xs, ys, "o", label=label, **mark)
    aside = (6 if x.maximize else -6, 4 if y.maximize else -11)  # towards what is better, where nothing lies
    for number in front[:MOST_NAMED]:
        axes.annotate(
            f"#{number}",
            points[number],
            xytext=aside,
            textcoords="offset points",
            ha="left" if x.maximize else "right",
            fontsize=look().small,
        )
    arrows = {True: "higher is better", False: "lower is better"}
    axes.set_xlabel(f"{x.title}, {arrows[x.maximize]}")
    axes.set_ylabel(f"{y.title}, {arrows[y.maximize]}")
    axes.margins(0.08)
    below(figure, *entries([axes]))
    rows = [
        {
            "number": c.number,
            x.metric: c.mean(x),
            y.metric: c.mean(y),
            "feasible": int(c.feasible),
            "on_front": int(c.number in front),
        }
        for c in search.measured
    ]
    caption = (
        "Both goals of every setting that ran to the end, means over its selection seeds. On the line no setting is "
        "as good in both goals and better in one."
    )
    return save(figure, pd.DataFrame(rows), out, f"search_{search.slug}_front", "Pareto front", caption)
