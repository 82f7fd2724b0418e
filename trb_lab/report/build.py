"""From a definition to the files of its report: the story of this room, top to bottom."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trb_lab.errors import UsageError
from trb_lab.spec.report import ReportSpec
from trb_lab.store.run_dir import Store, write_atomic

from .checking import files_of, write_manifest
from .collect import SweepData
from .latex import to_latex
from .narrative import counts, shared_rows
from .plot_style import FigureFiles
from .render import to_csv, to_html, to_markdown
from .sections import Context, Section, make_sections
from .setup_facts import code_versions
from .sidecar import to_sidecar
from .sources import Source, open_sources
from .tables import Table
from .text import text


@dataclass(frozen=True)
class Report:
    """Everything that the page, the Markdown file and the terminal say."""

    spec: ReportSpec
    sources: dict[str, Source]
    sections: list[Section]
    command: str
    """How to make this report again."""

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Label of a source -> its trials by state."""
        return {s.label: counts(s.data) for s in self.sources.values()}

    @property
    def shared_rows(self) -> dict[str, str]:
        """Label of a source -> `27 rows, 24 runs` where settings share trials, else empty."""
        return {s.label: shared_rows(s.data) for s in self.sources.values()}

    @property
    def code_versions(self) -> dict[str, int]:
        """Label of the code -> number of trials that ran it, over all sources; a trial that they share counts once."""
        return code_versions(source.data.trials for source in self.sources.values())

    @property
    def tables(self) -> list[tuple[str, Table]]:
        """(name, table) of every section."""
        return [pair for section in self.sections for pair in section.tables]


TABLE_FORMATS: dict[str, Callable[[Table, str, Report], str]] = {
    "md": lambda table, _, __: to_markdown(table),
    "csv": lambda table, _, __: to_csv(table),
    "html": lambda table, _, __: to_html(table, "table") + "\n",
    "tex": lambda table, name, _: to_latex(table, name),
    "json": lambda table, name, report: to_sidecar(table, name, report.sources, report.spec.statistics),
}
"""Suffix -> what writes a table so."""


def build(store: Store, spec: ReportSpec, out: Path, command: str, quiet: bool = False) -> dict[str, Path]:
    """Read, compute, draw, write. Returns what was written, by name.

    `command` is shown as the way to make the report again; `quiet` leaves out blocks without data.
    """
    with _no_search_for_cycles():
        return _build(store, spec, out, command, quiet)


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """What was read lives to the end of a report: to look for garbage in it costs a tenth of a large one's time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _build(store: Store, spec: ReportSpec, out: Path, command: str, quiet: bool) -> dict[str, Path]:
    from .markdown import markdown
    from .page import page, source_data

    sources = open_sources(store, spec)
    earlier = files_of(out)
    out.mkdir(parents=True, exist_ok=True)
    inside: dict[str, str] = {}
    tables: dict[str, tuple[str, str]] = {}

    def while_figures_are_drawn(ready: list[Section]) -> None:
        inside.update(source_data(list(sources.values()), spec.statistics.level))
        tables.update(_table_files(Report(spec, sources, ready, command)))

    sections = make_sections(Context(store, spec, sources, out, quiet), while_figures_are_drawn)
    report = Report(spec, sources, _with_headlines(sections), command)
    files = _Files(out)
    files.add("markdown", "report.md", markdown(report))
    files.add("table", "table.txt", text(report))
    for what, (name, content) in tables.items():
        files.add(what, name, content)
    for source in sources.values():
        name = "trials" if len(sources) == 1 else f"trials-{source.name}"
        files.add(f"{name}_csv", f"{name}.csv", _trials_csv(source.data))
    for section in sections:
        for name, content in section.files.items():
            files.add(name, name, content)
        for figure in section.figures:
            files.drawn(figure)
    files.add("page", "report.html", page(report, files.texts, inside))
    files.write()
    for name in earlier - files.names:  # of an earlier report, whose data are no more
        (out / name).unlink(missing_ok=True)
    files.paths["manifest"] = write_manifest(out, report, {out / name for name in files.names})
    return files.paths


class _Files:
    """The files of a report, each written by one block."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.paths: dict[str, Path] = {}
        """What was written -> where."""
        self.texts: dict[str, str] = {}
        """Name -> text; of figures only their data."""
        self.names: set[str] = set()

    def add(self, what: str, name: str, content: str) -> None:
        """Raises UsageError where two blocks make a file of one name."""
        self._take(name)
        self.texts[name] = content
        self.paths.setdefault(what, self.out / name)

    def drawn(self, figure: FigureFiles) -> None:
        """A figure's files, which are there already."""
        for path in figure.paths:
            self._take(path.as_posix())
        self.texts[figure.csv.as_posix()] = (self.out / figure.csv).read_text(encoding="utf-8")
        self.paths[f"{figure.name}_csv"] = self.out / figure.csv

    def write(self) -> None:
        drawn = {path for path in self.texts if path.startswith("figures/")}
        for name, content in self.texts.items():
            if name not in drawn:
                write_atomic(self.out / name, content)

    def _take(self, name: str) -> None:
        if name in self.names:
            raise UsageError(f"two blocks of the report write {name}: give one of them a `name` of its own.")
        self.names.add(name)


def _table_files(report: Report) -> dict[str, tuple[str, str]]:
    """What is written -> its file and text, of every table in all TABLE_FORMATS."""
    return {
        f"{name}_{suffix}": (f"tables/{name}.{suffix}", write(table, name, report))
        for name, table in report.tables
        for suffix, write in TABLE_FORMATS.items()
    }


def _with_headlines(sections: list[Section]) -> list[Section]:
    """The findings, with what the searches found at their end."""
    said = [s.headline for s in sections if s.headline]
    findings = next((s for s in sections if s.kind == "findings"), None)
    if findings is not None:
        findings.paragraphs.extend(said)
    return sections


def _trials_csv(data: SweepData) -> str:
    """One line a planned trial, with its score on each set."""
    wide = data.scores.pivot_table(index="run_id", columns="set", values="pass_at_1", aggfunc="first")
    frame = data.trials.drop(columns=["traceback", "label"]).join(
        wide.reindex(columns=data.sets).add_prefix("pass_at_1_"), on="run_id"
    )
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
