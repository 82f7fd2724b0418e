"""What a search costs its driver: taking up what is there and asking for the next setting, by their number."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from trb_lab.driver.plan import plan_sweep
from trb_lab.driver.searches import Searches
from trb_lab.driver.searching import Search
from trb_lab.launch.base import Job, JobStatus
from trb_lab.launch.follow import Fleet
from trb_lab.search.optuna import Asker
from trb_lab.store.run_dir import Store

from .measure import hardware, row, timed
from .options import Options
from .search_store import fill, write_sweep
from .table import Result, Row, Table

SIZES = (100, 1000, 10_000)
"""Settings that there are."""
REPEATS = 3
LIMITS = "asked for at 10,000 settings: at most 5 s to take it up with its cache, at most 1 s to ask."


class IdleLauncher:
    """Starts nothing."""

    name = "idle"
    slots = 1
    poll_seconds = 1.0
    outlives_driver = False
    settled: frozenset[str] = frozenset()

    def submit(self, job: Job) -> None: ...

    def attach(self, job: Job) -> None: ...

    def poll(self) -> Mapping[str, JobStatus]:
        return {}

    def cancel(self, run_id: str, *, kill: bool = False) -> None: ...

    def logs(self, run_id: str, lines: int = 50) -> list[str]:
        return []

    def close(self) -> None: ...


def run(options: Options | None = None) -> Result:
    """Seconds to take a search up without and with its cache, and to ask the first time and again."""
    repeats = (options or Options()).repeats or REPEATS
    device = torch.device("cpu")
    found = hardware(device)
    taken: list[Row] = []
    asked: list[Row] = []
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            path, store = write_sweep(Path(folder)), Store(Path(folder) / "runs")
            fill(path, store, size)
            figures = measured(path, store, repeats)
        settings = f"{size:,} settings"
        taken += [row(f"{settings}, {what}", figures[what]) for what in ("no cache", "cached")]
        asked += [row(f"{settings}, {what}", figures[what]) for what in ("first ask", "next ask")]
    tables = [
        Table("taking a search up: plan, log, run directories", "seconds", repeats, taken, (LIMITS,)),
        Table("asking for a setting (tpe)", "seconds", repeats, asked),
    ]
    return Result("search", asdict(found), found.line(), tables)


def measured(path: Path, store: Store, repeats: int) -> dict[str, list[float]]:
    """Seconds by what was done, a number for each repeat."""
    device = torch.device("cpu")
    cache = store.sweep("bench").search_values("trb")
    found: dict[str, list[float]] = {"no cache": [], "cached": [], "first ask": [], "next ask": []}
    for _ in range(repeats):
        cache.unlink(missing_ok=True)
        for what in ("no cache", "cached"):
            searches, seconds = timed(device, lambda: take_up(path, store))
            found[what].append(seconds)
            for search in searches.all:
                search.measures.save()
        (search,) = searches.all
        ask = partial(_ask, search, Asker(search.spec))
        for what in ("first ask", "next ask"):
            found[what].append(timed(device, ask)[1])
    return found


def _ask(search: Search, asker: Asker) -> None:
    asker.ask(search.next_number, search.told(), search.study_attrs)


def take_up(path: Path, store: Store) -> Searches:
    """What a driver does before it asks for anything."""
    searches = Searches(plan_sweep(path, store), store)
    searches.begin(Fleet(IdleLauncher(), []))
    return searches
