"""report.html: one file that needs no network, and no file beside it.

Templates are in templates/: page.html, style.css, page.js. What people wrote is escaped; what the script reads is
packed (page_data.py) and unpacked when it is first wanted, so that the page opens at once. The content security
policy lets only this script run, and nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files as package_files
from typing import TYPE_CHECKING

from .interactive import curves_data
from .page_data import embedded_files, packed, packed_numbers, packed_plotly
from .plot_style import theme_variables, themed_svg
from .render import to_html
from .run_details import run_details

if TYPE_CHECKING:
    from .build import Report
    from .sections import Section
    from .sources import Source

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


def source_data(sources: Sequence[Source], level: float) -> dict[str, str]:
    """What the page carries of the runs, packed: `runs` (details), and where there are any `curves`, with `plotly`."""
    curves = curves_data(sources, level)
    data = {"runs": packed(run_details(sources))}
    return data if curves is None else data | {"curves": packed_numbers(curves), "plotly": packed_plotly()}


def page(report: Report, files: Mapping[str, str], inside: Mapping[str, str]) -> str:
    """The HTML text. `files`: name -> text of the report's other files, which the page offers for download; `inside`:
    what `source_data` says of the report's sources.
    """
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
    embedded = embedded_files(files)
    script = package_files("trb_lab.report").joinpath("templates/page.js").read_text(encoding="utf-8")
    data = {"files": packed(embedded), **inside}
    return environment.get_template("page.html").render(
        report=report,
        sections=report.sections,
        curves_before=_curves_place(report.sections) if "curves" in inside else None,
        counted=[(label, _counts(report, label)) for label in report.counts],
        table_files={name: _files_of(name, files) for name, _ in report.tables},
        unlisted=_unlisted(report),
        first_time=_first_time(),
        embedded=embedded,
        # Tables and figures come from our own code and are escaped (text in figures is drawn as paths).
        table_html=lambda table, name: Markup(to_html(table, f"{name}-rows")),
        figure_svg=lambda figure: Markup(themed_svg(figure)),
        light="".join(f"{name}:{light};" for name, (light, _) in variables.items()),
        dark="".join(f"{name}:{dark};" for name, (_, dark) in variables.items()),
        script=Markup(script),
        policy=f"default-src 'none'; script-src 'sha256-{_digest(script)}' blob:; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'",
        data=data,
    )


def _digest(script: str) -> str:
    """What the content security policy calls the one script that may run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _files_of(name: str, files: Mapping[str, str]) -> list[str]:
    """The files of a table, in the order in which they are written."""
    return [f for f in files if f.startswith(f"tables/{name}.") and "." not in f[len(f"tables/{name}.") :]]


def _curves_place(sections: list[Section]) -> int:
    """Number of the section before which the interactive curves stand: after the last figure, or before the setup."""
    figures = [i + 1 for i, s in enumerate(sections) if s.figures]
    setups = [i for i, s in enumerate(sections) if s.setups or s.pairs or s.failures]
    return figures[-1] if figures else min(setups, default=len(sections))


def _unlisted(report: Report) -> list[Source]:
    """Sources whose runs no section lists: every run has a place in the page."""
    listed = {setup.source.name for section in report.sections for setup in section.setups}
    return [s for s in report.sources.values() if s.name not in listed]


def _first_time() -> Callable[[str], bool]:
    """Whether it is asked about a run for the first time: settings may share one, ids in a page may not."""
    seen: set[str] = set()

    def first_time(run_id: str) -> bool:
        new = run_id not in seen
        seen.add(run_id)
        return new

    return first_time


def _counts(report: Report, label: str) -> list[tuple[str, int]]:
    rows = report.shared_rows[label]
    states = {**STATES, "planned": f"planned ({rows})" if rows else "planned"}
    found = report.counts[label]
    return [(states[k], n) for k, n in found.items() if n or k in ("planned", "completed", "failed")]
