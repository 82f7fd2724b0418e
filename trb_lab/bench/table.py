"""What a benchmark found, as aligned text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Spread(NamedTuple):
    """Repeated measurements of one figure."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One contestant. `ratios`: to which other row -> spread over the repeats."""

    what: str
    figure: Spread
    ratios: dict[str, Spread]
    notes: dict[str, Any]
    """Further columns."""


@dataclass(frozen=True)
class Table:
    """Rows of one unit; `repeats` measurements each."""

    title: str
    unit: str
    repeats: int
    rows: list[Row]
    remarks: tuple[str, ...] = ()
    """Sentences below the table."""


@dataclass(frozen=True)
class Result:
    """All that `trb-lab bench NAME` prints."""

    name: str
    hardware: dict[str, Any]
    hardware_line: str
    tables: list[Table]
    remarks: tuple[str, ...] = ()
    """Sentences on all tables."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data: spreads as {"median", "low", "high"}."""
        tables = []
        for table in self.tables:
            rows = [
                {
                    "what": row.what,
                    **row.figure._asdict(),
                    "ratios": {name: ratio._asdict() for name, ratio in row.ratios.items()},
                    **row.notes,
                }
                for row in table.rows
            ]
            head = {"title": table.title, "unit": table.unit, "repeats": table.repeats}
            tables.append({**head, "rows": rows, "remarks": list(table.remarks)})
        head = {"bench": self.name, "hardware": self.hardware, "remarks": list(self.remarks)}
        return {**head, "tables": tables}

    def as_text(self) -> str:
        """Header with the hardware, then one table after another."""
        parts = ["\n".join([f"bench {self.name}: {self.hardware_line}", *self.remarks])]
        parts += [_table_text(table) for table in self.tables]
        return "\n\n".join(parts)


def _table_text(table: Table) -> str:
    notes = list(dict.fromkeys(key for row in table.rows for key in row.notes))
    head = ["what", "median", "spread", "ratio (spread)", *(key.replace("_", " ") for key in notes)]
    lines = [head, *(_cells(row, notes) for row in table.rows)]
    kept = [i for i in range(len(head)) if i < 2 or any(line[i] not in ("", "-") for line in lines[1:])]
    lines = [[line[i] for i in kept] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(kept))]
    title = f"{table.title}: {table.unit}, {table.repeats} repeat{'s' if table.repeats > 1 else ''}"
    return "\n".join([title, *(_aligned(line, widths) for line in lines), *table.remarks])


def _cells(row: Row, notes: Sequence[str]) -> list[str]:
    figure = row.figure
    ratios = ", ".join(
        f"{number(r.median)} ({number(r.low)}..{number(r.high)}) of {name}" for name, r in row.ratios.items()
    )
    spread = "" if figure.low == figure.high else f"{number(figure.low)}..{number(figure.high)}"
    shown = ["" if row.notes.get(key) is None else number(row.notes[key]) for key in notes]
    return [row.what, number(figure.median), spread, ratios or "-", *shown]


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Medians to the right, all else to the left."""
    parts = [
        cell.rjust(width) if i == 1 else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return ("  " + "  ".join(parts)).rstrip()


def number(value: Any) -> str:
    """Three significant digits; whole from 100 on."""
    if not isinstance(value, float) or value == 0.0:
        return str(value).removesuffix(".0")
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"
