"""report.html: one file that needs no network.

The template is in templates/page.html; all text is escaped there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .plot_style import theme_variables, themed_svg
from .render import to_html

if TYPE_CHECKING:
    from .build import Report

TABLE_SUFFIXES = ("csv", "md", "html")
STATES = {
    "planned": "planned",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "interrupted": "interrupted",
    "paused": "paused",
    "running": "running",
    "missing": "not started",
}


def page(report: Report) -> str:
    """The HTML text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("trb_lab.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    variables = theme_variables()
    return environment.get_template("page.html").render(
        report=report,
        sections=report.sections,
        counted=[(label, _counts(report, label)) for label in report.counts],
        suffixes=TABLE_SUFFIXES,
        # Tables and figures come from our own code and are escaped (text in figures is drawn as paths).
        table_html=lambda table, name: Markup(to_html(table, f"{name}-rows")),
        figure_svg=lambda figure: Markup(themed_svg(figure)),
        light="".join(f"{name}:{light};" for name, (light, _) in variables.items()),
        dark="".join(f"{name}:{dark};" for name, (_, dark) in variables.items()),
    )


def _counts(report: Report, label: str) -> list[tuple[str, int]]:
    rows = report.shared_rows[label]
    states = {**STATES, "planned": f"planned ({rows})" if rows else "planned"}
    found = report.counts[label]
    return [(states[k], n) for k, n in found.items() if n or k in ("planned", "completed", "failed")]
