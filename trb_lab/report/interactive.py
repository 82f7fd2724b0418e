"""Curves for the page: of every run, and of every setting its mean over seeds with an interval.

Lines have the colours and dashes of the static figures. Numbers are rounded and thinned, so that a thousand runs fit
into a page; the run files have them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from .collect import CURVE_SCORE
from .page_data import rounded, rounded_parts
from .plot_curves import drawn_settings, line_styles, reference_score
from .settings import Setting
from .sources import Source
from .stats import LEVEL, t_quantile

MAX_POINTS = 200
"""Of one line."""
FEW_POINTS = 50
ALL_POINTS = 100_000
"""Of one metric over all runs: where there are more, each run has fewer points, but at least FEW_POINTS."""
DASH_PIXELS = 2.0
"""Line width in the page; dashes are in units of it."""


@dataclass(frozen=True)
class Metric:
    """A curve that can be chosen."""

    column: str
    name: str
    axis: str
    """What the axis says, with the unit."""
    scale: float = 1.0


METRICS = (
    Metric(CURVE_SCORE, "score", "pass@1 (%), mean of sets", 100),
    Metric("rollout/reward", "reward", "correct rollouts (%)", 100),
    Metric("rollout/length_mean", "length", "mean response tokens"),
    Metric("policy/kl_mean", "KL to the student", "KL(μ‖p) (nats a token)"),
    Metric("policy/beta_mean", "beta", "mean β"),
    Metric("policy/redraw_rate", "redraw rate", "redraw rate (%)", 100),
    Metric("policy/teacher_entropy", "teacher entropy", "teacher entropy (nats a token)"),
    Metric("train/reverse_kl", "reverse KL", "reverse KL (nats a token)"),
)


class Grids:
    """Steps that many lines share, each kept once."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []
        self._index: dict[tuple[int, ...], int] = {}

    def index(self, steps: Sequence[int]) -> int:
        """Where these steps are in `self.steps`; added if they are new."""
        key = tuple(steps)
        if key not in self._index:
            self._index[key] = len(self.steps)
            self.steps.append(list(key))
        return self._index[key]


def curves_data(sources: Sequence[Source], level: float = LEVEL) -> dict[str, Any] | None:
    """Everything that the page draws, ready for JSON; None where no run has a line.

    {"grids": [[step, ...], ...], "sources": [...]}; a line is [grid, [value, ...]], a band [grid, means, half-widths,
    number of seeds]. Half-widths, of intervals that cover 1 - level, are null where there is one seed.
    """
    grids = Grids()
    found = [_source(s, grids, level) for s in sources if not s.data.curves.empty]
    found = [s for s in found if s["metrics"]]
    return {"grids": grids.steps, "sources": found} if found else None


def _source(source: Source, grids: Grids, level: float) -> dict[str, Any]:
    data = source.data
    begun = data.begun
    settings = [s for s in source.settings if begun & set(s.run_ids.values())]
    metrics = []
    for metric in METRICS:
        if metric.column not in data.curves:
            continue
        frame = data.curves[["run_id", "step", metric.column]].dropna()
        frame = frame.rename(columns={metric.column: "value"})
        if frame.empty:
            continue
        frame["value"] *= metric.scale
        updates = metric.column == CURVE_SCORE
        frame["step"] += updates  # scores are measured after the update
        metrics.append(
            {
                "key": metric.column,
                "name": metric.name,
                "axis": metric.axis,
                "x": "updates" if updates else "training step (0-based)",
                "start": _percent(reference_score(data, "student")) if updates else None,
                "teacher": _percent(reference_score(data, "teacher")) if updates else None,
                "runs": _run_lines(frame, grids),
                "bands": _bands(frame, settings, grids, level),
            }
        )
    return {"label": source.label, "metrics": metrics, "settings": _settings(source, settings)}


def _percent(score: float | None) -> float | None:
    return None if score is None else rounded(100 * score)


def _settings(source: Source, settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """What is drawn first comes first in the colouring too, so that lines look as in the static figures."""
    drawn = drawn_settings(source.data, list(settings))
    keys = {s.key for s in drawn}
    styles = line_styles([*drawn, *(s for s in settings if s.key not in keys)])
    return [
        {
            "title": s.title,
            "colour": styles[s.key].colour,
            "dash": dash_pixels(styles[s.key].dash),
            "drawn": s.key in keys,
            "reference": s.is_reference,
            "runs": {str(seed): run for seed, run in sorted(s.run_ids.items())},
        }
        for s in settings
    ]


def dash_pixels(dash: Any) -> list[float]:
    """A matplotlib dash as lengths in pixels; empty for a solid line."""
    return [] if isinstance(dash, str) else [round(DASH_PIXELS * length, 1) for length in dash[1]]


@cache
def thinned(length: int, most: int) -> np.ndarray:
    """Indices of at most `most` of `length` points, evenly spread, the first and the last among them."""
    if length <= most:
        return np.arange(length)
    return np.unique(np.round(np.linspace(0, length - 1, most)).astype(int))


def _run_lines(frame: pd.DataFrame, grids: Grids) -> dict[str, Any]:
    groups = frame.groupby("run_id", sort=False).indices
    most = max(FEW_POINTS, min(MAX_POINTS, ALL_POINTS // max(1, len(groups))))
    steps, values = frame["step"].to_numpy(), frame["value"].to_numpy()
    kept = [np.asarray(places)[thinned(len(places), most)] for places in groups.values()]
    told = rounded_parts(values, kept)
    return {
        str(run_id): [grids.index(steps[places].tolist()), numbers]
        for run_id, places, numbers in zip(groups, kept, told, strict=True)
    }


def _bands(frame: pd.DataFrame, settings: Sequence[Setting], grids: Grids, level: float) -> dict[str, Any]:
    """Position of a setting -> [grid, mean over seeds, half-width of its Student-t interval, number of seeds]."""
    members = pd.DataFrame(
        [(i, run) for i, s in enumerate(settings) for run in sorted(set(s.run_ids.values()))],
        columns=["setting", "run_id"],
    )
    joined = members.merge(frame, on="run_id")
    table = joined.groupby(["setting", "step"])["value"].agg(["mean", "std", "size"]).reset_index()
    quantiles = {n: t_quantile(n - 1, level) / np.sqrt(n) for n in table["size"].unique() if n > 1}
    table["half"] = table["std"] * table["size"].map(quantiles)
    columns = {name: table[name].to_numpy() for name in ("step", "mean", "half", "size")}
    groups = table.groupby("setting").indices
    kept = [np.asarray(places)[thinned(len(places), MAX_POINTS)] for places in groups.values()]
    means, halves = (rounded_parts(columns[name], kept) for name in ("mean", "half"))
    return {
        str(index): [
            grids.index(columns["step"][places].tolist()),
            mean,
            half,
            columns["size"][places].tolist(),
        ]
        for index, places, mean, half in zip(groups, kept, means, halves, strict=True)
    }
