"""Settings that fail among others that do not, and an arm that is cancelled under its driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trb_lab.driver.cancelling import cancel
from trb_lab.store.status import attempt_count, state_of

from .launch.conformance import wait_for
from .search_fakes import ASHA, SearchLab, check, search_lab

pytestmark = pytest.mark.long

HALTED = "Nothing more was started"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchLab:
    found = search_lab(tmp_path, monkeypatch)
    found.amend({"seeds": [0]})
    found.search(trials=6, sampler="random")  # the same settings whatever becomes of them
    return found


def alone(lab: SearchLab) -> None:
    """Nothing of the sweep but the search."""
    lab.amend({"report/reference": ...})
    lab.amend({"arms/opd": ...})


def let_fail(lab: SearchLab, *numbers: int) -> None:
    """These candidates fail alike at their first step, in a search that begins anew."""
    assert lab.run() == 0
    bad = [lab.run_of(number).run_id for number in numbers]
    lab.forget()
    lab.behave({"": {"function": 1}, **{run_id: {"fail_at": 0} for run_id in bad}})


@pytest.mark.parametrize(("pruning", "restart"), [(ASHA, False), (ASHA, True), (None, True)])
def test_alike_failures_after_a_success_do_not_halt_the_search(
    lab: SearchLab, pruning: Any, restart: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    alone(lab)
    lab.search(pruning=pruning)
    let_fail(lab, 1, 2, 3)
    capsys.readouterr()
    if restart:  # after the first setting has completed, or paused, and the second one was asked for
        assert lab.code_of(lab.fork_driver("driver.proposal.after:2")) == -9
    assert lab.run() == 1
    assert HALTED not in capsys.readouterr().out
    summary = lab.summary()
    assert (summary["asked"], summary["over"]) == (6, True)
    assert summary["counts"]["failed"] == 3
    assert [n for n, c in lab.candidates().items() if c["state"] == "failed"] == [1, 2, 3]


def test_other_seeds_of_a_failed_candidate_do_not_go_on(lab: SearchLab) -> None:
    lab.amend({"seeds": [0, 1]})
    lab.search(trials=3, seeds=2, confirm={"seeds": 1})
    assert lab.run() == 0
    failed, stopped = lab.run_of(1, 0), lab.run_of(1, 1)
    lab.forget()
    diverges: dict[str, float] = {"function": 1, "diverge_at": 3}
    stops: dict[str, float] = {"function": 1, "stop_at": 3, "stops": 1}
    lab.behave({"": {"function": 1}, failed.run_id: diverges, stopped.run_id: stops})
    assert lab.run() == 1
    assert [state_of(run) for run in (failed, stopped)] == ["failed", "interrupted"]
    assert lab.run() == 0
    assert [state_of(run) for run in (failed, stopped)] == ["failed", "interrupted"]
    assert [attempt_count(run) for run in (failed, stopped)] == [1, 1]
    assert lab.summary()["counts"] == {"complete": 2, "failed": 1}
    # Nor does it keep the others from their confirmation: it cannot win any more.
    assert lab.summary()["winners"] == [lab.summary()["best"]]
    assert lab.summary()["over"]
    lab.behave({"": {"function": 1}})
    assert lab.run(retry_failed=True) == 0
    assert lab.summary()["counts"] == {"complete": 3}


def test_an_arm_that_is_cancelled_asks_for_nothing_more_until_the_next_command(lab: SearchLab) -> None:
    alone(lab)
    assert lab.run() == 0
    second = lab.run_of(1).run_id
    lab.forget()
    lab.behave({"": {"function": 1}, second: {"function": 1, "pause": 0.2}})
    pid = lab.fork_driver()
    wait_for(lambda: len(lab.steps_made(second)) > 0)
    cancel(lab.store, "found/trb", yes=True)
    assert lab.code_of(pid) in (0, 1)  # 1 where it ended before the word that the stopped one is cancelled
    assert lab.summary()["stopped"] == "cancelled by hand"
    assert lab.summary()["over"]
    assert (lab.summary()["asked"], len(lab.log)) == (2, 2)
    assert state_of(lab.run_of(1)) == "cancelled"
    lab.behave({"": {"function": 1}})
    assert lab.run() == 0
    check(lab, asked=6)
    assert lab.summary()["stopped"] is None
    assert lab.summary()["counts"] == {"complete": 5, "failed": 1}
    assert state_of(lab.run_of(1)) == "cancelled"
