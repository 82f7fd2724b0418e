"""Figures 2 and 4: score against updates, and what the first rollouts earned.

Lines are seed means, bands seed ranges.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from .collect import CURVE_SCORE as SCORE
from .collect import SweepData
from .plot_style import DASHES, INK, MARKERS, MUTED, SHADE, WIDTH_INCHES, FigureFiles, below, colours_of, save
from .settings import Setting, reference_setting
from .stats import mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_LINES = 6
"""Lines of one figure, where arms have several settings to draw."""
MAX_ARMS = 12
"""Arms of one figure, each with one line."""
MAX_BANDS = 6
"""Lines from which on bands are left out: they would cover each other."""
REFERENCE_DASH = (0, (4, 2))


def drawn_settings(data: SweepData, settings: list[Setting]) -> list[Setting]:
    """The best setting of each arm by final score; where arms are few, second bests too. The reference comes first.

    The reference setting stands for its arm. Before anything has finished, each arm's first settings that have
    begun.
    """
    begun = set(data.curves["run_id"])
    settings = [s for s in settings if begun & set(s.run_ids.values())]
    by_arm: dict[str, list[Setting]] = {}
    for setting in sorted(settings, key=lambda s: not s.is_reference):
        by_arm.setdefault(setting.arm, []).append(setting)
    for group in by_arm.values():
        group.sort(key=_reference_then_best)
    chosen = [group[0] for group in by_arm.values()]
    if len(chosen) <= MAX_LINES - 2:
        chosen += [group[1] for group in by_arm.values() if len(group) > 1][: MAX_LINES - len(chosen)]
    keys = {s.key for s in chosen[:MAX_ARMS]}
    order = list(by_arm)
    return sorted((s for s in settings if s.key in keys), key=lambda s: order.index(s.arm))


def _reference_then_best(setting: Setting) -> tuple[bool, float]:
    scores = setting.mean_scores()
    return not setting.is_reference, -mean(scores.values()) if scores else 1.0


def seed_bands(data: SweepData, setting: Setting, column: str) -> pd.DataFrame:
    """Columns step, mean, low, high, num_seeds of one metric over the setting's seeds; steps without it are
    absent.
    """
    if column not in data.curves:
        return pd.DataFrame(columns=["step", "mean", "low", "high", "num_seeds"])
    rows = data.curves[data.curves["run_id"].isin(list(setting.run_ids.values()))][["step", column]]
    return _bands(rows.dropna(), column)


def _bands(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    groups = rows.groupby("step")[column]
    return pd.DataFrame(
        {"mean": groups.agg(mean), "low": groups.min(), "high": groups.max(), "num_seeds": groups.size()}
    ).reset_index()


@dataclass(frozen=True)
class Line:
    """How a setting is drawn."""

    colour: str
    dash: object
    marker: str


def line_styles(settings: list[Setting]) -> dict[str, Line]:
    """Setting key -> its line: the colour tells the arm, dashes and marker the arm's settings apart.

    Where each arm has one line, markers too tell arms apart, for readers who cannot by colour.
    """
    colours = colours_of({s.arm: s.kind for s in settings})
    alone = len(colours) == len(settings)
    count: dict[str, int] = {}
    styles = {}
    for i, setting in enumerate(settings):
        nth = count.get(setting.arm, 0)
        count[setting.arm] = nth + 1
        dash = REFERENCE_DASH if setting.is_reference else DASHES[nth % len(DASHES)]
        marker = MARKERS[(i if alone else nth) % len(MARKERS)]
        styles[setting.key] = Line(colours[setting.arm], dash, marker)
    return styles


def shade_warmup(axes: Axes, settings: list[Setting], named: bool) -> None:
    """A grey ground up to each horizon that is drawn; it lies darker where more arms still warm up.

    Arms that differ from plain distillation for the whole run have no warmup to shade.
    """
    horizons = sorted({s.horizon_steps for s in settings if s.warms_up})
    for horizon in horizons:
        axes.axvspan(
            0, horizon, color=SHADE, alpha=1 if horizon == horizons[-1] else 0.6, linewidth=0, zorder=0
        )
    if horizons and named:
        axes.annotate(
            "warmup",
            (horizons[-1], 0),
            xytext=(-4, 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            color=MUTED,
            fontsize=8.5,
        )


def _draw(
    axes: Axes,
    frame: pd.DataFrame,
    x: pd.Series,
    scale: float,
    label: str | None,
    line: Line,
    marked: bool = False,
    band: bool = True,
) -> None:
    axes.plot(
        x,
        scale * frame["mean"],
        color=line.colour,
        linestyle=line.dash,
        label=label,
        marker=line.marker if marked else None,
        markersize=4,
    )
    if band:
        axes.fill_between(
            x, scale * frame["low"], scale * frame["high"], color=line.colour, alpha=0.13, linewidth=0
        )


def learning_figure(data: SweepData, settings: list[Setting], out: Path) -> FigureFiles | None:
    """Mean score over the evaluation sets against updates made, and its distance from the reference arm's.

    None before the first evaluation.
    """
    from matplotlib import pyplot

    chosen = drawn_settings(data, settings)
    lines = line_styles(chosen)
    scores = {s.key: _with_start(data, seed_bands(data, s, SCORE)) for s in chosen}
    scores = {k: f for k, f in scores.items() if not f.empty}
    if not scores:
        return None
    reference = reference_setting(settings)
    if reference is not None and reference.key not in scores:
        reference = None
    gaps = {s.key: gap_bands(data, s, reference) for s in chosen if reference and s.key != reference.key}
    gaps = {k: f for k, f in gaps.items() if not f.empty}
    banded = len(scores) <= MAX_BANDS
    figure, grid = pyplot.subplots(
        1 + bool(gaps),
        1,
        figsize=(WIDTH_INCHES, 4.4 + 1.8 * bool(gaps) + 0.12 * max(0, len(scores) - MAX_LINES)),
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
            _draw(top, frame, frame["updates"], 100, setting.title, lines[setting.key], True, banded)
        if setting.key in gaps:
            frame = gaps[setting.key]
            _draw(bottom, frame, frame["updates"], 100, None, lines[setting.key], True, banded)
    _reference_marks(data, top)
    handles, labels = top.get_legend_handles_labels()
    if gaps and reference:
        bottom.axhline(0, color=INK, linestyle=REFERENCE_DASH, linewidth=1.3)
        bottom.set_ylabel("points from\n" + reference.title)
    top.set_ylabel("pass@1 (%), mean of sets" if len(data.mean_sets) > 1 else "pass@1 (%)")
    bottom.set_xlim(left=0)
    bottom.set_xlabel("updates")
    below(bottom, anchor=-0.34 if gaps else -0.16, handles=handles, labels=labels)
    tables = [
        f.assign(setting=k, value=v)
        for v, frames in (("score", scores), ("difference", gaps))
        for k, f in frames.items()
    ]
    caption = _learning_caption(reference if gaps else None, banded)
    frame = pd.concat(tables, ignore_index=True)
    return save(figure, frame, out, "learning_curves", "Learning curves", caption)


def _learning_caption(reference: Setting | None, banded: bool) -> str:
    gap = f", and below it the difference from {reference.title} on the same seeds" if reference else ""
    bands = "; bands: their range" if banded else " (their ranges are in the data)"
    return (
        f"Score during training{gap}. Lines: mean over the seeds that got there{bands}; grey: "
        "warmup, up to the longest horizon drawn. Of each arm the setting with the best final score is drawn (the "
        f"reference stands for its own; second bests where arms are few; at most {MAX_ARMS} arms), a choice that "
        "favours arms with more settings."
    )


def _with_start(data: SweepData, frame: pd.DataFrame) -> pd.DataFrame:
    """Steps as updates made, with the untrained student's score at 0 where it is known."""
    frame = frame.rename(columns={"step": "updates"})
    frame["updates"] += 1
    start = reference_score(data, "student")
    if frame.empty or start is None:
        return frame
    first = pd.DataFrame([{"updates": 0, "mean": start, "low": start, "high": start, "num_seeds": 0}])
    return pd.concat([first, frame], ignore_index=True)


def gap_bands(data: SweepData, setting: Setting, reference: Setting) -> pd.DataFrame:
    """As `seed_bands` of the score, for its difference from the reference on the seeds that both have."""
    runs = data.curves.dropna(subset=[SCORE]).set_index(["run_id", "step"])[SCORE]
    parts = []
    for seed, run_id in setting.run_ids.items():
        other = reference.run_ids.get(seed)
        if other is not None and other in runs.index and run_id in runs.index:
            parts.append((runs.loc[run_id] - runs.loc[other]).dropna().reset_index())
    if not parts:
        return pd.DataFrame(columns=["updates", "mean", "low", "high", "num_seeds"])
    frame = _bands(pd.concat(parts), SCORE).rename(columns={"step": "updates"})
    frame["updates"] += 1
    return frame


def _reference_marks(data: SweepData, axes: Axes) -> None:
    student, teacher = reference_score(data, "student"), reference_score(data, "teacher")
    if student is not None:
        axes.plot(
            [0],
            [100 * student],
            color=MUTED,
            marker="o",
            markersize=6.5,
            linestyle="",
            clip_on=False,
            zorder=5,
            label="untrained student",
        )
    if teacher is not None:
        axes.axhline(100 * teacher, color=MUTED, linestyle=(0, (1, 1.5)), linewidth=1.2, label="teacher")


def reference_score(data: SweepData, role: str) -> float | None:
    """Mean score of the teacher or the untrained student; None before it has been evaluated."""
    found = data.references[(data.references["role"] == role) & data.references["score_mean"].notna()]
    return None if found.empty else float(found["score_mean"].iloc[0])


def early_steps(settings: list[Setting]) -> int:
    """How many first steps count as early: the longest warmup, at least 10 and at most 50.

    An arm that differs from plain distillation for the whole run says nothing of what is early.
    """
    return min(50, max([10, *(s.horizon_steps for s in settings if s.warms_up)]))


def early_figure(data: SweepData, settings: list[Setting], out: Path) -> FigureFiles | None:
    """Rollout reward (where the data have answers) and response length over the first steps."""
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    chosen = drawn_settings(data, settings)
    styles = line_styles(chosen)
    panels = [
        ("rollout/reward", "correct rollouts (%)", 100),
        ("rollout/length_mean", "mean response tokens", 1),
    ]
    panels = [p for p in panels if p[0] in data.curves and data.curves[p[0]].notna().any()]
    if not panels or not chosen:
        return None
    banded = len(chosen) <= MAX_BANDS
    last = min(early_steps(chosen), int(data.curves["step"].max()) + 1)
    figure, grid = pyplot.subplots(
        len(panels), 1, figsize=(WIDTH_INCHES, 1.2 + 2.3 * len(panels)), sharex=True, squeeze=False
    )
    tables = []
    for axes, (column, title, scale) in zip(grid[:, 0], panels, strict=True):
        for setting in chosen:
            frame = seed_bands(data, setting, column)
            frame = frame[frame["step"] < last]
            if not frame.empty:
                _draw(axes, frame, frame["step"], scale, setting.title, styles[setting.key], band=banded)
                tables.append(frame.assign(setting=setting.key, metric=column))
        axes.set_ylabel(title)
        axes.set_xlim(0, max(1, last - 1))
    grid[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[-1, 0].set_xlabel("training step (0-based)")
    below(grid[-1, 0], anchor=-0.26)
    caption = (
        f"The first {last} steps: what share of the rollouts that the student learns from is "
        "correct, and how long they "
        f"are. Lines: mean over seeds{'; bands: range over seeds' if banded else ''}. The same settings as in the "
        "learning curves."
    )
    return save(
        figure, pd.concat(tables, ignore_index=True), out, "early_rollouts", "Early rollouts", caption
    )
