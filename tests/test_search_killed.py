"""Drivers and workers of a search die at any moment; the next driver goes on as if nothing had been."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from trb_lab.store.status import state_of

from .search_fakes import ASHA, SearchLab, check, killing, once, plain_loop, repeated, search_lab

pytestmark = pytest.mark.long

POINTS = [
    "driver.plan.after",
    "driver.ask.after",
    "driver.ask.after:4",
    "driver.proposal.after:2",
    "driver.proposal.after:7",
    "driver.result.before:5",
]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchLab:
    found = search_lab(tmp_path, monkeypatch)
    found.amend({"seeds": [0]})
    found.search(trials=8)
    return found


def run_ids(lab: SearchLab) -> set[str]:
    return {run.run_id for run in lab.store.trials()}


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_driver_loses_nothing_and_repeats_nothing(lab: SearchLab, seed: int) -> None:
    rng = random.Random(seed)
    lab.behave({"": {"function": 1, "pause": 0.005}})
    lab.drive_to_the_end(killing(rng, 0.1, 1.5))
    check(lab, asked=8)
    assert lab.proposals() == plain_loop(lab, 8)
    assert len(run_ids(lab)) == len(lab.searched()) + 1  # the reference arm's
    assert all(once(steps) for steps in lab.searched().values())
    assert all(count == 1 for count in lab.stints().values())


@pytest.mark.parametrize("point", POINTS)
def test_a_driver_that_dies_at_a_failpoint_is_followed_by_one_that_decides_the_same(
    lab: SearchLab, point: str
) -> None:
    lab.search(trials=8)
    pid = lab.fork_driver(point)
    assert lab.code_of(pid) == -9
    assert lab.run() == 0
    check(lab, asked=8)
    assert lab.proposals() == plain_loop(lab, 8)
    assert all(once(steps) for steps in lab.searched().values())


def test_killed_workers_go_on_and_their_search_proposes_the_same(lab: SearchLab) -> None:
    lab.behave({"": {"function": 1, "checkpoint_every": 4, "kill_at": 5, "kills": 2}})
    assert lab.run() == 0
    check(lab, asked=8)
    assert lab.proposals() == plain_loop(lab, 8)
    for run_id, steps in lab.searched().items():
        assert repeated(steps) == {4: 2}  # from the checkpoint after step 3
        assert lab.stints()[run_id] == 3


@pytest.mark.parametrize("seed", range(2))
def test_with_several_at_once_nothing_is_lost_or_run_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    lab = search_lab(tmp_path, monkeypatch, parallel=3)
    rng = random.Random(seed)
    lab.search(trials=12, pruning=ASHA, confirm={"seeds": 2})
    lab.drive_to_the_end(killing(rng, 0.1, 1.5))
    check(lab, asked=12)
    assert all(once(steps) for steps in lab.searched().values())
    assert all(state_of(run) in ("completed", "paused") for run in lab.store.trials())
    summary = lab.summary()
    assert summary["winners"] == [summary["best"]]
    assert [r["state"] for row in summary["confirmation"] for r in row["runs"]] == ["completed"] * 4


@pytest.mark.parametrize("seed", range(3))
def test_a_pruned_search_ends_as_if_nobody_had_been_killed(
    lab: SearchLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    lab.search(trials=9, pruning=ASHA)
    (tmp_path / "calm").mkdir()
    calm = search_lab(tmp_path / "calm", monkeypatch)
    calm.path.write_text(lab.path.read_text())
    assert calm.run() == 0
    rng = random.Random(seed)
    monkeypatch.setenv("FAKE_WORKER_AUDIT", str(lab.audit))
    lab.drive_to_the_end(killing(rng, 0.1, 1.2))
    check(lab, asked=9)
    assert lab.proposals() == calm.proposals()
    assert lab.searched() == calm.searched()  # hence each has come as far, and no step was made twice
    assert lab.stints() == calm.stints()
    assert lab.summary()["counts"] == calm.summary()["counts"]
