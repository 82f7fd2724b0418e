"""A search over time: values by number with the best so far, and learning curves from stop to stop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .palette import GRID, INK, MUTED, SERIES
from .plot_layout import below, entries
from .plot_style import FigureFiles, save
from .plot_venue import look
from .search_data import COMPLETE, FAILED, PAUSED, RUNNING, Candidate, Goal, Search
from .stats import mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_TICKS = 12
GOOD, KNOWN, WRONG = SERIES[0], SERIES[2], SERIES[7]


def history_figure(search: Search, out: Path) -> FigureFiles | None:
    """None where no setting has a value yet."""
    from matplotlib import pyplot

    if not any(c.of(g) or c.stops for c in search.candidates for g in search.goals):
        return None
    panels = len(search.goals)
    figure, grid = pyplot.subplots(
        panels, 1, figsize=(look().width, look().height(0.7 + 2.6 * panels)), sharex=True, squeeze=False
    )
    rows = []
    for axes, goal in zip(grid[:, 0], search.goals, strict=True):
        rows += _history(axes, search, goal)
        axes.set_ylabel(goal.title)
    last = grid[-1, 0]
    _whole_numbers(last)
    last.set_xlabel("number of the setting, in the order of proposal")
    below(figure, *entries(list(grid[:, 0])))
    caption = "Every setting that was tried: mean over its finished selection seeds" + (
        ", and the best so far of those that a best one is chosen from." if panels == 1 else "."
    )
    if search.in_state(PAUSED):
        caption += (
            " Paused settings stand at the value of their last stop, which more training would have changed."
        )
    return save(
        figure, pd.DataFrame(rows), out, f"search_{search.slug}_history", "Optimisation history", caption
    )


def _history(axes: Axes, search: Search, goal: Goal) -> list[dict[str, Any]]:
    """Draws one goal; returns the rows of its data."""
    marks: dict[str, dict[str, Any]] = {
        "ran to the end": {"marker": "o", "color": GOOD, "markersize": 1.1 * look().mark},
        "known before": {"marker": "D", "color": KNOWN, "markersize": look().mark},
        "outside the constraints": {
            "marker": "o",
            "color": GOOD,
            "markerfacecolor": "none",
            "markersize": 1.1 * look().mark,
        },
        "paused, at its last stop": {"marker": "v", "color": MUTED, "alpha": 0.7},
        "at work, at its last stop": {"marker": ">", "color": MUTED, "markerfacecolor": "none"},
    }
    groups: dict[str, list[tuple[int, float]]] = {label: [] for label in marks}
    rows, best = [], None
    comparable = {c.number for c in search.comparable}
    trail: list[tuple[int, float]] = []
    single = len(search.goals) == 1
    for c in search.candidates:
        value, at = c.mean(goal), search.steps
        if value is None and single and c.last_stop is not None and c.state != FAILED:
            at = c.last_stop
            value = c.stops[at]
        label = _group(c)
        if value is not None and label:
            groups[label].append((c.number, goal.scale * value))
        if (
            value is not None
            and single
            and c.number in comparable
            and (best is None or goal.better(value) > goal.better(best))
        ):
            best = value
        if best is not None:
            trail.append((c.number, goal.scale * best))
        rows.append(
            {
                "goal": goal.metric,
                "number": c.number,
                "state": c.state,
                "value": value,
                "steps_done": None if value is None else at,
                "num_seeds": len(c.of(goal)),
                "best_so_far": best,
            }
        )
    if trail:
        axes.step(
            *zip(*trail, strict=True),
            where="post",
            color=INK,
            linewidth=0.8 * look().line,
            label="best so far",
        )
    for label, points in groups.items():
        if points:
            axes.plot(*zip(*points, strict=True), linestyle="", label=label, **marks[label])
    failed = [c.number for c in search.in_state(FAILED)]
    if failed:
        at_bottom = axes.get_xaxis_transform()
        axes.plot(
            failed,
            [0.025] * len(failed),
            "x",
            color=WRONG,
            transform=at_bottom,
            label="failed",
            clip_on=False,
        )
    axes.margins(y=0.1)
    return rows


def _group(candidate: Candidate) -> str:
    if candidate.state == COMPLETE:
        if not candidate.feasible:
            return "outside the constraints"
        return "known before" if candidate.origin == "warm" else "ran to the end"
    return {PAUSED: "paused, at its last stop", RUNNING: "at work, at its last stop"}.get(candidate.state, "")


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))


def stops_figure(search: Search, out: Path) -> FigureFiles | None:
    """Value at each stop, one line a setting; None without pruning, or before the first stop."""
    from matplotlib import pyplot
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    goal = search.goal
    lines = {c.number: line for c in search.candidates if c.stops and len(line := _line(search, c)) > 0}
    if len(search.goals) > 1 or not search.stops or not lines:
        return None
    figure, axes = pyplot.subplots(figsize=(look().width, look().height(3.5)))
    first = search.stops[0]
    best = search.best.number if search.best else None
    labelled: set[str] = set()
    ticks = [*search.stops, search.steps]
    even = len(ticks) > 2 and ticks[1] - ticks[0] == ticks[2] - ticks[1]
    log = ticks[-1] > 6 * ticks[0] and not even
    aside = 0.035 * first if log else 0.015 * (ticks[-1] - ticks[0])
    rows = []
    for c in sorted(search.candidates, key=lambda c: (_went_on(c, first), c.number == best, c.number)):
        if c.number not in lines:
            continue
        steps, values = (list(side) for side in zip(*lines[c.number], strict=True))
        went_on = _went_on(c, first)
        label = "best" if c.number == best else "went on" if went_on else "not beyond the first stop"
        drawn: dict[str, Any] = {
            "best": {"color": INK, "linewidth": 1.4 * look().line, "marker": "o", "zorder": 4},
            "went on": {
                "color": GOOD,
                "linewidth": 0.8 * look().line,
                "marker": "o",
                "markersize": 0.8 * look().mark,
                "alpha": 0.85,
            },
            "not beyond the first stop": {
                "color": MUTED,
                "marker": "v",
                "linestyle": "",
                "alpha": 0.6,
                "zorder": 3,
            },
        }[label]
        told = label if label not in labelled else None
        labelled.add(label)
        if not went_on:
            steps = [s - aside for s in steps]
        axes.plot(steps, [goal.scale * v for v in values], label=told, **drawn)
        if went_on and c.state == PAUSED:
            told = "paused later" if "paused later" not in labelled else None
            labelled.add("paused later")
            axes.plot(
                steps[-1:],
                [goal.scale * values[-1]],
                "v",
                color=MUTED,
                markersize=1.2 * look().mark,
                alpha=0.8,
                zorder=3,
                label=told,
            )
        rows += [
            {"number": c.number, "state": c.state, "steps_done": s, "value": v, "went_on": int(went_on)}
            for s, v in lines[c.number]
        ]
    if log:
        axes.set_xscale("log")
    shown = ticks[:: math.ceil(len(ticks) / MOST_TICKS)]
    axes.xaxis.set_major_locator(FixedLocator([float(t) for t in sorted({*shown, ticks[-1]})]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    if log:
        axes.set_xlim(ticks[0] / 1.12, ticks[-1] * 1.06)
    axes.grid(axis="x", color=GRID, linewidth=0.7 * look().line)
    axes.set_xlabel("training steps done: the stops, and the whole run")
    axes.set_ylabel(goal.title)
    below(figure, *entries([axes]))
    caption = (
        "Value of every setting at each stop, mean over its starting seeds. At a stop a setting pauses; those that do "
        "well go on from their checkpoint. Those that did not are drawn a little to the left."
    )
    return save(
        figure, pd.DataFrame(rows), out, f"search_{search.slug}_curves", "Learning curves by stop", caption
    )


def _went_on(candidate: Candidate, first: int) -> bool:
    done = max([*candidate.stops, *(int(r.get("steps_done") or 0) for r in candidate.runs)], default=0)
    return done > first or candidate.state == COMPLETE


def _line(search: Search, candidate: Candidate) -> list[tuple[int, float]]:
    """(steps done, value) on the starting seeds, the end of training included where they have all finished."""
    points = dict(candidate.stops)
    start = [int(s) for s in (search.raw.get("seeds") or {}).get("start") or []]
    values = candidate.of(search.goal)
    if candidate.state == COMPLETE and start and all(s in values for s in start):
        points[search.steps] = mean(values[s] for s in start)
    return sorted(points.items())
