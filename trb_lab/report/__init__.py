"""Reports: tables, figures and a page from finished (or running) sweeps.

Importing this pulls in nothing heavy.
"""

from __future__ import annotations

from pathlib import Path

from trb_lab.spec.report import ReportSpec
from trb_lab.store.run_dir import Store


def build_report(store: Store, sweep_name: str, out_dir: Path | None = None) -> dict[str, Path]:
    """Write the sweep's own report, by default into its `report/` folder; the same inputs give the same bytes.

    Returns what was written, by name: page, markdown, table (plain text), <table>_csv, trials_csv.
    Works at any time: trials that fail, run or have not begun are shown as such. Each file is replaced
    atomically. Raises UsageError for an unknown sweep, MissingExtra where a package of the extra `driver`
    is absent.
    """
    _require_packages()
    from .build import build
    from .collect import read_plan
    from .defaults import sweep_definition

    plan = read_plan(store, sweep_name)
    spec = sweep_definition(sweep_name, str(plan.get("question", "")))
    out = out_dir or store.sweep(sweep_name).report
    return build(store, spec, out, f"trb-lab report {sweep_name}", quiet=True)


def build_defined(
    store: Store, spec: ReportSpec, command: str, out_dir: Path | None = None
) -> dict[str, Path]:
    """Write the report of a definition, by default into `<store>/reports/<name>`; otherwise as `build_report`.

    `command` is shown as the way to make it again.
    """
    _require_packages()
    from .build import build

    return build(store, spec, out_dir or store.report(spec.name), command)


def _require_packages() -> None:
    from trb_lab.errors import MissingExtra

    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
        import scipy  # noqa: F401
    except ImportError as error:
        raise MissingExtra("A report", "driver") from error


__all__ = ["build_defined", "build_report"]
