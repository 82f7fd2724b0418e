"""One table model, four forms: Markdown, HTML, CSV and plain text for a terminal."""

from __future__ import annotations

import csv
import io
import re
from html import escape

from .tables import Cell, Row, Table

TEXT_WIDTH = 120
TITLE_WIDTH = 40


def to_markdown(table: Table) -> str:
    """A pipe table; bold as **bold**, the second underlined, notes of a cell in brackets, run ids (where rows have
    any) in the last column.
    """
    with_runs = any(r.run_ids for r in table.rows)
    heads = [markdown_escape(c + table.flags.get(c, "")) for c in table.columns]
    lines = [_pipes([table.head, *heads] + ["runs"] * with_runs)]
    lines.append(_pipes(["---"] + ["---:"] * len(table.columns) + ["---"] * with_runs))
    for row in table.rows:
        runs = [", ".join(f"`{r}`" for r in row.run_ids)] * with_runs
        lines.append(_pipes([markdown_escape(row.title), *map(_markdown_cell, row.cells), *runs]))
    return "\n".join(lines) + "\n"


def markdown_escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = escape(" ".join(text.split()), quote=False)
    return "".join("\\" + c if c in "\\`*_[]|#" else c for c in text)


def code_span(text: str) -> str:
    """Text as one Markdown code span: nothing in it can end the span or the line."""
    text = text.replace("\r", "\\r").replace("\n", "\\n")
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    room = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{room}{text}{room}{fence}"


def _pipes(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown_cell(cell: Cell) -> str:
    text = markdown_escape(cell.text)
    text = f"**{text}**" if cell.bold else f"<u>{text}</u>" if cell.second else text
    text += cell.mark
    return f"{text} ({markdown_escape(cell.note)})" if cell.note else text


def to_html(table: Table, identifier: str) -> str:
    """A <table>; numeric cells carry data-value for sorting; titles are row headers; run ids unfold."""
    short = zip(table.columns, table.short_columns, strict=True)
    names = [table.head, *(name + table.flags.get(column, "") for column, name in short)]
    head = "".join(f'<th scope="col"><button type="button">{escape(c)}</button></th>' for c in names)
    body = "\n".join(_html_row(row) for row in table.rows)
    return (
        f'<table id="{escape(identifier)}" class="sortable">\n<caption>{escape(table.title)}</caption>\n'
        f"<thead>{_html_groups(table)}<tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    )


def _html_groups(table: Table) -> str:
    """The row above the column names that says what groups of columns are."""
    if not table.groups:
        return ""
    cells = "".join(
        f'<th scope="colgroup" colspan="{span}">{escape(name)}</th>' for name, span in table.groups
    )
    return f'<tr class="groups"><td></td>{cells}</tr>'


def _html_row(row: Row) -> str:
    found = row.run_ids or list(dict.fromkeys(r for c in row.cells for r in c.run_ids))
    runs = "".join(f"<code>{escape(r)}</code>" for r in found)
    details = f"<details><summary>runs</summary>{runs}</details>" if runs else ""
    cells = "".join(_html_cell(c) for c in row.cells)
    return f'<tr class="{row.kind}"><th scope="row">{escape(row.title)}{details}</th>{cells}</tr>'


def _html_cell(cell: Cell) -> str:
    value = "" if cell.value is None else f' data-value="{cell.value:.6g}"'
    text = escape(cell.text)
    text = f"<strong>{text}</strong>" if cell.bold else f"<u>{text}</u>" if cell.second else text
    text += f"<sup>{escape(cell.mark)}</sup>" if cell.mark else ""
    note = f'<span class="note">{escape(cell.note)}</span>' if cell.note else ""
    absent = cell.value is None and cell.text.startswith(("failed", "missing", "running"))
    mark = ' class="absent"' if absent else ""
    return f"<td{mark}{value}>{text}{note}</td>"


def to_csv(table: Table) -> str:
    """Long enough to recompute the table: mean, half-width, bold, note and, where a cell of the column has one, the
    mark as columns.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    marked = [any(row.cells[i].mark for row in table.rows) for i in range(len(table.columns))]
    fields = [
        f"{c}{suffix}"
        for c, mark in zip(table.columns, marked, strict=True)
        for suffix in ("", "_half_width", "_best_or_tied", "_note", *["_mark"] * mark)
    ]
    writer.writerow(["title", "kind", *fields, "run_ids"])
    for row in table.rows:
        values: list[str] = []
        for cell, mark in zip(row.cells, marked, strict=True):
            values += [
                _number(cell.value) or cell.text,
                _number(cell.half_width),
                "1" if cell.bold else "",
                cell.note,
                *[cell.mark] * mark,
            ]
        writer.writerow([row.title, row.kind, *values, " ".join(row.run_ids)])
    return out.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def to_text(table: Table, width: int = TEXT_WIDTH) -> str:
    """Plain text of at most `width` columns; columns that do not fit go below.

    `*` marks the best and its ties. What is missing is told once a row, in the last column.
    """
    title_width = min(TITLE_WIDTH, max([len(r.title) for r in table.rows] + [len(table.head)]))
    columns = [
        [c + table.flags.get(c, "")] + [_text_cell(r.cells[i]) for r in table.rows]
        for i, c in enumerate(table.columns)
    ]
    columns[-1][1:] = [r.cells[-1].note or text for r, text in zip(table.rows, columns[-1][1:], strict=True)]
    titles = [table.head] + [_shorten(r.title, title_width) for r in table.rows]
    blocks: list[list[list[str]]] = [[]]
    used = title_width
    for column in columns:
        needed = max(map(len, column)) + 2
        if blocks[-1] and used + needed > width:
            blocks.append([])
            used = title_width
        blocks[-1].append(column)
        used += needed
    return f"{table.title}\n" + "\n".join(_text_block(titles, title_width, b, width) for b in blocks)


def _text_cell(cell: Cell) -> str:
    star = "*" if cell.bold else " " if cell.half_width is not None else ""
    return cell.text + cell.mark + star


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _text_block(titles: list[str], title_width: int, block: list[list[str]], width: int) -> str:
    widths = [max(map(len, column)) for column in block]
    lines = []
    for i, title in enumerate(titles):
        cells = [_shorten(column[i], width).rjust(w) for column, w in zip(block, widths, strict=True)]
        lines.append("  ".join([title.ljust(title_width), *cells]).rstrip())
        if i == 0:
            lines.append("-" * min(width, title_width + sum(w + 2 for w in widths)))
    return "\n".join(lines) + "\n"
