"""What each block of a report's definition becomes: one section, before any format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from trb_lab.spec.report import (
    Block,
    ExcerptBlock,
    FailuresBlock,
    FigureBlock,
    FindingsBlock,
    ReportSpec,
    SearchBlock,
    SetupBlock,
    StatisticsSpec,
    TableBlock,
    TextBlock,
    block_name,
)
from trb_lab.store.run_dir import Store

from .code_flags import run_versions, with_code_flags
from .cost_table import cost_table
from .excerpts import Pair, excerpts
from .figures import draw
from .forked import Forked, outcome, worthwhile
from .narrative import findings
from .plot_style import FigureFiles
from .plot_venue import style
from .problems import problem_table, problems_csv
from .search import search_sections
from .selection_table import selection_table
from .settings import Setting
from .setup_facts import changed_settings, failures, shared_settings
from .sources import Source
from .tables import Table, health_table, score_table


@dataclass(frozen=True)
class SourceSetup:
    """What one source's trials are."""

    label: str
    source: Source
    settings: list[Setting]
    changed: dict[str, dict[str, str]]
    shared: dict[str, str]


@dataclass(frozen=True)
class Section:
    """One part of a report. Only what its block makes is filled."""

    name: str
    """Anchor in the page, and the name of its files."""
    title: str
    kind: str = ""
    """The block's kind."""
    nav: str = ""
    """Its name in the page's navigation; empty takes the title."""
    paragraphs: list[str] = field(default_factory=list)
    tables: list[tuple[str, Table]] = field(default_factory=list)
    """(name of its files, table)."""
    figures: list[FigureFiles] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    setups: list[SourceSetup] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    """Further files: name -> text."""
    headline: str = ""
    """The answer in one paragraph, for the findings (searches)."""
    absent: str = ""
    """Why there is nothing to show, where there is nothing."""


@dataclass(frozen=True)
class Context:
    """What sections are made from."""

    store: Store
    spec: ReportSpec
    sources: dict[str, Source]
    out: Path
    quiet: bool = False
    """Leave out blocks that have no data, as a sweep's own report does; else they say why."""

    def chosen(self, block: Block) -> list[Source]:
        """The block's sources, all where it names none."""
        return [self.sources[name] for name in block.sources or self.sources]


def make_sections(
    context: Context, meanwhile: Callable[[list[Section]], None] = lambda _: None
) -> list[Section]:
    """The report's parts in the order of the definition.

    `meanwhile` is called once with all sections but those of figures: where figures of large sweeps are drawn by
    processes of their own, before these are waited for.
    """
    blocks = context.spec.blocks
    drawings = {i for i, block in enumerate(blocks) if isinstance(block, FigureBlock)}
    runs = sum(len(source.data.trials) for source in context.sources.values())
    made: dict[int, list[Section]] = {}
    if drawings and worthwhile(runs):
        for source in context.sources.values():
            source.prepare()

        def drawn(number: int) -> list[Section]:
            return make_section(context, blocks[number])

        with Forked(drawn) as forked:
            coming = {i: forked.submit(i) for i in sorted(drawings)}
            made = {i: make_section(context, b) for i, b in enumerate(blocks) if i not in drawings}
            meanwhile([s for sections in made.values() for s in sections])
            made |= drawn_aside(forked, coming)
    else:
        made = {i: make_section(context, block) for i, block in enumerate(blocks)}
        meanwhile([s for i, sections in made.items() if i not in drawings for s in sections])
    return [s for i in range(len(blocks)) for s in made[i] if not (s.absent and context.quiet)]


def drawn_aside(
    forked: Forked[int, list[Section]], coming: Mapping[int, Future[list[Section]]]
) -> dict[int, list[Section]]:
    """Waits for the sections of figures that other processes draw, and ends these."""
    drawn = {i: outcome(future) for i, future in coming.items()}
    forked.close()
    return drawn


def make_section(context: Context, block: Block) -> list[Section]:
    """What a block becomes: mostly one section, absent ones included."""
    return [replace(section, kind=block.kind) for section in _sections_of(context, block)]


def _sections_of(context: Context, block: Block) -> list[Section]:
    name, sources = block_name(block), context.chosen(block)
    if isinstance(block, TextBlock):
        paragraphs = [" ".join(p.split()) for p in block.text.split("\n\n") if p.strip()]
        return [Section(name, block.title or "", paragraphs=paragraphs)]
    if isinstance(block, FindingsBlock):
        return [_findings(context, block, name, sources)]
    if isinstance(block, TableBlock):
        return _tables(context, block, name, sources)
    if isinstance(block, FigureBlock):
        drawn = draw(context, block, name, sources)
        told = [drawn.absent] if drawn.figures and drawn.absent and not context.quiet else []
        absent = "" if drawn.figures else drawn.absent
        return [Section(name, drawn.title, paragraphs=told, figures=drawn.figures, absent=absent)]
    if isinstance(block, ExcerptBlock):
        return [_excerpts(context, block, name, sources)]
    if isinstance(block, SearchBlock):
        return _searches(context, block, sources)
    if isinstance(block, FailuresBlock):
        rows = [row for s in sources for row in failures(s.data)]
        absent = "" if rows else "Every trial finished."
        return [
            Section(
                name, block.title or "Trials that did not finish", "Failures", failures=rows, absent=absent
            )
        ]
    assert isinstance(block, SetupBlock)
    setups = [
        SourceSetup(s.label, s, s.settings, changed_settings(s.data, s.settings), shared_settings(s.data))
        for s in sources
    ]
    return [Section(name, block.title or "Setup", setups=setups)]


def _findings(context: Context, block: FindingsBlock, name: str, sources: Sequence[Source]) -> Section:
    told = []
    for source in sources:
        lead = f"{source.label}: " * (len(sources) > 1)
        found = findings(source.data, source.settings, source.arms, context.spec.statistics)
        told += [lead + p for p in found]
    return Section(name, block.title or "What came out", paragraphs=told)


SourceTable = Callable[[Source, StatisticsSpec], Table | None]
SOURCE_TABLES: dict[str, SourceTable] = {
    "scores": lambda s, how: score_table(s.data, s.settings, how),
    "selection": lambda s, how: selection_table(s.data, s.arms, how),
    "problems": lambda s, how: problem_table(s.comparisons, s.reference.title if s.reference else "", how),
    "cost": lambda s, how: cost_table(s.data, s.settings, how),
    "health": lambda s, _: health_table(s.data, s.settings),
}
"""Name of a table of one source -> what makes it, or gives None where the sweep has no data for it."""
NAV = {"scores": "Scores", "selection": "Selection rules", "problems": "Problem by problem"}


def _tables(context: Context, block: TableBlock, name: str, sources: Sequence[Source]) -> list[Section]:
    if block.table == "results":
        from .results import results_table

        results = with_code_flags(results_table(sources, block, context.spec), run_versions(sources))
        return [Section(name, block.title or results.title, tables=[(name, results)])]
    made = [(s, SOURCE_TABLES[block.table](s, context.spec.statistics)) for s in sources]
    several = len(made) > 1
    sections = []
    for source, table in made:
        own = f"{name}-{source.name}" if several else name
        if table is None:
            sections.append(Section(own, block.title or name, absent="The runs hold no data for this table."))
            continue
        table = with_code_flags(table, run_versions([source]))
        title = block.title or (f"Scores: {table.title}" if block.table == "scores" else table.title)
        title += f" ({source.label})" * several
        files = {}
        if block.table == "problems":
            files[f"{own}.csv"] = problems_csv(source.comparisons)
        sections.append(Section(own, title, NAV.get(block.table, ""), tables=[(own, table)], files=files))
    return sections


def _excerpts(context: Context, block: ExcerptBlock, name: str, sources: Sequence[Source]) -> Section:
    pairs = [pair for s in sources for pair in excerpts(context.store, s.settings, block)]
    absent = "" if pairs else "No two arms have kept rollouts to the same prompt at this step."
    which = "first step" if block.step == 0 else f"step {block.step}"
    title = block.title or f"Rollouts of the {which}"
    return Section(name, title, pairs=pairs, absent=absent)


def _searches(context: Context, block: SearchBlock, sources: Sequence[Source]) -> list[Section]:
    found = []
    options = context.spec.figures
    for source in sources:
        folder = context.store.sweep(source.data.name).path / "search"
        with style(options.venue, options.formats, context.spec.statistics.level):
            parts = [block.name] * (block.name is not None) + [source.name] * (len(context.sources) > 1)
            prefix = "".join(f"{part}-" for part in parts)  # several may have a search of one arm
            searches = search_sections(source.data, folder, context.out, prefix)
        for s in searches:
            title = f"{block.title}: {s.title}" if block.title else s.title
            found.append(
                Section(
                    s.anchor,
                    title + f" ({source.label})" * (len(sources) > 1),
                    paragraphs=s.paragraphs,
                    tables=s.tables,
                    figures=s.figures,
                    files=s.files,
                    headline=s.headline,
                )
            )
    return found
