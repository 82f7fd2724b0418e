"""Continuation gain: success of two arms' prefixes against the cut, continued by the teacher and by the student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from .plot_style import MARKERS, WIDTH_INCHES, FigureFiles, below, colours_of, save, style

NAME = "continuation"


def continuation_figure(result: dict[str, Any], out: Path) -> FigureFiles:
    """Draw the content of continuation.json into out/figures; bars are 95 % intervals, clustered by prompt."""
    frame = pd.DataFrame(
        [
            {
                **{key: row[key] for key in ("continuer", "arm", "cut", "continued", "ended")},
                "success": row["success"]["value"],
                "stderr": row["success"]["stderr"],
            }
            for row in result["rates"]
        ]
    )
    kinds = {arm["name"]: arm["warmup"]["kind"] for arm in result["arms"]}
    colours = colours_of(kinds)
    with style():
        from matplotlib import pyplot

        continuers = list(dict.fromkeys(frame["continuer"]))
        figure, axes = pyplot.subplots(
            1, len(continuers), figsize=(WIDTH_INCHES, 2.8), sharey=True, squeeze=False
        )
        for panel, continuer in zip(axes[0], continuers, strict=True):
            for i, arm in enumerate(kinds):
                rows = frame[(frame["continuer"] == continuer) & (frame["arm"] == arm)].sort_values("cut")
                panel.errorbar(
                    rows["cut"],
                    100 * rows["success"].astype(float),
                    196 * rows["stderr"].astype(float).fillna(0.0),
                    label=arm,
                    color=colours[arm],
                    marker=MARKERS[i],
                    capsize=2,
                )
            panel.set_title(f"continued by the {continuer}")
            panel.set_xlabel("tokens before the cut")
            panel.set_xscale("log", base=2)
            panel.set_xticks(result["cuts"], [str(cut) for cut in result["cuts"]])
        axes[0][0].set_ylabel("correct, %")
        axes[0][0].set_ylim(-2, 102)
        below(axes[0][0], anchor=-0.28)
        caption = "Success of rollouts of step 0 that are cut and continued, with 95 % intervals clustered by prompt."
        return save(figure, frame, out, NAME, "Continuation gain", caption)
