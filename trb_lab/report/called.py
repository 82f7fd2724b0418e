"""`lab.report(...)`: a report made from a notebook, its tables as frames."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from trb_lab.store.run_dir import Store

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ReportFiles:
    """What was written. Shows its first table and a link to the page in a notebook."""

    page: Path
    """The page, one HTML file."""

    @property
    def folder(self) -> Path:
        return self.page.parent

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Name -> table: `<column>` with `<column>_half_width` and so on (docs/files.md), the scores first."""
        import pandas as pd

        files = sorted((self.folder / "tables").glob("*.csv"), key=lambda f: (f.stem != "scores", f.stem))
        return {file.stem: pd.read_csv(file) for file in files}

    @cached_property
    def figures(self) -> dict[str, Path]:
        """Name -> picture (PNG where there is one)."""
        found: dict[str, Path] = {}
        for suffix in ("svg", "png"):
            found |= {file.stem: file for file in sorted((self.folder / "figures").glob(f"*.{suffix}"))}
        return dict(sorted(found.items()))

    def _repr_html_(self) -> str:
        link = html.escape(os.path.relpath(self.page), quote=True)
        shown = next(iter(self.tables), None)
        table = (self.folder / "tables" / f"{shown}.html") if shown else None
        body = table.read_text(encoding="utf-8") if table is not None and table.exists() else ""
        return f'{body}<p><a href="{link}">{html.escape(str(self.page))}</a></p>'


def make_report(
    what: str | Path,
    out: str | Path | None,
    store: Store | Path | str | None,
    sweeps: Mapping[str, str] | None,
    sets: Sequence[str],
) -> ReportFiles:
    """As the package itself when it is called."""
    from .request import report_request

    found = store if isinstance(store, Store) else Store.locate(store)
    request = report_request(what, sweeps, sets)
    return ReportFiles(request.build(found, None if out is None else Path(out))["page"])
