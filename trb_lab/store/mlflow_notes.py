"""Descriptions of MLflow runs, in Markdown: what a run is, how it is read, and where the report is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NOTE_TAG = "mlflow.note.content"
PAGE = "report.html"
FINDINGS = "What came out"
"""Heading of the findings in report.md."""
FINDING_CHARACTERS = 2500
"""Of the findings in a description: a tag holds 5000."""
READING = """**Charts.** `train/`, `rollout/` and `policy/` are values of each training step, `eval/` scores at
checkpoints, `final/` scores of the last one (fractions of 1), `system/` clocks and memory (tab *System metrics*).
*Charts by setting* shows a few of them as means over seeds: empty the search field above them for the others.

**Table.** Sorted by *Created*, trials stand below their sweep: the plus before its name unfolds them, and only then
does the chart view show them. `trb.completed` counts them."""


def experiment_address(experiment_id: str) -> str:
    """Address of the list of an experiment's runs within MLflow's pages."""
    return f"#/experiments/{experiment_id}/runs"


def run_address(experiment_id: str, mlflow_run_id: str) -> str:
    """Address of a run's page within MLflow's pages."""
    return f"{experiment_address(experiment_id)}/{mlflow_run_id}"


def sweep_links(sweep: str, parent: str, has_report: bool) -> str:
    """Where the sweep is, and its report."""
    report = f", [report]({parent}/artifacts/report/{PAGE})" * has_report
    return f"Sweep: [{_plain(sweep)}]({parent}){report}"


def experiment_note(question: str, views: str) -> str:
    """Description of a sweep's experiment, above its runs, folded to a line: ways to look at them, the question."""
    return f"{views}\n\n{_plain(question)}".strip()


def sweep_note(question: str, report: Path, address: str, views: str) -> str:
    """Description of a parent run: ways to look at it, the question, the findings of its report, how to read runs."""
    # MLflow folds a description to its first lines: the way to the report stands there.
    parts = []
    if (report / PAGE).exists():
        figures = f" · [figures]({address}/artifacts/report/figures)" * (report / "figures").is_dir()
        parts.append(f"[Report]({address}/artifacts/report/{PAGE}){figures} · {views}")
        parts.append(f"**{_plain(question)}**" if question else "")
        found = _findings(report / "report.md")
        parts.append(f"### {FINDINGS}\n{found}" if found else "")
    else:
        parts.append(f"Views: {views}")
        parts.append(f"**{_plain(question)}**" if question else "")
        parts.append("The report is made when the sweep ends, or by `trb-lab report`.")
    parts.append(READING)
    return "\n\n".join(p for p in parts if p)


def _findings(report: Path) -> str:
    """The findings of a report.md as they stand there; empty where it has none."""
    try:
        text = report.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    found = re.search(rf"^## {FINDINGS}\n(.*?)(?=^## |\Z)", text, re.S | re.M)
    words = found[1].strip() if found else ""
    return (
        words
        if len(words) <= FINDING_CHARACTERS
        else words[:FINDING_CHARACTERS].rsplit("\n", 1)[0] + "\n\n..."
    )


def trial_note(run_id: str, sharing: Sequence[Mapping[str, Any]]) -> str:
    """Description of a trial: arm, setting, seed, and what each row of the plan changes in the base experiment."""
    lines = ["| arm | setting | seed | changes |", "|---|---|---|---|"]
    for row in sharing:
        changes = ", ".join(f"`{_plain(k)}: {_value(v)}`" for k, v in (row.get("overrides") or {}).items())
        cells = (row.get("arm", ""), row.get("setting") or "-", row.get("seed", ""), changes or "nothing")
        lines.append("| " + " | ".join(_plain(c).replace("|", "\\|") for c in cells) + " |")
    return f"Run `{run_id}`\n\n" + "\n".join(lines)


def reference_note(role: str, model: str) -> str:
    """Description of a reference."""
    return f"The untrained {role}" + f" (`{_plain(model)}`)" * bool(model) + ", scored on the sweep's sets."


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> str:
    """Text on one line, without what Markdown would take for HTML."""
    return " ".join(str(value).split()).replace("<", "&lt;")
