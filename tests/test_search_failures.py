"""Settings that fail, diverge or are cancelled: what the search makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from trb_lab.driver.cancelling import cancel
from trb_lab.store.status import attempt_count, state_of

from .search_fakes import ASHA, SearchLab, check, plain_loop, search_lab

pytestmark = pytest.mark.long


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchLab:
    found = search_lab(tmp_path, monkeypatch)
    found.amend({"seeds": [0]})
    found.search(trials=6, sampler="random")  # the same settings whatever becomes of them
    return found


def learn(lab: SearchLab, *numbers: int) -> list[str]:
    """Run ids of some candidates, found by a search that is forgotten then."""
    assert lab.run() == 0
    found = [lab.run_of(number).run_id for number in numbers]
    lab.forget()
    return found


def test_a_setting_that_diverges_is_a_result(lab: SearchLab) -> None:
    (bad,) = learn(lab, 2)
    lab.behave({"": {"function": 1}, bad: {"function": 1, "diverge_at": 4}})
    assert lab.run() == 0
    check_asked(lab, 6)
    assert lab.summary()["counts"] == {"complete": 5, "failed": 1}
    assert lab.candidates()[2]["state"] == "failed"
    assert "out of hand" in lab.candidates()[2]["error"]
    assert lab.summary()["best"] != 2
    assert lab.run() == 0  # and it is not tried again
    assert attempt_count(lab.run_of(2)) == 1


def check_asked(lab: SearchLab, asked: int) -> None:
    assert lab.summary()["asked"] == asked
    assert lab.summary()["over"]


def test_a_failure_of_the_code_ends_with_1_and_can_be_retried(
    lab: SearchLab, capsys: pytest.CaptureFixture[str]
) -> None:
    (bad,) = learn(lab, 3)
    lab.behave({"": {"function": 1}, bad: {"function": 1, "fail_at": 4}})
    capsys.readouterr()
    assert lab.run() == 1
    assert "boom at a step" in capsys.readouterr().out
    assert lab.candidates()[3]["state"] == "failed"
    check_asked(lab, 6)
    lab.behave({"": {"function": 1}})
    assert lab.run() == 1
    assert attempt_count(lab.run_of(3)) == 1
    assert lab.run(retry_failed={"oom"}) == 1
    assert attempt_count(lab.run_of(3)) == 1
    assert lab.run(retry_failed=True) == 0
    check(lab, asked=6)
    assert lab.summary()["counts"] == {"complete": 6}
    assert len(lab.log) == 6


def test_a_failed_setting_is_told_to_the_sampler(lab: SearchLab) -> None:
    lab.search(sampler={"kind": "tpe", "startup_trials": 2})
    assert lab.run() == 0
    calm = lab.proposals()
    bad = lab.run_of(1).run_id
    lab.forget()
    lab.behave({"": {"function": 1}, bad: {"function": 1, "diverge_at": 4}})
    assert lab.run() == 0
    assert lab.proposals()[:2] == calm[:2] == plain_loop(lab, 2)
    assert lab.proposals() != calm


def test_three_alike_failures_stop_the_search(lab: SearchLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.amend({"report/reference": ...})
    lab.amend({"arms/opd": ...})
    lab.behave({"": {"fail_at": 0}})
    assert lab.run() == 1
    assert "Nothing more was started, because every trial so far failed" in capsys.readouterr().out
    assert len(lab.log) == 3
    lab.behave({"": {"function": 1}})
    assert lab.run(retry_failed=True) == 0
    check(lab, asked=6)
    assert lab.summary()["counts"] == {"complete": 6}


def test_failing_settings_among_paused_ones_never_go_on(lab: SearchLab) -> None:
    lab.search(trials=9, pruning=ASHA)
    (best,) = learn(lab, 0)
    assert lab.run() == 0
    best = next(c for c in lab.candidates().values() if c["state"] == "complete")["number"]
    (run_id,) = learn(lab, best)
    lab.behave({"": {"function": 1}, run_id: {"function": 1, "diverge_at": 8}})
    assert lab.run() == 0
    check(lab, asked=9)
    assert lab.candidates()[best]["state"] == "failed"
    assert lab.summary()["best"] != best
    assert lab.summary()["best"] is not None


def test_a_cancelled_setting_stays_so(lab: SearchLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.search(trials=4, pruning=ASHA)
    assert lab.run() == 0
    paused = next(c for c in lab.candidates().values() if c["state"] == "paused")["number"]
    run = lab.run_of(paused)
    cancel(lab.store, run.run_id, yes=True)
    assert state_of(run) == "cancelled"
    lab.search(trials=12, pruning=...)
    assert lab.run() == 0
    assert state_of(run) == "cancelled"
    assert lab.candidates()[paused]["state"] == "failed"
    assert lab.summary()["counts"] == {"complete": 11, "failed": 1}
    assert lab.run(retry_failed={"cancelled"}) == 0
    assert lab.summary()["counts"] == {"complete": 12}


def test_a_stopped_worker_is_taken_up_by_the_next_driver(lab: SearchLab) -> None:
    (stopped,) = learn(lab, 5)
    lab.behave({"": {"function": 1}, stopped: {"function": 1, "stop_at": 3, "stops": 1}})
    assert lab.run() == 1
    assert lab.candidates()[5]["state"] == "running"
    assert lab.run() == 0
    check(lab, asked=6)
    assert lab.steps_made(stopped)[-18:] == list(range(18))
