"""Reports: tables, figures and a page from finished (or running) sweeps.

Importing this pulls in nothing heavy. The package can be called: in a notebook `import trb_lab as lab` and
`lab.report("kl_budget")` make a report, although `trb_lab.report` is also where the code for it is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from trb_lab.spec.report import ReportSpec
from trb_lab.store.run_dir import Store

if TYPE_CHECKING:
    from .called import ReportFiles


class _Callable(ModuleType):
    """A module that makes a report when it is called."""

    def __call__(
        self,
        what: str | Path,
        out: str | Path | None = None,
        *,
        store: Store | Path | str | None = None,
        sweeps: Mapping[str, str] | None = None,
        sets: Sequence[str] = (),
    ) -> ReportFiles:
        """Make the report of a sweep (its name, or its YAML) or of a definition (`reports/NAME.yaml`), and return it.

        out: folder, by default that of `trb-lab report`. store: a folder; else $TRB_LAB_STORE, else ./runs. sweeps:
        source of the definition -> sweep to take for it. sets: changes of the definition as on the command line
        (`KEY=VALUE`). Raises UsageError for what is not there, MissingExtra where a package of the extra `driver` is
        absent.
        """
        from .called import make_report

        return make_report(what, out, store, sweeps, sets)


sys.modules[__name__].__class__ = _Callable


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
