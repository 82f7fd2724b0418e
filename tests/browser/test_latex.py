"""Every table of a report through pdflatex: of plausible runs, and of names that want to be commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.report.synthetic import SETS, TEN_ARMS, write_store
from trb_lab.report.latex import to_latex
from trb_lab.report.latex_text import ESCAPES
from trb_lab.report.sections import Context, make_sections
from trb_lab.report.sources import open_sources
from trb_lab.report.tables import Cell, Row, Table
from trb_lab.spec.report import ReportSpec
from trb_lab.store.run_dir import read_json, write_json

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not os.environ.get("TRB_LAB_TEST_BROWSER"), reason="set TRB_LAB_TEST_BROWSER=1"),
    pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not here"),
]
DOCUMENT = r"""\documentclass[10pt]{article}
\usepackage[a4paper,margin=3cm]{geometry}
\usepackage[T1]{fontenc}
\usepackage{textcomp,booktabs,siunitx,array,graphicx}
\begin{document}
%s
\end{document}
"""
HOSTILE = r"50% & \input{/etc/passwd} _x_ #1 $\alpha$ {a} ~ ^2 ← ≤ – ε λ τ₀ 猫 \\ [2em] *"
TABLES = ("results", "scores", "selection", "problems", "cost", "health")


def compiled(tables: dict[str, str], folder: Path) -> str:
    """The log of one run of pdflatex over all of them, a page each."""
    for name, text in tables.items():
        (folder / f"{name}.tex").write_text(text, encoding="utf-8")
    pages = "\n".join(rf"\input{{{name}}}\clearpage" for name in tables)
    (folder / "all.tex").write_text(DOCUMENT % pages, encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "-no-shell-escape", "all.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=240)
    assert done.returncode == 0, done.stdout[-3000:]
    return (folder / "all.log").read_text(encoding="utf-8", errors="replace")


def assert_clean(log: str) -> None:
    """No line sticks out by a point or more, nothing is undefined, no glyph is missing."""
    for found in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log):
        assert float(found) < 1.0, log
    for word in ("undefined", "Missing character", "multiply defined", "not set up for use"):
        assert word not in log, log


def report_tables(root: Path, arms: dict[str, dict[str, Any]], question: str, label: str) -> dict[str, str]:
    """LaTeX of every kind of table, of two sources side by side and of one."""
    store = write_store(
        root, name="one", arms=arms, seeds=(0, 1, 2), steps=30, items=True, failed=(4,), missing=(7,)
    )
    plan = read_json(store.sweep("one").plan)
    write_json(store.sweep("two").plan, {**plan, "name": "two", "question": question})
    spec = ReportSpec.model_validate(
        {
            "name": "r",
            "title": "t",
            "sources": {"a": {"sweep": "one", "label": label}, "b": {"sweep": "two", "arms": list(arms)[:3]}},
            "blocks": [
                {"kind": "table", "table": t, "published": PUBLISHED if t == "results" else None}
                for t in TABLES
            ],
        }
    )
    sections = make_sections(Context(store, spec, open_sources(store, spec), root))
    return {name: to_latex(table, name) for s in sections for name, table in s.tables}


PUBLISHED = {
    "label": "arXiv 0000.00000, table 1",
    "rows": [{"arm": "trb", "values": {"a": {"mean": 33.2, **dict.fromkeys(SETS, 9.1)}}}],
}


def test_every_table_of_a_report_compiles(tmp_path: Path) -> None:
    tables = report_tables(tmp_path / "runs", TEN_ARMS, "Which arm?", "large")
    assert len(tables) == 1 + 2 * 5
    assert r"\bfseries" in tables["results"]
    assert "(published)" in tables["results"]
    assert r"\cmidrule" in tables["results"]
    assert_clean(compiled(tables, tmp_path))


def test_no_name_is_a_command(tmp_path: Path) -> None:
    arms = {k: {**body, "label": f"{HOSTILE} {i}"} for i, (k, body) in enumerate(list(TEN_ARMS.items())[:4])}
    tables = report_tables(tmp_path / "runs", arms, HOSTILE, HOSTILE)
    log = compiled(tables, tmp_path)
    assert_clean(log)
    assert "passwd" not in re.sub(r"\s", "", "".join(re.findall(r"\(([^()\s]+)", log)))


def test_every_character_that_has_a_name_compiles(tmp_path: Path) -> None:
    letters = "".join(ESCAPES) + "äéßçÅøłőš ŋ猫🙂'' -- ,, ?` !` << >>"
    cells = [
        Cell("35.5 ± 2.9", 0.355, 0.029, bold=True, mark="†"),
        Cell("1.0 ± 12.9", 0.01, 0.129, second=True, note=letters),
        Cell("failed", note="failed 1/3"),
        Cell("104.5", 1.045, second=True),
    ]
    rows = [
        Row(f"{letters} {i}", kind, [c, Cell(letters, 1.0, bold=True), Cell("+1.2 [-3.0, +5.4]", 0.012)])
        for i, (kind, c) in enumerate(zip(["reference", "baseline", "arm", "published"], cells, strict=True))
    ]
    columns = ["g%: value", "g%: " + letters[:12], "other"]
    table = Table("[x] " + letters, columns, rows, [letters * 3], [("g%", 2), ("", 1)], "a_b", {"other": "‡"})
    log = compiled(
        {"letters": to_latex(table, "a name_with & all"), "empty": to_latex(Table("", [], []), "e")}, tmp_path
    )
    assert_clean(log)
