"""Figures 2 and 4: score against updates, and what the first rollouts earned. Lines are seed means, bands seed ranges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from .collect import MEAN, SweepData
from .plot_style import DASHES, MUTED, SHADE, WIDTH_INCHES, FigureFiles, below, colours_of, save
from .settings import Setting
from .stats import mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_LINES = 6


def drawn_settings(settings: list[Setting]) -> list[Setting]:
    """A readable few: the best of each arm by final score, then second bests, in the order of the plan.

    The reference arm comes first. Before anything has finished, each arm's first settings.
    """
    by_arm: dict[str, list[Setting]] = {}
    for setting in sorted(settings, key=lambda s: not s.is_reference):
        by_arm.setdefault(setting.arm, []).append(setting)
    for group in by_arm.values():
        group.sort(key=lambda s: -mean(s.mean_scores().values()) if s.mean_scores() else 1.0)
    chosen = [group[0] for group in by_arm.values()]
    if len(chosen) <= MAX_LINES - 2:
        chosen += [group[1] for group in by_arm.values() if len(group) > 1]
    keys = {s.key for s in chosen[:MAX_LINES]}
    order = list(by_arm)
    return sorted((s for s in settings if s.key in keys), key=lambda s: order.index(s.arm))


def seed_bands(data: SweepData, setting: Setting, column: str) -> pd.DataFrame:
    """Columns step, mean, low, high, num_seeds of one metric over the setting's seeds; steps without it are absent."""
    if column not in data.curves:
        return pd.DataFrame(columns=["step", "mean", "low", "high", "num_seeds"])
    rows = data.curves[data.curves["run_id"].isin(list(setting.run_ids.values()))][["step", column]].dropna()
    groups = rows.groupby("step")[column]
    frame = pd.DataFrame({"mean": groups.agg(mean), "low": groups.min(), "high": groups.max(), "num_seeds": groups.size()})
    return frame.reset_index()


def line_styles(settings: list[Setting]) -> dict[str, tuple[str, object]]:
    """Setting key -> (colour of its arm, dash pattern that tells the arm's settings apart)."""
    colours = colours_of({s.arm: s.kind for s in settings})
    count: dict[str, int] = {}
    styles = {}
    for setting in settings:
        nth = count.get(setting.arm, 0)
        count[setting.arm] = nth + 1
        dash = (0, (4, 2)) if setting.is_reference else DASHES[nth % len(DASHES)]
        styles[setting.key] = (colours[setting.arm], dash)
    return styles


def shade_warmup(axes: Axes, settings: list[Setting]) -> None:
    """A grey ground up to each horizon that is drawn; it lies darker where more arms still warm up."""
    horizons = sorted({s.horizon_steps for s in settings if s.horizon_steps})
    for i, horizon in enumerate(horizons):
        axes.axvspan(0, horizon, color=SHADE, alpha=0.9 if i == len(horizons) - 1 else 0.6, linewidth=0, zorder=0)
    if horizons:
        axes.annotate("warmup", (0, 1), xytext=(4, -4), xycoords=("data", "axes fraction"),
                      textcoords="offset points", va="top", color=MUTED, fontsize=8)  # fmt: skip


def _draw(axes: Axes, frame: pd.DataFrame, x: pd.Series, scale: float, label: str, colour: str, dash: object,
          marker: str | None = None) -> None:  # fmt: skip
    axes.plot(x, scale * frame["mean"], color=colour, linestyle=dash, label=label, marker=marker, markersize=3.5)
    axes.fill_between(x, scale * frame["low"], scale * frame["high"], color=colour, alpha=0.14, linewidth=0)


def learning_figure(data: SweepData, settings: list[Setting], out: Path) -> FigureFiles | None:
    """Mean score over the evaluation sets against updates made; None before the first evaluation."""
    from matplotlib import pyplot

    chosen = drawn_settings(settings)
    student = _reference_score(data, "student")
    styles = line_styles(chosen)
    tables = []
    for setting in chosen:
        frame = seed_bands(data, setting, f"eval/{MEAN}/pass_at_1")
        if frame.empty:
            continue
        frame.insert(0, "updates", frame.pop("step") + 1)
        if student is not None:
            start = {"updates": 0, "mean": student, "low": student, "high": student, "num_seeds": 0}
            frame = pd.concat([pd.DataFrame([start]), frame], ignore_index=True)
        tables.append((setting, frame))
    if not tables:
        return None
    figure, axes = pyplot.subplots(figsize=(WIDTH_INCHES, 4.4))
    shade_warmup(axes, [s for s, _ in tables])
    for setting, frame in tables:
        _draw(axes, frame, frame["updates"], 100, setting.title, *styles[setting.key], marker="o")
    if student is not None:
        axes.plot([0], [100 * student], color=MUTED, marker="o", markersize=6, linestyle="", label="untrained student")
    teacher = _reference_score(data, "teacher")
    if teacher is not None:
        axes.axhline(100 * teacher, color=MUTED, linestyle=(0, (1, 1.5)), linewidth=1.2, label="teacher")
    axes.set_xlim(left=0)
    axes.set_xlabel("updates")
    axes.set_ylabel("pass@1 (%), mean of sets" if len(data.sets) > 1 else "pass@1 (%)")
    below(axes, anchor=-0.16)
    frame = pd.concat([f.assign(setting=s.key) for s, f in tables], ignore_index=True)
    caption = (
        "Score during training. Lines: mean over seeds; bands: range over seeds; grey: warmup, up to the longest "
        f"horizon drawn. At most {MAX_LINES} settings are drawn: of each arm those with the best final score, a choice "
        "that favours arms with more settings."
    )
    return save(figure, frame, out, "learning_curves", "Learning curves", caption)


def _reference_score(data: SweepData, role: str) -> float | None:
    found = data.references[(data.references["role"] == role) & data.references["score_mean"].notna()]
    return None if found.empty else float(found["score_mean"].iloc[0])


def early_steps(settings: list[Setting]) -> int:
    """How many first steps count as early: the longest horizon, at least 10."""
    return max([10, *(s.horizon_steps for s in settings)])


def early_figure(data: SweepData, settings: list[Setting], out: Path) -> FigureFiles | None:
    """Rollout reward (or, without answers, nothing) and response length over the first steps."""
    from matplotlib import pyplot

    chosen = drawn_settings(settings)
    styles = line_styles(chosen)
    last = early_steps(chosen)
    panels = [("rollout/reward", "correct rollouts (%)", 100), ("rollout/length_mean", "mean response tokens", 1)]
    panels = [p for p in panels if p[0] in data.curves and data.curves[p[0]].notna().any()]
    if not panels:
        return None
    figure, grid = pyplot.subplots(len(panels), 1, figsize=(WIDTH_INCHES, 1.2 + 2.3 * len(panels)), sharex=True,
                                   squeeze=False)  # fmt: skip
    tables = []
    for axes, (column, title, scale) in zip(grid[:, 0], panels, strict=True):
        for setting in chosen:
            frame = seed_bands(data, setting, column)
            frame = frame[frame["step"] < last]
            if not frame.empty:
                _draw(axes, frame, frame["step"], scale, setting.title, *styles[setting.key])
                tables.append(frame.assign(setting=setting.key, metric=column))
        axes.set_ylabel(title)
        axes.set_xlim(0, last - 1)
    grid[-1, 0].set_xlabel("training step (0-based)")
    below(grid[-1, 0], anchor=-0.26)
    caption = (
        f"The first {last} steps: what share of the rollouts that the student learns from is correct, and how long they "
        "are. Lines: mean over seeds; bands: range over seeds. The same settings as in the learning curves."
    )
    return save(figure, pd.concat(tables, ignore_index=True), out, "early_rollouts", "Early rollouts", caption)


