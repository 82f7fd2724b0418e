"""Benchmark mean against updates, one line an arm, one panel a source (the paper's figure 2)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from .plot_budget import score_label
from .plot_curves import (
    MAX_BANDS,
    bands_caption,
    choice_caption,
    draw_line,
    drawn_settings,
    panel_lines,
    reference_marks,
    score_bands,
    seed_interval,
)
from .plot_entropy import BEYOND
from .plot_layout import below, entries, panels
from .plot_request import Request, View
from .plot_style import FigureFiles
from .plot_venue import look


def trajectories_figure(views: Sequence[View], request: Request) -> FigureFiles | None:
    """Each arm's best setting by final score, or the settings that are named; None before the first evaluation."""
    drawn = {
        view.source.name: drawn_settings(view.source.data, view.settings, request.named, one_an_arm=True)
        for view in views
    }
    frames = {
        (view.source.name, s.key): frame
        for view in views
        for s in drawn[view.source.name]
        if not (frame := score_bands(view.source.data, s, seed_interval)).empty
    }
    shown = [v for v in views if any(name == v.source.name for name, _ in frames)]
    if not shown:
        return None
    figure, grid = panels(len(shown), 3.3)
    lines, names = panel_lines([drawn[v.source.name] for v in shown])
    banded = max(sum(name == v.source.name for name, _ in frames) for v in shown) <= MAX_BANDS
    tables, told = [], ""
    for view, (axes,) in zip(shown, grid, strict=True):
        for setting in drawn[view.source.name]:
            if (view.source.name, setting.key) not in frames:
                continue
            frame = frames[view.source.name, setting.key]
            if request.steps is not None:
                frame = frame[frame["updates"] <= request.steps]
            draw_line(
                axes, frame, frame["updates"], 100, names[setting.key], lines[setting.key], True, banded
            )
            tables.append(frame.assign(source=view.source.name, setting=setting.key))
        reference_marks(view.source.data, axes)
        axes.set_xlim(0, BEYOND * request.steps if request.steps else None)
        axes.set_xlabel("updates")
        axes.set_ylabel(label if (label := score_label(view.source.data)) != told or look().narrow else "")
        told = label
        if len(shown) > 1:
            axes.set_title(view.label)
    below(figure, *entries([axes for (axes,) in grid]))
    chosen = [s for v in shown for s in drawn[v.source.name]]
    caption = (
        "Score during training, mean over the evaluation sets. "
        + bands_caption(banded)
        + choice_caption([s for v in shown for s in v.settings], chosen, request.named, len(shown))
    )
    return request.save(figure, pd.concat(tables, ignore_index=True), "Score over training", caption)
