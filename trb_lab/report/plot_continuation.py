"""Continuation gain: success of two arms' prefixes against the cut, continued by the teacher and by the student (the
paper's figure 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pandas as pd

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.store.run_dir import Store, read_json

from .palette import MARKERS, colours_of
from .plot_layout import below, entries, panels
from .plot_request import Request
from .plot_style import FigureFiles
from .plot_venue import look, style

NAME = "continuation"
FILE = "continuation.json"


def diagnostic_figure(
    store: Store, wanted: Sequence[str] | None, arms: Sequence[str] | None, request: Request
) -> FigureFiles | str:
    """The first diagnostic of `wanted` that the store has, or of all by name; else why there is nothing.

    Raises UsageError for arms that it has not.
    """
    known = sorted(p.parent.name for p in (store.root / "diagnostics").glob(f"*/{FILE}"))
    found = next((n for n in (known if wanted is None else wanted) if n in known), None)
    if found is None:
        named = "" if wanted is None else f" named {' or '.join(wanted)}"
        hint = "" if wanted is None else did_you_mean(wanted[0], known)
        listed = f" There: {', '.join(known)}." if known else ""
        return (
            f"The store has no continuation diagnostic{named}.{hint}{listed} Make one with: trb-lab diagnose "
            "continuation experiments/A.yaml experiments/B.yaml"
        )
    result = read_json(store.diagnostic(found) / FILE) or {}
    names = [arm["name"] for arm in result["arms"]]
    for arm in arms or ():
        if arm not in names:
            raise UsageError(
                f"blocks.{request.name}: arms: {found} has no arm '{arm}'.{did_you_mean(arm, names)} Arms there: "
                f"{', '.join(names)}."
            )
    return _figure(result, names if arms is None else [n for n in names if n in arms], request)


def continuation_figure(result: dict[str, Any], out: Path) -> FigureFiles:
    """Draw the content of continuation.json into out/figures, as the diagnostic itself does."""
    with style():
        return _figure(result, [arm["name"] for arm in result["arms"]], Request(out, NAME))


def _figure(result: dict[str, Any], arms: Sequence[str], request: Request) -> FigureFiles:
    """Bars are intervals clustered by prompt."""
    frame = pd.DataFrame(
        [
            {
                **{key: row[key] for key in ("continuer", "arm", "cut", "continued", "ended")},
                "success": row["success"]["value"],
                "stderr": row["success"]["stderr"],
            }
            for row in result["rates"]
            if row["arm"] in arms
        ]
    )
    kinds = {arm["name"]: arm["warmup"]["kind"] for arm in result["arms"]}
    colours = colours_of(kinds)
    quantile = NormalDist().inv_cdf(1 - look().level / 2)
    continuers = list(dict.fromkeys(frame["continuer"]))
    figure, grid = panels(len(continuers), 2.5, sharey=True)
    for panel, (axes,) in zip(continuers, grid, strict=True):
        for i, arm in enumerate(kinds):
            rows = frame[(frame["continuer"] == panel) & (frame["arm"] == arm)].sort_values("cut")
            if rows.empty:
                continue
            axes.errorbar(
                rows["cut"],
                100 * rows["success"].astype(float),
                100 * quantile * rows["stderr"].astype(float).fillna(0.0),
                label=arm,
                color=colours[arm],
                marker=MARKERS[i % len(MARKERS)],
                capsize=0.4 * look().mark,
            )
        axes.set_title(f"continued by the {panel}")
        axes.set_xlabel("tokens before the cut")
        axes.set_xscale("log", base=2)
        axes.set_xticks(result["cuts"], [str(cut) for cut in result["cuts"]])
        if axes is grid[0][0] or look().narrow:
            axes.set_ylabel("correct (%)")
    grid[0][0].set_ylim(-2, 102)
    below(figure, *entries([axes for (axes,) in grid]))
    caption = (
        f"Success of rollouts of step 0 that are cut and continued, with {look().coverage} intervals clustered by "
        f"prompt ({result['prompts']} prompts, {result['samples']} continuations each, seed {result['seed']})."
    )
    return request.save(figure, frame, "Continuation gain", caption)
