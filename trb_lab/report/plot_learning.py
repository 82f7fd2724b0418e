"""Score during training against updates, and its distance from the reference arm's on the same seeds.

Lines are seed means, bands seed ranges.
"""

from __future__ import annotations

import pandas as pd

from .collect import CURVE_SCORE as SCORE
from .collect import SweepData
from .palette import INK
from .plot_curves import (
    MAX_ARMS,
    MAX_BANDS,
    REFERENCE_DASH,
    bands,
    draw_line,
    drawn_settings,
    line_styles,
    reference_marks,
    score_bands,
    shade_warmup,
)
from .plot_entropy import BEYOND
from .plot_layout import below, entries
from .plot_request import Request
from .plot_style import FigureFiles
from .plot_venue import look
from .settings import Setting, reference_setting


def learning_figure(data: SweepData, settings: list[Setting], request: Request) -> FigureFiles | None:
    """Mean score over the evaluation sets against updates made, and its distance from the reference arm's.

    None before the first evaluation.
    """
    from matplotlib import pyplot

    chosen = drawn_settings(data, settings, request.named)
    lines = line_styles(chosen)
    last = request.steps
    scores = {s.key: _until(score_bands(data, s), last) for s in chosen}
    scores = {k: f for k, f in scores.items() if not f.empty}
    if not scores:
        return None
    reference = reference_setting(settings)
    if reference is not None and reference.key not in scores:
        reference = None
    gaps = {
        s.key: _until(gap_bands(data, s, reference), last)
        for s in chosen
        if reference and s.key != reference.key
    }
    gaps = {k: f for k, f in gaps.items() if not f.empty}
    banded = len(scores) <= MAX_BANDS
    figure, grid = pyplot.subplots(
        1 + bool(gaps),
        1,
        figsize=(look().width, look().height(3.4 + 1.6 * bool(gaps))),
        sharex=True,
        squeeze=False,
        height_ratios=[3, 2][: 1 + bool(gaps)],
    )
    top, bottom = grid[0, 0], grid[-1, 0]
    for axes in grid[:, 0]:
        shade_warmup(axes, [s for s in chosen if s.key in scores], named=axes is top)
    for setting in chosen:
        if setting.key in scores:
            frame = scores[setting.key]
            draw_line(top, frame, frame["updates"], 100, setting.title, lines[setting.key], True, banded)
        if setting.key in gaps:
            frame = gaps[setting.key]
            draw_line(bottom, frame, frame["updates"], 100, None, lines[setting.key], True, banded)
    reference_marks(data, top)
    if gaps and reference:
        bottom.axhline(0, color=INK, linestyle=REFERENCE_DASH, linewidth=0.8 * look().line)
        bottom.set_ylabel("points from " + reference.title)
    top.set_ylabel("pass@1 (%), mean of sets" if len(data.mean_sets) > 1 else "pass@1 (%)")
    bottom.set_xlim(0, BEYOND * last if last else None)
    bottom.set_xlabel("updates")
    below(figure, *entries([top]))
    tables = [
        f.assign(setting=k, value=v)
        for v, frames in (("score", scores), ("difference", gaps))
        for k, f in frames.items()
    ]
    frame = pd.concat(tables, ignore_index=True)
    caption = _caption(reference if gaps else None, banded, bool(request.named))
    return request.save(figure, frame, "Learning curves", caption)


def _until(frame: pd.DataFrame, last: int | None) -> pd.DataFrame:
    return frame if last is None else frame[frame["updates"] <= last]


def _caption(reference: Setting | None, banded: bool, named: bool) -> str:
    gap = f", and below it the difference from {reference.title} on the same seeds" if reference else ""
    told = "; bands: their range" if banded else " (their ranges are in the data)"
    choice = (
        f" Of each arm{' whose settings were not chosen' * named} the setting with the best final score is drawn (the "
        f"reference stands for its own; second bests where arms are few; at most {MAX_ARMS} arms), a choice that "
        "favours arms with more settings."
    )
    return (
        f"Score during training{gap}. Lines: mean over the seeds that got there{told}; grey: "
        f"warmup, up to the longest horizon drawn.{choice}"
    )


def gap_bands(data: SweepData, setting: Setting, reference: Setting) -> pd.DataFrame:
    """As `score_bands`, for the difference from the reference on the seeds that both have; from the first update."""
    gaps = []
    for seed, run_id in setting.run_ids.items():
        own = data.curve_points(run_id, SCORE)
        others = data.curve_points(reference.run_ids.get(seed, ""), SCORE)
        gaps.append({step: value - others[step] for step, value in own.items() if step in others})
    frame = bands(gaps).rename(columns={"step": "updates"})
    frame["updates"] += 1
    return frame
