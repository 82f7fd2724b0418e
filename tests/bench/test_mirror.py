"""The benchmark of the mirror: both sides write the same values, and a killed mirror is made whole; no clock."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mlflow")

from trb_lab.bench import mirror
from trb_lab.bench.options import Options
from trb_lab.store.run_dir import Store

pytestmark = pytest.mark.long


def test_both_sides_hold_the_same_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3
    from contextlib import closing

    for name, value in (("STEPS", 4), ("TURN", 2)):
        monkeypatch.setattr(mirror, name, value)
    turns = mirror.measured(tmp_path, 5)
    assert [t.values for t in turns.mirror] == [t.values for t in turns.bare]
    assert len(turns.mirror) == 3  # 5 trials and 2 references, two at a time, the last three together
    query = (
        "SELECT key, value, timestamp, step FROM metrics WHERE run_uuid NOT IN "
        "(SELECT run_uuid FROM tags WHERE key = 'trb.role' AND value = 'sweep') ORDER BY 1, 3, 4, 2"
    )
    sides = []
    for folder in ("runs", "bare"):
        with closing(sqlite3.connect(Store(tmp_path / folder).mlflow_db)) as connection:
            sides.append(connection.execute(query).fetchall())
    assert sides[0] == sides[1]
    assert len(sides[0]) == sum(t.values for t in turns.mirror)


def test_a_mirror_that_was_killed_is_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "STEPS", 20)
    found = mirror.killed_and_resumed(tmp_path, 5)
    assert found.whole, found
    assert "nothing doubled, nothing lost" in found.told()


def test_it_says_what_it_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "STEPS", 3)
    monkeypatch.setattr(mirror, "killed_and_resumed", lambda folder, runs: mirror.Resumed(7, 7, 9, 9, 4))
    result = mirror.run(Options(runs=5))
    assert [line.what for line in result.tables[0].rows] == ["bare loop of log_batch", "mirror"]
    assert "killed at 4 of 9 values" in result.as_text()
