"""What the first rollouts earned: reward and length over the first steps."""

from __future__ import annotations

import pandas as pd

from .collect import SweepData
from .plot_curves import MAX_BANDS, draw_line, drawn_settings, early_steps, line_styles, seed_bands
from .plot_layout import below, entries
from .plot_request import Request
from .plot_style import FigureFiles
from .plot_venue import look
from .settings import Setting

PANELS = [
    ("rollout/reward", "correct rollouts (%)", 100),
    ("rollout/length_mean", "mean response tokens", 1),
]


def early_figure(data: SweepData, settings: list[Setting], request: Request) -> FigureFiles | None:
    """Rollout reward (where the data have answers) and response length over the first steps."""
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    chosen = drawn_settings(data, settings, request.named)
    styles = line_styles(chosen)
    panels = [p for p in PANELS if p[0] in data.curves and data.curves[p[0]].notna().any()]
    if not panels or not chosen:
        return None
    banded = len(chosen) <= MAX_BANDS
    last = min(request.steps or early_steps(chosen), int(data.curves["step"].max()) + 1)
    figure, grid = pyplot.subplots(
        len(panels),
        1,
        figsize=(look().width, look().height(0.5 + 2.1 * len(panels))),
        sharex=True,
        squeeze=False,
    )
    tables = []
    for axes, (column, title, scale) in zip(grid[:, 0], panels, strict=True):
        for setting in chosen:
            frame = seed_bands(data, setting, column)
            frame = frame[frame["step"] < last]
            if not frame.empty:
                draw_line(axes, frame, frame["step"], scale, setting.title, styles[setting.key], band=banded)
                tables.append(frame.assign(setting=setting.key, metric=column))
        axes.set_ylabel(title)
        axes.set_xlim(0, max(1, last - 1))
    if not tables:
        pyplot.close(figure)
        return None
    grid[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[-1, 0].set_xlabel("training step (0-based)")
    below(figure, *entries(list(grid[:, 0])))
    caption = (
        f"The first {last} steps: what share of the rollouts that the student learns from is correct, and how long "
        f"they are. Lines: mean over seeds{'; bands: range over seeds' if banded else ''}. "
        + (
            "Settings as the definition names them."
            if request.named
            else "The same settings as in the learning curves."
        )
    )
    return request.save(figure, pd.concat(tables, ignore_index=True), "Early rollouts", caption)
