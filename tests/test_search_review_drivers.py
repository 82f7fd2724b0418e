"""Drivers of one search beside and after each other, and what one leaves behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import trb_lab.sweep as sweep_module
from trb_lab.driver import searching
from trb_lab.driver.plan import plan_sweep
from trb_lab.driver.searches import Searches
from trb_lab.launch.follow import Fleet
from trb_lab.search.optuna import Asker
from trb_lab.search.told import Proposal, Told
from trb_lab.store.locks import Lease, Lost
from trb_lab.store.run_dir import read_json

from .forked_workers import forked
from .search_fakes import SearchLab, check, once, plain_loop, quick_launcher, search_lab

pytestmark = pytest.mark.long


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchLab:
    found = search_lab(tmp_path, monkeypatch)
    found.amend({"seeds": [0]})
    found.search(trials=5)
    return found


def test_what_another_driver_decided_between_plan_and_lease_counts(
    lab: SearchLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    driving = sweep_module.driving

    @contextmanager
    def late(*args: Any, **kwargs: Any) -> Iterator[Lease]:
        """The plan is made; another driver comes and goes before the lease is taken."""
        monkeypatch.setattr(sweep_module, "driving", driving)
        lab.search(trials=3)
        assert lab.run() == 0
        assert len(lab.log) == 3
        lab.search(trials=5)
        with driving(*args, **kwargs) as lease:
            yield lease

    monkeypatch.setattr(sweep_module, "driving", late)
    assert lab.run() == 0
    check(lab, asked=5)
    assert lab.proposals() == plain_loop(lab, 5)
    assert all(once(steps) for steps in lab.searched().values())
    assert set(lab.stints().values()) == {1}


def test_a_driver_that_was_relieved_while_it_asked_writes_nothing(
    lab: SearchLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Asker.ask

    def slow(self: Asker, number: int, told: Sequence[Told], study_attrs: Mapping[str, Any]) -> Proposal:
        monkeypatch.setattr(Asker, "ask", ask)
        proposal = ask(self, number, told, study_attrs)
        assert lab.run(take_over=True) == 0
        return proposal

    monkeypatch.setattr(Asker, "ask", slow)
    with pytest.raises(Lost, match="taken over"):
        lab.run()
    check(lab, asked=5)
    assert len(lab.log) == 5


@pytest.mark.parametrize("grid", [False, True])
def test_nothing_is_written_once_the_lease_is_lost(lab: SearchLab, grid: bool) -> None:
    if grid:  # whose settings are written down at the beginning
        lab.amend({"arms/trb/grid": {"warmup.kl_budget": [0.05], "warmup.steps": [6]}})
    searches = Searches(plan_sweep(lab.path, lab.store), lab.store)

    def lost() -> None:
        raise Lost("taken over")

    searches.check = lost
    jobs = quick_launcher(1)
    fleet = Fleet(jobs, [])

    def drive() -> None:
        searches.begin(fleet)
        searches.tick(fleet)

    try:
        with pytest.raises(Lost):
            drive()
    finally:
        jobs.close()
    assert lab.log == []
    assert not fleet.members


def test_a_driver_that_is_killed_leaves_a_summary_behind(
    lab: SearchLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "SAVE_SECONDS", -1000.0)  # at every look
    assert lab.code_of(lab.fork_driver("driver.proposal.after:3")) == -9
    summary = lab.summary()
    plan = read_json(lab.store.sweep("found").plan)
    assert summary["context"] == plan["searches"]["trb"]["context"]
    assert not summary["over"]
    assert summary["stopped"] is None
    assert summary["counts"] == {"complete": 1, "running": 1}  # the look before the third was asked for
    assert lab.run() == 0
    check(lab, asked=5)


def test_a_search_that_is_over_needs_no_optuna(lab: SearchLab) -> None:
    assert lab.run() == 0
    before, log = lab.attempts(), len(lab.log)
    lab.store.sweep("found").search_summary("trb").unlink()

    def without_optuna() -> int:
        for name in [name for name in sys.modules if name.partition(".")[0] == "optuna"]:
            del sys.modules[name]
        for name in ("optuna", "optuna_file", "optuna_journal", "optuna_study"):
            sys.modules.pop(f"trb_lab.search.{name}", None)
        sys.modules["optuna"] = None  # type: ignore[assignment]
        return lab.run()

    path = lab.root / "driver.txt"
    with open(path, "wb") as out:
        pid = forked(without_optuna, out.fileno())
        code = lab.code_of(pid)
    assert code == 0, path.read_text()
    assert "The search's views are not up to date" in path.read_text()
    assert (lab.attempts(), len(lab.log)) == (before, log)
    assert lab.summary()["over"]
    check(lab, asked=5)
