"""Continuation gain as files, and as a table for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trb_lab.driver.view import text_table
from trb_lab.evaluate.continuation import Item
from trb_lab.store.run_dir import write_atomic, write_json


def write_result(folder: Path, result: dict[str, Any], items: Sequence[Item]) -> None:
    """items.parquet, rates.csv, figures/continuation.* where matplotlib is there, and continuation.json last."""
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([asdict(item) for item in items]).to_parquet(folder / "items.parquet", index=False)
    text = io.StringIO()
    flat = [_flat(row) for row in result["rates"]]
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    write_atomic(folder / "rates.csv", text.getvalue())
    if find_spec("matplotlib"):
        from trb_lab.report.plot_continuation import continuation_figure

        continuation_figure(result, folder)
    write_json(folder / "continuation.json", result)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Estimates as two columns: `success`, `success_stderr`."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat.update({key: value["value"], f"{key}_stderr": value["stderr"]})
        else:
            flat[key] = value
    return flat


def table(result: dict[str, Any]) -> str:
    """The result for a terminal: one block a continuer, one line a cut."""
    first, second = (arm["name"] for arm in result["arms"])
    found = {(r["arm"], r["continuer"], r["cut"]): r for r in result["rates"]}
    prefixes = {(p["arm"], p["cut"]): p for p in result["prefixes"]}
    blocks = [
        f"{first} against {second}: {result['prompts']} prompts, {result['samples']} continuations of each prefix, "
        f"seed {result['seed']}"
    ]
    for continuer in dict.fromkeys(row["continuer"] for row in result["rates"]):
        lines = []
        for gain in (g for g in result["gains"] if g["continuer"] == continuer):
            cut = gain["cut"]
            a, b = found[first, continuer, cut], found[second, continuer, cut]
            lines.append(
                [
                    str(cut),
                    _percent(a["success"]),
                    _percent(b["success"]),
                    _percent(gain["success"], sign=True),
                    _percent(gain["with_ended"], sign=True),
                    f"{a['ended']} / {b['ended']}",
                    " / ".join(_number(prefixes[arm, cut]["teacher_logprob"]) for arm in (first, second)),
                ]
            )
        header = ["cut", first, second, "difference", "with ended ones", "ended", "teacher log-prob"]
        blocks.append(f"continued by the {continuer}:\n{text_table(header, lines)}")
    blocks.append(
        "Percent of continuations that are correct ± standard error clustered by prompt. Rollouts that had ended "
        "before the cut are left out,\nbut in `with ended ones`, where they count as they were.\n"
        f"written: {result['folder']}"
    )
    return "\n\n".join(blocks)


def _percent(estimate: dict[str, Any], *, sign: bool = False) -> str:
    value, stderr = estimate["value"], estimate["stderr"]
    if value is None:
        return "-"
    shown = f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"
    return shown if stderr is None else f"{shown} ± {100 * stderr:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
