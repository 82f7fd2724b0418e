"""report.md: the page's content, shorter, with links to the figure files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .render import code_span, markdown_escape, to_markdown

if TYPE_CHECKING:
    from .build import Report
    from .plot_style import FigureFiles
    from .sections import Section, SourceSetup


def markdown(report: Report) -> str:
    """The whole file."""
    parts = [f"# {markdown_escape(report.spec.title)}", markdown_escape(report.spec.question)]
    for label, found in report.counts.items():
        told = ", ".join(f"{what} {n}" for what, n in found.items() if n or what in ("planned", "completed"))
        rows = report.shared_rows[label]
        lead = f"Trials of {markdown_escape(label)}" if len(report.counts) > 1 else "Trials"
        parts.append(f"{lead}: {told}{f' ({rows})' * bool(rows)}.")
    for section in report.sections:
        parts += _section(section)
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


def _section(section: Section) -> list[str]:
    parts = [f"## {markdown_escape(section.title)}"] if section.title else []
    if section.absent:
        return [*parts, markdown_escape(section.absent)]
    parts += map(markdown_escape, section.paragraphs)
    for _, table in section.tables:
        heading = f"### {markdown_escape(table.title)}" if len(section.tables) > 1 else ""
        parts += [heading, to_markdown(table), _notes(table.notes)]
    if section.files:
        parts.append("Data: " + ", ".join(f"[{name}]({name})" for name in section.files) + ".")
    parts += map(_figure, section.figures)
    if section.failures:
        parts.append(_failed(section.failures))
    for setup in section.setups:
        lead = f" ({setup.label})" * (len(section.setups) > 1)
        parts += [f"### What each setting changes{markdown_escape(lead)}", _changes(setup)]
    if section.pairs:
        parts.append("The rollouts are in report.html, with the redrawn tokens marked.")
    return parts


def _notes(notes: list[str]) -> str:
    return "\n".join(f"- {markdown_escape(n)}" for n in notes)


def _figure(figure: FigureFiles) -> str:
    """With the picture, where one that Markdown can show was asked for, and links to all files."""
    picture = figure.svg or figure.png
    shown = f"![{markdown_escape(figure.title)}]({picture.as_posix()})\n\n" if picture else ""
    names = {figure.pdf: "PDF", figure.svg: "SVG", figure.png: "PNG", figure.csv: "data"}
    links = ", ".join(f"[{names[path]}]({path.as_posix()})" for path in figure.paths)
    return f"{shown}{markdown_escape(figure.caption)} {links}."


def _failed(failures: list[dict[str, str]]) -> str:
    lines = []
    for failure in failures:
        why = markdown_escape(failure["error"] or "no message")
        title = markdown_escape(failure["title"])
        lines.append(f"- {title} (`{failure['run_id']}`), {failure['state']}: {why}")
    return "\n".join(lines)


def _changes(setup: SourceSetup) -> str:
    lines = []
    for setting in setup.settings:
        keys = setup.changed[setting.key]
        told = ", ".join(code_span(f"{k} = {v}") for k, v in keys.items()) or "nothing"
        lines.append(f"- {markdown_escape(setting.title)}: {told}")
    return "\n".join(lines)
