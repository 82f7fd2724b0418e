"""Reports: tables, figures and a page from finished (or running) sweeps.

Importing this pulls in nothing heavy.
"""

from __future__ import annotations

from pathlib import Path

from trb_lab.store.run_dir import Store


class ReportPaths(dict[str, Path]):
    """What was written, by name: page, markdown, table (plain text), table_csv, health_csv, trials_csv."""

    @property
    def page(self) -> Path:
        return self["page"]

    @property
    def markdown(self) -> Path:
        return self["markdown"]

    @property
    def table_text(self) -> Path:
        return self["table"]


def build_report(store: Store, sweep_name: str, out_dir: Path | None = None) -> ReportPaths:
    """Write the sweep's report, by default into its `report/` folder; the same inputs give the same bytes.

    Works at any time: trials that fail, run or have not begun are shown as such. Each file is replaced
    atomically. Raises UsageError for an unknown sweep, MissingExtra where a package of the extra `driver`
    is absent.
    """
    from trb_lab.errors import MissingExtra

    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
        import scipy  # noqa: F401
    except ImportError as error:
        raise MissingExtra("A report", "driver") from error
    from .build import build

    return ReportPaths(build(store, sweep_name, out_dir))


__all__ = ["ReportPaths", "build_report"]
