"""Over the first steps: how well the teacher likes the rollouts, how well its preference over the student ranks right
above wrong ones, and the reward (the paper's figure 7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from .collect import SweepData
from .palette import INK, MARKERS, MUTED, RAMP
from .plot_layout import below
from .plot_request import Request
from .plot_style import FigureFiles
from .plot_venue import look
from .settings import Setting
from .stats import mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIRST_STEPS = 25
"""As in the paper."""
X, Y, COLOUR = "policy/teacher_logprob", "rollout/support_auroc", "rollout/reward"
COLUMNS = {X: "teacher_logprob", Y: "support_auroc", COLOUR: "reward"}


def support_figure(data: SweepData, settings: list[Setting], request: Request) -> FigureFiles | None:
    """A large point a setting, a small one a seed; None where no run has all three."""
    from matplotlib import pyplot

    first = request.steps or FIRST_STEPS
    means = seed_means(data, settings, first)
    if means.empty:
        return None
    by_setting = dict(list(means.groupby("setting", sort=False)))
    shown = [s for s in settings if s.key in by_setting]
    figure, axes = pyplot.subplots(figsize=(look().width, look().height(3.9)))
    rewards = [100 * r for r in means["reward"]]
    low, high = min(rewards), max(rewards)
    markers = _markers(shown)
    rows = []
    seeds_drawn: dict[tuple[str, str], list[Mapping[Any, Any]]] = {}
    means_drawn: dict[tuple[str, str], list[Mapping[Any, Any]]] = {}
    """Marker and colour -> the points that look so: an artist each would take seconds for hundreds of settings."""
    for setting in shown:
        seeds = by_setting[setting.key]
        centre = {c: mean(seeds[c]) for c in COLUMNS.values()}
        marker = markers[_family(setting)]
        for row in seeds[list(COLUMNS.values())].to_dict("records"):
            seeds_drawn.setdefault((marker, _shade(row, low, high)), []).append(row)
        if len(seeds) > 1:
            rows.append({"setting": setting.key, "seed": "mean", **centre})
        means_drawn.setdefault((marker, _shade(centre, low, high)), []).append(centre)
    for drawn, size, alpha in ((seeds_drawn, 0.55, 0.45), (means_drawn, 1.7, 1.0)):
        for (marker, colour), points in drawn.items():
            _points(axes, points, marker, colour, size, alpha)
    _colour_bar(figure, axes, low, high)
    axes.set_xlabel("teacher log-prob of the rollouts (nats a token)")
    axes.set_ylabel("AUROC of mean log q - log p")
    axes.margins(0.07)
    _legend(figure, markers)
    caption = (
        f"Means over the first {first} steps. Right: the teacher finds the rollouts likelier. Up: mean log-ratio of "
        "teacher to student over a rollout ranks correct rollouts above wrong ones more often (steps in which all or "
        "none are correct have no such rank and are left out). Colour: share of correct rollouts, in six equal steps. "
        "Small points: seeds; large: their mean."
    )
    frame = pd.concat([means, pd.DataFrame(rows)], ignore_index=True) if rows else means
    return request.save(figure, frame, "Support and reward", caption)


def seed_means(data: SweepData, settings: list[Setting], first: int) -> pd.DataFrame:
    """Columns setting, seed, num_auroc_steps and COLUMNS: means over the first steps of each run that has them all."""
    rows: list[dict[str, Any]] = []
    if not set(COLUMNS) <= set(data.curves):
        return pd.DataFrame(rows)
    for setting in settings:
        for seed, run in sorted(setting.run_ids.items()):
            values = {name: data.curve_values(run, c, end=first) for c, name in COLUMNS.items()}
            if all(values.values()):
                found = {name: mean(v) for name, v in values.items()}
                n = len(values["support_auroc"])
                rows.append({"setting": setting.key, "seed": str(seed), **found, "num_auroc_steps": n})
    return pd.DataFrame(rows)


def _family(setting: Setting) -> str:
    """What has a marker of its own: an arm, and of an arm with budgets each budget."""
    return f"{setting.label}, budget {setting.kl_budget:g}" if setting.kl_budget else setting.label


def _markers(settings: list[Setting]) -> dict[str, str]:
    families = dict.fromkeys(_family(s) for s in sorted(settings, key=lambda s: s.kl_budget or 0.0))
    return {f: MARKERS[i % len(MARKERS)] for i, f in enumerate(families)}


def _shade(row: Mapping[Any, Any], low: float, high: float) -> str:
    share = (100 * row["reward"] - low) / (high - low) if high > low else 0.5
    return RAMP[min(len(RAMP) - 1, int(len(RAMP) * share))]


def _points(
    axes: Axes, rows: Sequence[Mapping[Any, Any]], marker: str, colour: str, size: float, alpha: float
) -> None:
    axes.plot(
        [row["teacher_logprob"] for row in rows],
        [row["support_auroc"] for row in rows],
        marker=marker,
        color=colour,
        markersize=size * look().mark,
        markeredgecolor=INK if alpha == 1 else colour,
        markeredgewidth=0.35 * look().line if alpha == 1 else 0,
        alpha=alpha,
        linestyle="",
        zorder=3 if alpha == 1 else 2,
    )


def _colour_bar(figure: Figure, axes: Axes, low: float, high: float) -> None:
    """Steps of the palette's ramp, so that the page's dark mode can recolour them."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    if high <= low:
        return
    edges = [low + (high - low) * i / len(RAMP) for i in range(len(RAMP) + 1)]
    bar = figure.colorbar(
        ScalarMappable(BoundaryNorm(edges, len(RAMP)), ListedColormap(RAMP)), ax=axes, pad=0.02, aspect=28
    )
    bar.set_ticks(edges, labels=[f"{e:.{0 if high - low > 12 else 1}f}" for e in edges])
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=look().small, length=2)
    bar.set_label("correct rollouts (%)", fontsize=look().small)


def _legend(figure: Figure, markers: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=MUTED, marker=m, linestyle="") for m in markers.values()]
    below(figure, handles, list(markers))
