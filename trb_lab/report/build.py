"""From a definition to the files of its report: the story of this room, top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trb_lab.spec.report import ReportSpec
from trb_lab.store.run_dir import Store, write_atomic

from .checking import write_manifest
from .collect import SweepData
from .latex import to_latex
from .narrative import counts, shared_rows
from .render import to_csv, to_html, to_markdown, to_text
from .sections import Context, Section, make_sections
from .setup_facts import code_versions
from .sidecar import to_sidecar
from .sources import Source, open_sources
from .tables import Table


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
        """Label of the code -> number of trials that ran it, over all sources."""
        found: dict[str, int] = {}
        for source in self.sources.values():
            for version, n in code_versions(source.data).items():
                found[version] = found.get(version, 0) + n
        return found

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
    from .markdown import markdown
    from .page import page

    sources = open_sources(store, spec)
    out.mkdir(parents=True, exist_ok=True)
    sections = make_sections(Context(store, spec, sources, out, quiet))
    report = Report(spec, sources, _with_headlines(sections), command)
    contents = {
        "markdown": ("report.md", markdown(report)),
        "table": ("table.txt", _text(report)),
    }
    for name, table in report.tables:
        for suffix, write in TABLE_FORMATS.items():
            contents[f"{name}_{suffix}"] = (f"tables/{name}.{suffix}", write(table, name, report))
    for source in sources.values():
        name = "trials" if len(sources) == 1 else f"trials-{source.name}"
        contents[f"{name}_csv"] = (f"{name}.csv", _trials_csv(source.data))
    for section in sections:
        contents |= {name: (name, text) for name, text in section.files.items()}
    data = {f.csv.as_posix(): (out / f.csv).read_text() for s in sections for f in s.figures}
    contents["page"] = ("report.html", page(report, data | dict(contents.values())))
    paths = {}
    for what, (name, text) in contents.items():
        write_atomic(out / name, text)
        paths[what] = out / name
    for section in sections:
        for figure in section.figures:
            paths[f"{figure.name}_csv"] = out / figure.csv
    _sweep_away(out, {p.relative_to(out) for p in paths.values()}, sections)
    drawn = {out / p for section in sections for figure in section.figures for p in figure.paths}
    paths["manifest"] = write_manifest(out, report, {*paths.values(), *drawn})
    return paths


def _with_headlines(sections: list[Section]) -> list[Section]:
    """The findings, with what the searches found at their end."""
    said = [s.headline for s in sections if s.headline]
    findings = next((s for s in sections if s.name == "findings"), None)
    if findings is not None:
        findings.paragraphs.extend(said)
    return sections


def _sweep_away(out: Path, written: set[Path], sections: list[Section]) -> None:
    """Remove files of our kinds that an earlier report left, for which there are no data any more."""
    drawn = {p for s in sections for f in s.figures for p in f.paths}
    for pattern in ("*.csv", "tables/*", "figures/*"):
        for path in out.glob(pattern):
            relative = path.relative_to(out)
            if path.is_file() and not path.name.startswith(".") and relative not in written | drawn:
                path.unlink(missing_ok=True)


def _text(report: Report) -> str:
    """What a terminal shows: counts, tables, the findings."""
    import textwrap

    lines = []
    for label, found in report.counts.items():
        told = ", ".join(f"{n} {what}" for what, n in found.items() if n or what == "completed")
        rows = report.shared_rows[label]
        lines.append(f"{label}: {told}" + f" ({rows})" * bool(rows))
    legend = "± 95 % interval (Student-t over seeds); * best of the column and its statistical ties"
    rules = (
        "paper: best of all settings and checkpoints tried; final: mean over settings, nothing chosen;\n"
        "fair: chosen by the other seeds on one half of the problems, scored on the other half\n"
    )
    parts = ["\n".join(lines)]
    for section in report.sections:
        if section.name.startswith("search-"):
            parts.append(section.title + "\n\n" + "\n".join(to_text(t) for _, t in section.tables))
            continue
        for name, table in section.tables:
            after = {"scores": legend + "\n", "selection": rules}.get(name, "")
            parts.append(to_text(table) + after)
    said = [p for s in report.sections if s.name == "findings" for p in s.paragraphs]
    words = "\n\n".join(textwrap.fill(p, 100) for p in said)
    return "\n\n".join([parts[0], "\n".join(parts[1:]), words]).strip() + "\n"


def _trials_csv(data: SweepData) -> str:
    """One line a planned trial, with its score on each set."""
    wide = data.scores.pivot_table(index="run_id", columns="set", values="pass_at_1", aggfunc="first")
    frame = data.trials.drop(columns=["traceback", "label"]).join(
        wide.reindex(columns=data.sets).add_prefix("pass_at_1_"), on="run_id"
    )
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
