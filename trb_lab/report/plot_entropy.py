"""Teacher entropy on visited prefixes above the score, one column a source (the paper's figure 3)."""

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
    score_bands,
    seed_bands,
    seed_interval,
    shade_warmup,
)
from .plot_layout import below, entries, panels
from .plot_request import Request, View
from .plot_style import FigureFiles
from .plot_venue import look

ENTROPY = "policy/teacher_entropy"
BEYOND = 1.015
"""End of the axis over the last step: a mark there is whole."""


def entropy_figure(views: Sequence[View], request: Request) -> FigureFiles | None:
    """Each arm's best setting by final score, or the settings that are named; None where no run has the entropy."""
    shown = [v for v in views if ENTROPY in v.source.data.curves and v.settings]
    drawn = {
        v.source.name: [
            s
            for s in drawn_settings(v.source.data, v.settings, request.named, one_an_arm=True)
            if not seed_bands(v.source.data, s, ENTROPY).empty
        ]
        for v in shown
    }
    shown = [v for v in shown if drawn[v.source.name]]
    if not shown:
        return None
    lines, names = panel_lines([drawn[v.source.name] for v in shown])
    banded = max(len(drawn[v.source.name]) for v in shown) <= MAX_BANDS
    figure, grid = panels(len(shown), 4.6, rows_each=2)
    tables, told = [], ""
    for view, (top, bottom) in zip(shown, grid, strict=True):
        data, chosen = view.source.data, drawn[view.source.name]
        for axes in (top, bottom):
            shade_warmup(axes, chosen, named=axes is top, falling=True)
        last = request.steps or max(s.steps for s in chosen)
        for setting in chosen:
            line = lines[setting.key]
            entropy = seed_bands(data, setting, ENTROPY, seed_interval)
            entropy = entropy[entropy["step"] < last]
            draw_line(top, entropy, entropy["step"], 1, names[setting.key], line, band=banded)
            score = score_bands(data, setting, seed_interval)
            score = score[score["updates"] <= last]
            draw_line(bottom, score, score["updates"], 100, None, line, True, banded)
            for metric, frame in (("teacher_entropy", entropy), ("pass_at_1", score)):
                frame = frame.rename(columns={"updates": "step"})
                tables.append(frame.assign(metric=metric, source=view.source.name, setting=setting.key))
        for axes in (top, bottom):
            axes.set_xlim(0, BEYOND * last)
        top.tick_params(labelbottom=False)
        bottom.set_xlabel("training step")
        top.set_ylabel("teacher entropy (nats a token)" if not told or look().narrow else "")
        bottom.set_ylabel(label if (label := score_label(data)) != told or look().narrow else "")
        told = label
        if len(shown) > 1:
            top.set_title(view.label)
    below(figure, *entries([top for top, _ in grid]))
    chosen = [s for v in shown for s in drawn[v.source.name]]
    warmup = " Grey: warmup, up to the longest horizon drawn." if any(s.warms_up for s in chosen) else ""
    caption = (
        "Entropy of the teacher's next token, mean over the prefixes that the rollouts of a step visited, and score "
        f"after as many updates. {bands_caption(banded)}{warmup}"
        + choice_caption([s for v in shown for s in v.settings], chosen, request.named, len(shown))
    )
    return request.save(figure, pd.concat(tables, ignore_index=True), "Teacher entropy and score", caption)
