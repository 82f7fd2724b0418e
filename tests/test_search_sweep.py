"""Searches through the real driver, launcher and store: what is proposed, and that a second run finds nothing to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from trb_lab.store.status import attempt_count

from .search_fakes import SearchLab, plain_loop, search_lab


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchLab:
    return search_lab(tmp_path, monkeypatch, importance=True)


def test_the_driver_proposes_what_a_plain_loop_does(lab: SearchLab) -> None:
    assert lab.run() == 0
    assert lab.proposals() == plain_loop(lab, 9)
    assert lab.summary()["counts"] == {"complete": 9}
    assert all(attempt_count(run) == 1 for run in lab.store.trials())


def test_a_second_run_asks_and_runs_nothing(lab: SearchLab) -> None:
    assert lab.run() == 0
    before, log = lab.attempts(), lab.store.sweep("found").search_log("trb").read_text()
    for view in ("search_study", "search_values", "search_summary"):
        getattr(lab.store.sweep("found"), view)("trb").unlink()
    assert lab.run() == 0
    assert lab.attempts() == before
    assert lab.store.sweep("found").search_log("trb").read_text() == log
    assert lab.summary()["counts"] == {"complete": 9}
    assert lab.store.sweep("found").search_study("trb").exists()
