"""A table as a LaTeX `table` environment for a paper, with booktabs and siunitx (versions 2 and 3).

Numbers stand in S columns, aligned at the decimal point, with their uncertainties; bold and underline keep the
alignment. Everything else is text in columns of its own, and no text can be a command. A table that is wider than
its line is scaled down to it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from .latex_text import latex_text
from .tables import Cell, Row, Table

NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?)(?: ± (\d+(?:\.\d+)?))?")
SIGNED = re.compile(r"(?<![\w.])([+-])(?=\d)")
LONG_TEXT = 28
"""Characters beyond which a text column breaks its lines."""
HEAD = r"""% Needs the packages booktabs, siunitx (2 or 3), array and graphicx; \usepackage[T1]{fontenc}, textcomp.
% Written by trb-lab; every cell's runs are in the JSON file beside this one.
"""


@dataclass(frozen=True)
class Number:
    """Parts of a cell that is a number, as they are written."""

    value: str
    error: str = ""


def number_of(cell: Cell) -> Number | None:
    """None for a cell that is text."""
    found = NUMBER.fullmatch(cell.text)
    return Number(found[1], found[2] or "") if found else None


def to_latex(table: Table, name: str) -> str:
    """The whole environment, labelled `tab:NAME`."""
    columns = [[row.cells[i] for row in table.rows] for i in range(len(table.columns))]
    numeric = [_is_numeric(cells) for cells in columns]
    errors = [max((n.error for c in cells if (n := number_of(c))), key=len, default="") for cells in columns]
    letters = _note_letters(table)
    kinds = [
        _number_column(cells, letters)
        if is_number
        else _text_column([c.text for c in cells], "r" if any(c.value is not None for c in cells) else "c")
        for cells, is_number in zip(columns, numeric, strict=True)
    ]
    lines = [
        r"\begin{table}[tbp]",
        r"  \centering",
        rf"  \caption{{{latex_text(table.caption or table.title, breakable=True)}}}",
        rf"  \label{{tab:{re.sub(r'[^A-Za-z0-9.:-]+', '-', name)}}}",
        r"  \par\smallskip\small",
        r"  \setlength{\tabcolsep}{4pt}",
        r"  \sisetup{mode=text, detect-weight=true, retain-explicit-plus=true, separate-uncertainty=true,",
        r"    table-align-uncertainty=true, table-align-text-post=false}",
        r"  \resizebox{\ifdim\width>\linewidth \linewidth\else \width\fi}{!}{%",
        r"  \begin{tabular}{@{}",
        *(f"    {kind}" for kind in [_text_column([r.title for r in table.rows], "l"), *kinds]),
        r"  @{}}",
        r"    \toprule",
        *_heads(table),
        r"    \midrule",
    ]
    for index, (_, rows) in enumerate(groupby(table.rows, key=_part)):
        lines += [r"    \midrule"] * (index > 0)
        lines += [_row(row, numeric, errors, letters) for row in rows]
    lines += [r"    \bottomrule", r"  \end{tabular}}", *_notes(table, letters), r"\end{table}"]
    return HEAD + "\n".join(lines) + "\n"


def _part(row: Row) -> str:
    """Rows of one part stand together, with a rule between parts."""
    return row.kind if row.kind in ("reference", "published") else "arm"


def _is_numeric(cells: Sequence[Cell]) -> bool:
    """Whether a column is of numbers, but for cells that say why there is none."""
    return any(number_of(c) for c in cells) and all(number_of(c) or c.value is None for c in cells)


def _number_column(cells: Sequence[Cell], letters: dict[str, str]) -> str:
    """An S column whose table-format holds the widest value and the widest error."""
    found = [n for n in map(number_of, cells) if n is not None]
    sign = "+" if any(n.value[0] in "+-" for n in found) else ""
    whole, decimals = _figures([n.value.lstrip("+-") for n in found])
    options = f"{sign}{whole}" + f".{decimals}" * (decimals > 0)
    errors = [n.error for n in found if n.error]
    if errors:
        options += f"({sum(_figures(errors))})"
    options = f"table-format={options}"
    marks = [_superscripts(c, letters) for c in cells if number_of(c)]
    widest = max(marks, key=len, default="")
    if widest:
        options += f", table-space-text-post={{{widest}}}"
    return f"S[{options}]"


def _figures(numbers: Sequence[str]) -> tuple[int, int]:
    """Digits before and after the point, of the widest of each."""
    parts = [n.partition(".") for n in numbers]
    return max(len(p[0]) for p in parts), max(len(p[2]) for p in parts)


def _text_column(texts: Sequence[str], alignment: str) -> str:
    """Short text on one line; long text in a column that breaks it."""
    longest = max(map(len, texts), default=0)
    if longest <= LONG_TEXT:
        return alignment
    return r">{\raggedright\arraybackslash}p{" + f"{min(max(longest * 0.55, 16), 30):.0f}em" + "}"


def _heads(table: Table) -> list[str]:
    """The groups with a rule below each, and the names of the columns."""
    lines, at = [], 2
    if table.groups:
        titles = [rf"\multicolumn{{{span}}}{{c}}{{{latex_text(title)}}}" for title, span in table.groups]
        lines.append("    & " + " & ".join(titles) + r" \\")
        rules = []
        for title, span in table.groups:
            if title:
                rules.append(rf"\cmidrule(lr){{{at}-{at + span - 1}}}")
            at += span
        lines.append("    " + " ".join(rules))
    names = [
        "{" + latex_text(short) + _superscript(table.flags.get(column, "")) + "}"
        for column, short in zip(table.columns, table.short_columns, strict=True)
    ]
    lines.append("    " + " & ".join([latex_text(table.head), *names]) + r" \\")
    return lines


def _row(row: Row, numeric: Sequence[bool], errors: Sequence[str], letters: dict[str, str]) -> str:
    """errors: the widest of each column."""
    columns = zip(row.cells, numeric, errors, strict=True)
    cells = [_cell(cell, is_number, error, letters) for cell, is_number, error in columns]
    return "    " + " & ".join([latex_text(row.title, breakable=True), *cells]) + r" \\"


def _cell(cell: Cell, numeric: bool, widest_error: str, letters: dict[str, str]) -> str:
    number, marks = number_of(cell), _superscripts(cell, letters)
    if numeric and number is not None:
        text = number.value + f" +- {number.error}" * bool(number.error)
        if cell.bold:
            text = r"\bfseries " + text
        return text + _line_below(number, widest_error) * (cell.second and not cell.bold) + marks
    return "{" + _absent(cell) + marks + "}" if numeric else _words(cell) + marks


def _absent(cell: Cell) -> str:
    return "--" if cell.text in ("–", "") else latex_text(cell.text)


def _words(cell: Cell) -> str:
    """A cell of text: signs of numbers are minus signs, not hyphens."""
    text = latex_text(SIGNED.sub(lambda m: "−" if m[1] == "-" else "+", cell.text), breakable=True)
    if cell.bold:
        return rf"\textbf{{{text}}}"
    return rf"\underline{{{text}}}" if cell.second and text else text


def _line_below(number: Number, widest_error: str) -> str:
    """A line below the number that stands before it; takes no room, so that the column stays aligned.

    Errors of a column are all as wide as its widest, and the room of one that is absent is kept.
    """
    error = rf" \pm {widest_error}" * bool(widest_error)
    if number.error or not widest_error:
        return rf"{{\llap{{\underline{{\phantom{{${number.value}{error}$}}}}}}}}"
    return rf"{{\llap{{\underline{{\phantom{{${number.value}$}}}}\phantom{{${{}}{error}$}}}}}}"


def _superscripts(cell: Cell, letters: dict[str, str]) -> str:
    return _superscript(cell.mark + letters.get(cell.note, ""))


def _superscript(marks: str) -> str:
    return rf"{{\textsuperscript{{{latex_text(marks)}}}}}" if marks else ""


def _note_letters(table: Table) -> dict[str, str]:
    """Text of a cell's note -> the letter that stands for it."""
    notes = dict.fromkeys(c.note for row in table.rows for c in row.cells if c.note)
    return {note: _letter(i) for i, note in enumerate(notes)}


def _letter(index: int) -> str:
    first, last = divmod(index, 26)
    return (chr(ord("a") + (first - 1) % 26) if first else "") + chr(ord("a") + last)


def _notes(table: Table, letters: dict[str, str]) -> list[str]:
    """Below the table, in small type: what letters stand for, then what is said of the whole."""
    told = "; ".join(
        rf"{_superscript(letter)}\,{latex_text(note, breakable=True)}" for note, letter in letters.items()
    )
    texts = [f"{told}." if told else "", *(latex_text(n, breakable=True) for n in table.notes)]
    texts = [t for t in texts if t]
    if not texts:
        return []
    return [
        r"  \par\smallskip",
        r"  \parbox{\linewidth}{\footnotesize\raggedright\sloppy",
        *(f"    {text}" + r"\par" * (i + 1 < len(texts)) for i, text in enumerate(texts)),
        r"  }",
    ]
