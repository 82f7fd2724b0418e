"""The report's sections on searches: for each searched arm its sentences, tables, figures and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .collect import SweepData
from .plot_search import history_figure, stops_figure
from .plot_search_goals import front_figure, importance_figure
from .plot_search_space import parallel_figure, slice_figures
from .plot_style import FigureFiles
from .plot_venue import style
from .search_data import FAILED, Search, read_searches
from .search_tables import best_table, candidates_csv, confirmation_csv, confirmation_table
from .search_words import headline, named, paragraphs
from .tables import Table


@dataclass(frozen=True)
class SearchSection:
    """What the page, the Markdown file and the terminal say of one search."""

    anchor: str
    title: str
    headline: str
    """The answer in one paragraph."""
    paragraphs: list[str]
    tables: list[tuple[str, Table]]
    """(id in the page, table)."""
    figures: list[FigureFiles]
    files: dict[str, str]
    """File name -> CSV text, beside the report's other tables."""


def search_sections(data: SweepData, folder: Path, out: Path, prefix: str = "") -> list[SearchSection]:
    """One section a summary in `folder`, which need not exist; names of files and anchors begin with `prefix`."""
    arms = (data.plan.get("spec") or {}).get("arms") or {}
    with style():
        found = read_searches(folder, arms, data.plan.get("searches") or {})
        sections = [_section(replace(s, slug=prefix + s.slug), data, out) for s in found]
    return sections


def _section(search: Search, data: SweepData, out: Path) -> SearchSection:
    reference = search.reference(data.reference_arm)
    arms = (data.plan.get("spec") or {}).get("arms") or {}
    label = str((arms.get(reference.arm) or {}).get("label") or reference.arm) if reference else ""
    arm = data.reference_arm
    figures, absent = _figures(search, out)
    files = {f"search_{search.slug}.csv": candidates_csv(search)}
    confirmed = confirmation_csv(search, arm)
    if confirmed is not None:
        files[f"confirmation_{search.slug}.csv"] = confirmed
    anchor = f"search-{search.slug}"
    tables = {
        "best": best_table(search),
        "fresh": confirmation_table(search, arm, label),
    }
    told = paragraphs(search, arm, label)
    return SearchSection(
        anchor=anchor,
        title=f"Search: {search.label}",
        headline=headline(search, arm, label),
        paragraphs=[*told, f"Not drawn: {named(absent)}."] if absent else told,
        tables=[(f"{anchor}-{name}", table) for name, table in tables.items() if table is not None],
        figures=figures,
        files=files,
    )


def _figures(search: Search, out: Path) -> tuple[list[FigureFiles], list[str]]:
    """What could be drawn, and what could not with the reason."""
    pruned, two = bool(search.stops) and len(search.goals) == 1, len(search.goals) == 2
    slices = slice_figures(search, out)
    wanted: list[tuple[str, bool, Sequence[FigureFiles | None]]] = [
        ("the optimisation history", True, [history_figure(search, out)]),
        ("the Pareto front", len(search.goals) > 1, [front_figure(search, out)] if two else []),
        ("learning curves by stop", pruned, [stops_figure(search, out)]),
        ("values by parameter", True, slices),
        ("parameters side by side", len(search.raw.get("space") or {}) > 1, [parallel_figure(search, out)]),
        ("the importance of parameters", True, [importance_figure(search, out)]),
    ]
    drawn = [f for _, _, figures in wanted for f in figures if f is not None]
    absent = [
        f"{what} ({_reason(search, what)})"
        for what, applies, figures in wanted
        if applies and not any(f is not None for f in figures)
    ]
    return drawn, absent


def _reason(search: Search, what: str) -> str:
    if what == "the Pareto front" and len(search.goals) > 2:
        return f"it takes two goals, and there are {len(search.goals)}"
    if not search.candidates:
        return "nothing was tried"
    if len(search.in_state(FAILED)) == len(search.candidates):
        return "every setting failed"
    if what == "learning curves by stop":
        return "no setting has reached a stop"
    if what == "the importance of parameters" and search.measured:
        return f"too few settings ran to the end: {len(search.measured)}"
    return "no setting has run to the end"
