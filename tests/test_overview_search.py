"""status, cancel, clean and diagnostics of a sweep whose arm is searched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trb_lab.diagnostics.targets import targets
from trb_lab.driver import cancelling, cleanup, overview, search_status
from trb_lab.errors import UsageError
from trb_lab.store import locks
from trb_lab.store.run_dir import RunDir, Store
from trb_lab.store.status import begin_attempt, end_attempt, state_of

from .store.fakes import checkpoint, completed_run, make_run, train
from .store.search_fakes import SWEEP, confirm, paused_run, propose, write_searched_plan


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    write_searched_plan(store)
    return store


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_status_tells_how_far_a_search_is(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    overview.show_status(store)
    text = "\n".join(lines(capsys))
    assert "find: which?\n1 new\n" in text
    assert text.index("opd-s0") < text.index("search trb: 0 of 40 settings asked")

    completed_run(store, propose(store, 0, origin="warm"))
    for number in (1, 2):
        paused_run(store, propose(store, number))
    failed = make_run(store, propose(store, 3))
    end_attempt(failed, begin_attempt(failed), "failed", error="boom", error_class="code")
    completed_run(store, propose(store, 4))
    winner, _ = confirm(store, 4)
    completed_run(store, winner)
    propose(store, 5, context="another")

    overview.show_status(store, SWEEP)
    shown = lines(capsys)
    start = shown.index(
        "search trb: 4 of 40 settings asked, 1 known before, 2 completed, 1 failed, 2 paused; "
        "confirmation: 1 completed, 1 new"
    )
    table = shown[start + 3 :]
    assert table[0].split() == [
        "trb-3",
        "trb",
        "#3",
        "kl_budget=0.03",
        "0",
        "failed",
        "1",
        "0/10",
        "-",
        "code:",
        "boom",
    ]
    assert table[1].split()[:7] == ["opd-fresh", "opd", "confirm", "7", "new", "0", "0/10"]
    assert table[2] == "(5 more runs: 3 completed, 2 paused; `trb-lab status find --json` lists all)"
    assert not any(line.startswith("trb-1 ") for line in shown)

    overview.show_status(store, as_json=True)
    told = json.loads(capsys.readouterr().out)
    (sweep,) = told["sweeps"]
    assert sweep["searches"] == [
        {
            "arm": "trb",
            "asked": 4,
            "trials": 40,
            "known": 1,
            "counts": {"completed": 2, "paused": 2, "failed": 1},
            "confirmation": {"completed": 1, "new": 1},
        }
    ]
    rows = {row["run_id"]: row for row in sweep["trials"]}
    assert (rows["trb-1"]["state"], rows["trb-1"]["step"], rows["trb-1"]["steps"]) == ("paused", 4, 10)
    assert rows["trb-1"]["search"] == {"arm": "trb", "number": 1, "role": "select"}
    assert rows["opd-s0"]["search"] is None
    assert rows[winner]["search"]["role"] == "confirm"
    assert "trb-5" not in rows  # of another base experiment
    assert sweep["counts"] == {"new": 2, "paused": 2, "completed": 3, "failed": 1}
    assert told["other_runs"] == []


def test_a_paused_run_of_the_plan_itself_has_its_row(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    paused_run(store, "opd-s0")
    overview.show_status(store)
    row = next(line for line in lines(capsys) if line.startswith("opd-s0"))
    assert row.split()[4:7] == ["paused", "1", "4/10"]


def test_only_the_latest_rows_are_listed(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_status, "SHOWN_ROWS", 2)
    for number in range(5):
        propose(store, number)
    overview.show_status(store)
    shown = lines(capsys)
    assert [line.split()[0] for line in shown if line.startswith("trb-")] == ["trb-3", "trb-4"]
    assert "(3 more runs: 3 other; `trb-lab status find --json` lists all)" in shown


def test_cancelling_reaches_what_a_search_asked_for(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    cancelling.cancel(store, f"{SWEEP}/trb", yes=True)
    assert "nothing to cancel" in capsys.readouterr().out  # nothing was asked yet, and the arm is there
    with pytest.raises(UsageError, match="Did you mean 'trb'"):
        cancelling.cancel(store, f"{SWEEP}/trbb", yes=True)
    other = make_run(store, "opd-s0")
    end_attempt(other, begin_attempt(other), "interrupted")
    done = completed_run(store, propose(store, 0))
    waits = paused_run(store, propose(store, 1))
    reference = make_run(store, confirm(store, 0)[1])
    cancelling.cancel(store, f"{SWEEP}/trb", yes=True)
    states = [str(state_of(run)) for run in (other, done, waits, reference)]
    assert states == ["interrupted", "completed", "cancelled", "cancelled"]
    cancelling.cancel(store, SWEEP, yes=True)
    assert state_of(other) == "cancelled"


def test_cleaning_leaves_a_search_what_it_goes_on_from(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    completed_run(store, propose(store, 0))
    run = paused_run(store, propose(store, 1))
    checkpoint(run, 6, train(run, 4, 6))
    stray = paused_run(store, "trb-by-hand")
    found = {(i.rule, i.run.run_id) for i in cleanup.find_items(store, list(cleanup.RULES))}
    assert found == {("unplanned", stray.run_id), ("paused", run.run_id)}
    cleanup.clean(store, checkpoints=True, failed=True, yes=True)
    assert len(list(run.checkpoints.iterdir())) == 2
    with locks.hold(store.sweep(SWEEP).driver_lock, "the sweep"):
        cleanup.clean(store, paused=True, yes=True)
        assert not list(stray.checkpoints.iterdir())  # no search is at that one
        assert len(list(run.checkpoints.iterdir())) == 2
    cleanup.clean(store, paused=True, yes=True)
    assert not list(run.checkpoints.iterdir())
    assert run.metrics.exists()
    run.claim.unlink()  # of the cleaning process, which lives on here
    assert state_of(run) == "paused"
    cleanup.clean(store)
    assert "--paused" in capsys.readouterr().out


def test_diagnostics_take_the_runs_of_a_search(store: Store) -> None:
    completed_run(store, propose(store, 0))
    propose(store, 1)  # has not begun
    found = targets([SWEEP], store)
    assert [(t.run.run_id, t.arm, t.setting) for t in found] == [("trb-0", "trb", "#0 kl_budget=0.0")]


def test_cancelling_reaches_what_is_asked_until_the_driver_has_gone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = paused_run(store, propose(store, 0))
    asked: list[RunDir] = []

    def stop_driver(*_: object) -> list[str]:
        asked.append(paused_run(store, propose(store, 1)))
        return []

    monkeypatch.setattr(cancelling, "_stop_driver", stop_driver)
    cancelling.cancel(store, SWEEP, yes=True)
    assert [str(state_of(run)) for run in (before, *asked)] == ["cancelled"] * 2
