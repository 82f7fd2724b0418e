"""How fast the mirror fills MLflow: against a bare loop of `log_batch` with full batches of the same values.

Both write into fresh sqlite stores, in turns of a few runs, so that a slow stretch of the machine meets both. The bare
loop has its values at hand, as MLflow's own objects; the mirror reads files, makes runs with their tags, parameters
and artifacts, and notes what it has sent.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from trb_lab.errors import LabError
from trb_lab.store import mlflow_rows
from trb_lab.store.metrics import iter_lines
from trb_lab.store.mlflow_mirror import sync_store
from trb_lab.store.mlflow_pass import Mirror
from trb_lab.store.mlflow_tracking import METRICS_A_CALL, MetricRow, Tracking, as_metrics, connect, local_uri
from trb_lab.store.mlflow_trial import start_ms
from trb_lab.store.run_dir import RunDir, Store, read_json

from .measure import hardware, row
from .options import Options
from .synthetic_store import write_synthetic_store
from .table import Result, Table

RUNS, STEPS, METRICS = 100, 200, 30
TURN = 5
"""Runs of a turn."""
KILL_AT = 0.5
"""Share of the values at which the mirror of the resume test is killed."""
RESUME_RUNS = 20
LEAST_RATIO = 0.8
POLL_SECONDS, LONGEST_SECONDS = 0.1, 600.0


def run(options: Options | None = None) -> Result:
    """Values a second of mirror and bare loop, and what a mirror that was killed half-way comes to."""
    wanted = (options or Options()).runs or RUNS
    found = hardware(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        turns = measured(Path(folder), wanted)
        resumed = killed_and_resumed(Path(folder), min(wanted, RESUME_RUNS))
    bare, ours = ([turn.values / turn.seconds for turn in side] for side in (turns.bare, turns.mirror))
    whole = _rate(turns.mirror) / _rate(turns.bare)
    notes = (
        f"over all {sum(t.values for t in turns.mirror):,} values: ratio {whole:.2f} (asked for: {LEAST_RATIO})",
        "the mirror's time holds reading, runs, tags, parameters and artifacts; the bare loop's only log_batch",
        resumed.told(),
    )
    rows = [
        row("bare loop of log_batch", bare),
        row("mirror", ours, {"bare loop of log_batch": bare}),
    ]
    title = f"{wanted:,} runs, {STEPS} steps, {METRICS} metrics a line and clocks"
    table = Table(title, "values a second", len(ours), rows, notes)
    return Result("mirror", asdict(found), found.line(), [table])


@dataclass(frozen=True)
class Turn:
    """Values that were written, and how long that took."""

    values: int
    seconds: float


def _rate(turns: list[Turn]) -> float:
    return sum(t.values for t in turns) / sum(t.seconds for t in turns)


@dataclass
class Turns:
    """Both sides' turns, side by side."""

    mirror: list[Turn] = field(default_factory=list)
    bare: list[Turn] = field(default_factory=list)


@dataclass(frozen=True)
class TakesTurns(Tracking):
    """A tracking store that lets the other side have its turn after every TURN runs that were made."""

    between: Callable[[], None] = lambda: None
    made: list[str] = field(default_factory=list)

    def create_run(self, experiment_id: str, name: str, tags: Mapping[str, str], start_ms: int) -> str:
        if len(self.made) > 1 and (len(self.made) - 1) % TURN == 0:  # the first is the sweep's own
            self.between()
        self.made.append(name)
        return super().create_run(experiment_id, name, tags, start_ms)


def measured(folder: Path, runs: int) -> Turns:
    """Mirror a made-up store, and log the same values bare, in turns."""
    store = write_synthetic_store(folder / "runs", runs=runs, steps=STEPS, metrics=METRICS)
    bare = connect(Store(folder / "bare"))
    experiment, _ = bare.experiment("bare")
    waiting = iter(_planned(store))
    turns = Turns()
    since = [0.0]

    def between() -> None:
        """The mirror has shown some runs: log those bare, then go on."""
        spent = time.perf_counter() - since[0]
        chunk = [rows for _, rows in zip(range(TURN), (run_rows(r) for r in waiting), strict=False)]
        calls = []
        for rows in chunk:
            name = bare.create_run(experiment, "bare", {}, 0)
            made = as_metrics(rows)
            calls += [(name, made[i : i + METRICS_A_CALL]) for i in range(0, len(made), METRICS_A_CALL)]
        began = time.perf_counter()
        for name, batch in calls:
            bare.client.log_batch(name, metrics=batch)
        ended = time.perf_counter()
        values = sum(map(len, chunk))
        for side, seconds in ((turns.mirror, spent), (turns.bare, ended - began)):
            if len(chunk) < TURN and side:  # the rest is too small a turn to say anything by itself
                last = side.pop()
                side.append(Turn(last.values + values, last.seconds + seconds))
            else:
                side.append(Turn(values, seconds))
        since[0] = time.perf_counter()

    mirror = Mirror(store, local_uri(store))
    plain = connect(store)
    mirror._tracking = TakesTurns(plain.uri, plain.client, plain.local_artifacts, between=between)
    since[0] = time.perf_counter()
    status = mirror.sync_once()
    between()
    if not status.ok:
        raise LabError(f"the mirror did not come to its end: {status.reason}")
    return turns


def _planned(store: Store) -> Iterator[RunDir]:
    """Run directories in the order in which the mirror takes them."""
    for sweep in store.sweeps():
        plan = read_json(sweep.plan)
        yield from (store.trial(t["run_id"]) for t in plan["trials"])
        yield from (store.reference(t["run_id"]) for t in plan["references"])


def run_rows(run: RunDir) -> list[MetricRow]:
    """Every value that the mirror shows of a completed run."""
    timing = list(iter_lines(run.timing))
    times, began = mlflow_rows.step_times(timing), start_ms(run)
    found: list[MetricRow] = []
    for _, line in iter_lines(run.metrics):
        found += mlflow_rows.metric_rows(line, mlflow_rows.time_of(times, int(line["step"]), began))
    for _, rows in mlflow_rows.new_timing(timing, -1):
        found += rows
    return found + mlflow_rows.final_rows(read_json(run.result), began)


@dataclass(frozen=True)
class Resumed:
    """What a database holds after a kill and a second sync."""

    runs: int
    expected_runs: int
    values: int
    expected_values: int
    at_kill: int

    @property
    def whole(self) -> bool:
        return (self.runs, self.values) == (self.expected_runs, self.expected_values)

    def told(self) -> str:
        fate = "nothing doubled, nothing lost" if self.whole else "NOT WHOLE"
        return (
            f"killed at {self.at_kill:,} of {self.expected_values:,} values and synced again: {fate} "
            f"({self.values:,} values, {self.runs} of {self.expected_runs} runs)"
        )


def killed_and_resumed(folder: Path, runs: int) -> Resumed:
    """Mirror in another process, kill it half-way, mirror again, and count by plain SQL."""
    store = write_synthetic_store(folder / "killed", runs=runs, steps=STEPS, metrics=METRICS)
    found = list(_planned(store))
    expected = sum(len(set(run_rows(run))) for run in found)
    connect(store)
    # Killed as a machine that goes away kills it; its environment names no other server.
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    program = "import sys; from trb_lab.cli import main; sys.exit(main())"
    child = subprocess.Popen(
        [sys.executable, "-c", program, "--store", str(store.root), "sync"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    end = time.monotonic() + LONGEST_SECONDS
    while child.poll() is None and _count(store) < KILL_AT * expected and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    child.send_signal(signal.SIGKILL)
    child.wait()
    at_kill = _count(store)
    status = sync_store(store, local_uri(store))
    if not status.ok:
        raise LabError(f"the second mirror did not come to its end: {status.reason}")
    return Resumed(_count(store, "runs") - 1, len(found), _count(store), expected, at_kill)


def _count(store: Store, table: str = "metrics") -> int:
    """Rows of the database; of metrics only those of trials and references (the parent has means of its own)."""
    trials = "SELECT run_uuid FROM tags WHERE key = 'trb.role' AND value != 'sweep'"
    which = f" WHERE run_uuid IN ({trials})" if table == "metrics" else ""
    with closing(sqlite3.connect(store.mlflow_db, timeout=60)) as connection:
        rows: list[tuple[Any, ...]] = connection.execute(f"SELECT count(*) FROM {table}{which}").fetchall()
    return int(rows[0][0])
