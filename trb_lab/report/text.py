"""table.txt: what a terminal shows of a report."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from .render import to_text
from .tables import Table

if TYPE_CHECKING:
    from .build import Report

RULES = (
    "paper: best of all settings and checkpoints tried; final: mean over settings, nothing chosen;\n"
    "fair: chosen by the other seeds on one half of the problems, scored on the other half\n"
)
WIDTH = 100


def text(report: Report) -> str:
    """Counts, tables with a legend each, the findings."""
    lines = []
    for label, found in report.counts.items():
        told = ", ".join(f"{n} {what}" for what, n in found.items() if n or what == "completed")
        rows = report.shared_rows[label]
        lines.append(f"{label}: {told}" + f" ({rows})" * bool(rows))
    tables = []
    for section in report.sections:
        if section.kind == "search":
            tables.append(section.title + "\n")
        for _, table in section.tables:
            rules = RULES if table.groups and any(title == "fair rule" for title, _ in table.groups) else ""
            tables.append(to_text(table) + _legend(table, report.spec.statistics.level) + rules)
    said = [p for s in report.sections if s.kind == "findings" for p in s.paragraphs]
    words = "\n\n".join(textwrap.fill(p, WIDTH) for p in said)
    return "\n\n".join(part for part in ("\n".join(lines), "\n".join(tables), words) if part).strip() + "\n"


def _legend(table: Table, level: float) -> str:
    """What the marks of this table mean, those that it has."""
    cells = [cell for row in table.rows for cell in row.cells]
    parts = {
        f"± {100 * (1 - level):g} % interval": any(" ± " in c.text for c in cells),
        "* best of the column and its statistical ties": any(c.bold for c in cells),
        "† differs after correction": any("†" in c.mark for c in cells),
        "‡ runs of several code versions": bool(table.flags),
    }
    told = "; ".join(part for part, there in parts.items() if there)
    return f"{told}\n" if told else ""
