"""Reports: tables, figures and a page from finished (or running) sweeps.

Importing this pulls in nothing heavy.
"""

from __future__ import annotations

from pathlib import Path

from trb_lab.store.run_dir import Store


def build_report(store: Store, sweep_name: str, out_dir: Path | None = None) -> dict[str, Path]:
    """Write the sweep's report, by default into its `report/` folder; the same inputs give the same bytes.

    Returns what was written, by name: page, markdown, table (plain text), table_csv, health_csv, trials_csv.
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

    return build(store, sweep_name, out_dir)


__all__ = ["build_report"]
