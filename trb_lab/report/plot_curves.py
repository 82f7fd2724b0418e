"""What figures over training share: which settings are drawn, their lines and bands, the warmup's ground."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from .collect import CURVE_SCORE as SCORE
from .collect import SweepData
from .palette import DASHES, MARKERS, MUTED, SHADE, colours_of
from .plot_venue import look
from .settings import Setting
from .stats import mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_LINES = 6
"""Lines of one figure, where arms have several settings to draw."""
MAX_ARMS = 12
"""Arms of one figure, each with one line."""
MAX_BANDS = 6
"""Lines from which on bands are left out: they would cover each other."""
FAR_ABOVE = 0.5
"""Share of the axis from which on the teacher is named above it."""
ROOM_FOR_WORD = 0.3
"""Share of the steps from which on the warmup's name fits into its ground."""
REFERENCE_DASH = (0, (4, 2))
BAND_COLUMNS = ["step", "mean", "low", "high", "num_seeds"]


def drawn_settings(
    data: SweepData, settings: list[Setting], named: Collection[str] = (), *, one_an_arm: bool = False
) -> list[Setting]:
    """The best setting of each arm by final score; where arms are few, second bests too, unless `one_an_arm`.

    The reference setting stands for its arm. Before anything has finished, each arm's first settings that have
    begun. Of arms with a setting whose key is in `named`, those that are. In the order of arms.
    """
    begun = data.begun
    settings = [s for s in settings if begun & set(s.run_ids.values())]
    by_arm: dict[str, list[Setting]] = {}
    for setting in sorted(settings, key=lambda s: not s.is_reference):
        by_arm.setdefault(setting.arm, []).append(setting)
    free = []
    for arm, group in by_arm.items():
        group.sort(key=_reference_then_best)
        if not any(s.key in named for s in by_arm[arm]):
            free.append(group)
    chosen = [group[0] for group in free]
    room = MAX_LINES - len(by_arm)
    if room >= 2 and not one_an_arm and not named:
        chosen += [group[1] for group in free if len(group) > 1][:room]
    keys = {s.key for s in chosen[:MAX_ARMS]} | set(named)
    order = list(by_arm)
    return sorted((s for s in settings if s.key in keys), key=lambda s: order.index(s.arm))


def _reference_then_best(setting: Setting) -> tuple[bool, float]:
    scores = setting.mean_scores()
    return not setting.is_reference, -mean(scores.values()) if scores else 1.0


Spread = Callable[[Sequence[float]], tuple[float, float]]
"""Lower and upper end of a band over seeds."""


def seed_range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def seed_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student-t interval at the style's level; NaN for one seed. What is drawn so (scores, entropy) is not negative."""
    interval = look().interval(values)
    if interval.low is None or interval.high is None:
        return math.nan, math.nan
    return max(0.0, interval.low), interval.high


def seed_bands(data: SweepData, setting: Setting, column: str, spread: Spread = seed_range) -> pd.DataFrame:
    """Columns BAND_COLUMNS of one metric over the setting's seeds; steps without it are absent."""
    runs = dict.fromkeys(setting.run_ids.values())
    return bands([data.curve_points(run, column) for run in runs], spread)


def bands(points: Iterable[Mapping[int, float]], spread: Spread = seed_range) -> pd.DataFrame:
    """The same of each seed's step -> value."""
    by_step: dict[int, list[float]] = {}
    for seed in points:
        for step, value in seed.items():
            by_step.setdefault(step, []).append(value)
    found = [(step, mean(v), *spread(v), len(v)) for step, v in sorted(by_step.items())]
    return pd.DataFrame(found, columns=BAND_COLUMNS)


def score_bands(data: SweepData, setting: Setting, spread: Spread = seed_range) -> pd.DataFrame:
    """As `seed_bands` of the score, with steps as updates made, from the untrained student's score at 0 (of no seed)
    where it is known. No band leaves 0 to 1.
    """
    frame = seed_bands(data, setting, SCORE, spread).rename(columns={"step": "updates"})
    frame["updates"] += 1
    frame["high"] = frame["high"].clip(upper=1.0)
    start = reference_score(data, "student")
    if frame.empty or start is None:
        return frame
    first = pd.DataFrame([{"updates": 0, "mean": start, "low": start, "high": start, "num_seeds": 0}])
    return pd.concat([first, frame], ignore_index=True)


@dataclass(frozen=True)
class Line:
    """How a setting is drawn."""

    colour: str
    dash: object
    marker: str


def line_styles(settings: list[Setting]) -> dict[str, Line]:
    """Setting key -> its line: the colour tells the arm, dashes and marker the arm's settings apart.

    Where each arm has one line, markers too tell arms apart, for readers who cannot by colour. A setting that several
    sources have counts once.
    """
    settings = list({s.key: s for s in settings}.values())
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


def panel_lines(drawn: Sequence[list[Setting]]) -> tuple[dict[str, Line], dict[str, str]]:
    """Setting key -> line, and -> its name in the legend, of the settings of several panels.

    Where arms have one line in a panel, an arm looks the same and has its plain name in all of several panels,
    whichever of its settings that is.
    """
    every = list({s.key: s for found in drawn for s in found}.values())
    one_each = all(len({s.arm for s in found}) == len(found) for found in drawn)
    labels = {s.arm: s.label for s in every}
    if len(drawn) == 1 or not one_each or len(set(labels.values())) < len(labels):
        return line_styles(every), {s.key: s.title for s in every}
    of_arm = {s.arm: s for s in reversed(every)}
    styles = line_styles([of_arm[arm] for arm in labels])
    return {s.key: styles[of_arm[s.arm].key] for s in every}, {s.key: s.label for s in every}


def shade_warmup(axes: Axes, settings: list[Setting], named: bool, falling: bool = False) -> None:
    """A grey ground up to each horizon that is drawn; it lies darker where more arms still warm up. Its name stands
    low, or high where curves fall.

    Arms that differ from plain distillation for the whole run have no warmup to shade.
    """
    horizons = sorted({s.horizon_steps for s in settings if s.warms_up})
    inside = bool(horizons) and horizons[-1] > ROOM_FOR_WORD * max(s.steps for s in settings)
    for horizon in horizons:
        axes.axvspan(
            0, horizon, color=SHADE, alpha=1 if horizon == horizons[-1] else 0.6, linewidth=0, zorder=0
        )
    if horizons and named:
        axes.annotate(
            "warmup",
            (horizons[-1], float(falling)),
            xytext=(-4 if inside else 4, -4 if falling else 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="top" if falling else "bottom",
            color=MUTED,
            fontsize=look().small,
        )


def draw_line(
    axes: Axes,
    frame: pd.DataFrame,
    x: pd.Series,
    scale: float,
    label: str | None,
    line: Line,
    marked: bool = False,
    band: bool = True,
) -> None:
    """The means of a frame of bands, and the band where wanted."""
    axes.plot(
        x,
        scale * frame["mean"],
        color=line.colour,
        linestyle=line.dash,
        label=label,
        marker=line.marker if marked else None,
        markersize=0.8 * look().mark,
    )
    if band:
        axes.fill_between(
            x.astype(float),
            scale * frame["low"].astype(float),
            scale * frame["high"].astype(float),
            color=line.colour,
            alpha=0.13,
            linewidth=0,
        )


def reference_marks(data: SweepData, axes: Axes) -> None:
    """The untrained student as a point at 0 updates, the teacher as a dotted line, where they have been scored.

    The other lines of the axes must have been drawn.
    """
    student, teacher = reference_score(data, "student"), reference_score(data, "teacher")
    if student is not None:
        axes.plot(
            [0],
            [100 * student],
            color=MUTED,
            marker="o",
            markersize=1.3 * look().mark,
            linestyle="",
            clip_on=False,
            zorder=5,
            label="untrained student",
        )
    if teacher is None:
        return
    low, high = axes.get_ylim()
    if 100 * teacher <= high + FAR_ABOVE * (high - low):
        axes.axhline(
            100 * teacher, color=MUTED, linestyle=(0, (1, 1.5)), linewidth=0.7 * look().line, label="teacher"
        )
        return
    # A line so far above would press all others together: it is named where it would be looked for.
    axes.set_ylim(low, high + 0.1 * (high - low))
    axes.annotate(
        f"teacher {100 * teacher:.1f} ↑",
        (0, 1),
        xytext=(4, -2),
        xycoords="axes fraction",
        textcoords="offset points",
        va="top",
        color=MUTED,
        fontsize=look().small,
    )


def reference_score(data: SweepData, role: str) -> float | None:
    """Mean score of the teacher or the untrained student; None before it has been evaluated."""
    found = data.references[(data.references["role"] == role) & data.references["score_mean"].notna()]
    return None if found.empty else float(found["score_mean"].iloc[0])


def early_steps(settings: list[Setting]) -> int:
    """How many first steps count as early: the longest warmup, at least 10 and at most 50.

    An arm that differs from plain distillation for the whole run says nothing of what is early.
    """
    return min(50, max([10, *(s.horizon_steps for s in settings if s.warms_up)]))


def bands_caption(banded: bool) -> str:
    """What lines and bands of `seed_interval` are."""
    drawn = (
        f"; bands: Student-t {look().coverage} interval over seeds, where two or more have the step"
        if banded
        else f" (their Student-t {look().coverage} intervals are in the data)"
    )
    return f"Lines: mean over seeds{drawn}."


def choice_caption(
    settings: list[Setting], drawn: list[Setting], named: Collection[str], panels: int = 1
) -> str:
    """How the drawn settings were chosen of the settings of their arms, where there was a choice to make; and, for
    several panels, which they are.
    """
    free = {s.arm for s in drawn if s.key not in named}
    points = list(dict.fromkeys(s.title for s in drawn if s.point))
    told = f" Settings: {', '.join(points)}." if panels > 1 and points else ""
    if not any(s.arm in free and s not in drawn for s in settings):
        return told
    return told + (
        " Of an arm with several settings the one with the best final score is drawn (the reference stands for its "
        "own), a choice that favours arms with more settings."
    )
