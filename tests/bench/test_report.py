"""The benchmark of reports: phases add up, and the made-up sweep is the one asked for. No clock is tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from trb_lab.bench import report as report_bench
from trb_lab.bench.options import Options
from trb_lab.bench.report_phases import PHASES, Clock, only_read
from trb_lab.bench.synthetic_store import write_synthetic_store

pytestmark = pytest.mark.long


def test_a_phase_within_another_counts_once() -> None:
    clock = Clock()

    def outer() -> str:
        clock.measure("inner", lambda: sum(range(200_000)))
        return "done"

    assert clock.measure("outer", outer) == "done"
    clock.measure("inner", lambda: None)
    assert set(clock.seconds) == {"inner", "outer"}
    assert clock.seconds["outer"]["seconds"] < clock.seconds["inner"]["seconds"]


def test_the_floor_reads_every_line(tmp_path: Path) -> None:
    store = write_synthetic_store(tmp_path, runs=2, steps=5, seeds=2)
    size = sum(path.stat().st_size for run in store.trials() for path in (run.metrics, run.timing))
    assert only_read(tmp_path)["read_bytes"] == size


def test_it_tells_of_every_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_bench, "STEPS", 20)
    result = report_bench.run(Options(runs=10, repeats=1))
    seconds, memory = result.tables
    assert [line.what for line in seconds.rows] == [*PHASES, "total", "reading alone"]
    figures = {line.what: line.figure.median for line in seconds.rows}
    assert sum(figures[phase] for phase in PHASES) == pytest.approx(figures["total"])
    assert all(figures[phase] > 0 for phase in PHASES)
    assert seconds.title.startswith("a report of 10 runs x 20 steps x 30 metrics")
    assert [line.what for line in memory.rows] == ["report", "reading alone"]
    assert list(seconds.rows[-2].ratios) == ["reading alone"]
