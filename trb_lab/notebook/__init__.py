"""Runs, sweeps and reports as tidy frames, for notebooks and scripts. `import trb_lab as lab` offers it all.

Reads the files of a store and nothing else: no torch, no tracking server, no lock. Importing this loads nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from trb_lab.store.run_dir import Store

if TYPE_CHECKING:
    import pandas as pd

    from .run_frames import Runs


def runs(sweep: str | Iterable[str] | None = None, store: Store | Path | str | None = None) -> Runs:
    """The runs of a sweep, of several, or without a name every trial of the store.

    `store` is a folder; else $TRB_LAB_STORE, else ./runs. Raises UsageError for a sweep that is not there.
    """
    from .opening import open_runs, open_store

    names = [sweep] if isinstance(sweep, str) else None if sweep is None else list(sweep)
    return open_runs(open_store(store), names)


def sweeps(store: Store | Path | str | None = None) -> pd.DataFrame:
    """One row a sweep: name, question, created (UTC), trials, and how many trials are in each state."""
    from .opening import open_store
    from .overview import sweep_frame

    return sweep_frame(open_store(store))


def __getattr__(name: str) -> object:
    if name == "Runs":
        from .run_frames import Runs

        return Runs
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


__all__ = ["Runs", "runs", "sweeps"]
