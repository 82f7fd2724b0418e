"""report.md: the page's content, shorter, with links to the figure files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .render import code_span, markdown_escape, to_markdown

if TYPE_CHECKING:
    from .build import Report
    from .plot_style import FigureFiles
    from .search import SearchSection


def markdown(report: Report) -> str:
    """The whole file."""
    told = ", ".join(
        f"{what} {n}" for what, n in report.counts.items() if n or what in ("planned", "completed")
    )
    parts = [
        f"# {markdown_escape(report.data.name)}",
        markdown_escape(report.data.question),
        f"Trials: {told}{f' ({report.shared_rows})' * bool(report.shared_rows)}.",
    ]
    parts += ["## What came out", *map(markdown_escape, report.findings)]
    for name, table in report.results:
        title = f"Scores: {table.title}" if name == "table" else table.title
        parts += [f"## {markdown_escape(title)}", to_markdown(table), _notes(table.notes)]
    for section in report.searches:
        parts += _search(section)
    parts += ["## Figures"] * bool(report.figures)
    parts += map(_figure, report.figures)
    for _, table in report.costs:
        parts += [f"## {markdown_escape(table.title)}", to_markdown(table), _notes(table.notes)]
    parts += _failed(report)
    parts += ["## What each setting changes", _changes(report)]
    versions = ", ".join(f"{code_span(v)} ({n} trials)" for v, n in report.code_versions.items()) or "unknown"
    mixed = (
        " Mixed code versions: differences may come from the code." if len(report.code_versions) > 1 else ""
    )
    parts += [
        "## Again",
        f"Code: {versions}.{mixed}",
        f"This report, from the run files alone:\n\n    {report.command}",
    ]
    return "\n\n".join(p.strip("\n") for p in parts if p) + "\n"


def _notes(notes: list[str]) -> str:
    return "\n".join(f"- {markdown_escape(n)}" for n in notes)


def _figure(figure: FigureFiles) -> str:
    return (
        f"![{figure.title}]({figure.svg.as_posix()})\n\n{markdown_escape(figure.caption)} "
        f"[PNG]({figure.png.as_posix()}), [data]({figure.csv.as_posix()})."
    )


def _search(section: SearchSection) -> list[str]:
    parts = [f"## {markdown_escape(section.title)}", *map(markdown_escape, section.paragraphs)]
    for _, table in section.tables:
        parts += [f"### {markdown_escape(table.title)}", to_markdown(table), _notes(table.notes)]
    parts.append("Data: " + ", ".join(f"[{name}]({name})" for name in section.files) + ".")
    return parts + [_figure(figure) for figure in section.figures]


def _failed(report: Report) -> list[str]:
    if not report.failures:
        return []
    lines = []
    for failure in report.failures:
        why = markdown_escape(failure["error"] or "no message")
        title = markdown_escape(failure["title"])
        lines.append(f"- {title} (`{failure['run_id']}`), {failure['state']}: {why}")
    return ["## Trials that did not finish", "\n".join(lines)]


def _changes(report: Report) -> str:
    lines = []
    for setting in report.settings:
        keys = report.changed[setting.key]
        told = ", ".join(code_span(f"{k} = {v}") for k, v in keys.items()) or "nothing"
        lines.append(f"- {markdown_escape(setting.title)}: {told}")
    return "\n".join(lines)
