"""report.html: one file that needs no network.

The template is in templates/page.html; all text is escaped there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .plot_style import theme_variables, themed_svg
from .render import to_html

if TYPE_CHECKING:
    from .build import Report

STATES = {
    "planned": "planned",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "interrupted": "interrupted",
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
    states = {**STATES, "planned": f"planned ({report.shared_rows})" if report.shared_rows else "planned"}
    return environment.get_template("page.html").render(
        report=report,
        data=report.data,
        counts=[
            (states[k], n) for k, n in report.counts.items() if n or k in ("planned", "completed", "failed")
        ],
        # Tables and figures come from our own code and are escaped (text in figures is drawn as paths).
        results=[(name, table, Markup(to_html(table, f"{name}-rows"))) for name, table in report.results],
        searches=[
            (
                section,
                [(table, Markup(to_html(table, f"{name}-rows"))) for name, table in section.tables],
                [(f, Markup(themed_svg(f))) for f in section.figures],
            )
            for section in report.searches
        ],
        costs=[(name, table, Markup(to_html(table, f"{name}-rows"))) for name, table in report.costs],
        figures=[(f, Markup(themed_svg(f))) for f in report.figures],
        light="".join(f"{name}:{light};" for name, (light, _) in variables.items()),
        dark="".join(f"{name}:{dark};" for name, (_, dark) in variables.items()),
    )
