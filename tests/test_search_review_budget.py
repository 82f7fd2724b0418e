"""A search whose budget is spent: nothing begins, nothing is lost, and more of it goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import trb_lab.sweep as sweep_module
from trb_lab.driver.budget import Budget
from trb_lab.errors import UsageError
from trb_lab.launch import claim
from trb_lab.store.status import attempt_count, state_of

from .search_fakes import ASHA, SearchLab, check, once, search_lab

pytestmark = pytest.mark.long

SPENT = Budget(1e-9, "cpuh")
PLENTY = Budget(1000, "cpuh")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchLab:
    found = search_lab(tmp_path, monkeypatch)
    found.amend({"seeds": [0]})
    found.search(trials=6, sampler="random")
    return found


@pytest.mark.parametrize("point", ["driver.result.before:4", "driver.proposal.after:3"])
def test_a_spent_budget_starts_nothing_and_a_larger_one_goes_on(
    lab: SearchLab, point: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The driver died over the third setting: while it was at work, or before its run began. The others paused."""
    lab.search(pruning=ASHA)
    assert lab.run() == 0
    proposals, steps, counts = lab.proposals(), lab.searched(), lab.summary()["counts"]
    third = lab.run_of(2)
    lab.forget()
    if "result" in point:  # it saved, and the driver died before it knew
        lab.behave({"": {"function": 1}, third.run_id: {"function": 1, "stop_at": 1, "stops": 1}})
    assert lab.code_of(lab.fork_driver(point)) == -9
    assert len(lab.log) == 3
    assert [state_of(lab.run_of(n)) for n in (0, 1)] == ["paused", "paused"]
    assert state_of(third) == ("interrupted" if "result" in point else "new")

    attempts = lab.attempts()
    capsys.readouterr()
    assert lab.run(budget=SPENT) == 0
    assert "the budget is spent" in capsys.readouterr().out
    assert "the budget is spent" in lab.summary()["stopped"]
    assert lab.summary()["over"]
    assert (lab.attempts(), len(lab.log)) == (attempts, 3)

    assert lab.run(budget=PLENTY) == 0
    check(lab, asked=6)
    assert lab.summary()["stopped"] is None
    assert lab.proposals() == proposals
    assert lab.searched() == steps
    assert lab.summary()["counts"] == counts


def test_gpu_hours_need_a_gpu(lab: SearchLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "visible_gpus", lambda: ())
    with pytest.raises(UsageError, match="--budget 3gpuh: no GPU takes part"):
        lab.run(budget=Budget(3, "gpuh"))
    assert not lab.store.trials()
    assert not lab.store.sweep("found").path.exists()


def test_a_spent_budget_still_follows_a_worker_that_lives(lab: SearchLab) -> None:
    lab.behave({"": {"function": 1, "pause": 0.1}, "opd": {"function": 1}})
    pid = lab.fork_driver("driver.proposal.after:2")
    assert lab.code_of(pid) == -9  # the first setting has ended, and the second one was about to begin
    assert state_of(lab.run_of(0)) == "completed"
    pid = lab.fork_driver()
    lab.wait_for_steps(1)
    os.kill(pid, signal.SIGKILL)  # it is ours and not waited for yet: the number is nobody else's
    lab.code_of(pid)
    run = lab.run_of(1)
    assert claim.live_worker(run) is not None
    assert lab.run(budget=SPENT) == 0
    assert state_of(run) == "completed"
    assert attempt_count(run) == 1
    assert once(lab.steps_made(run.run_id))
    assert len(lab.log) == 2
    assert lab.summary()["counts"] == {"complete": 2}
    assert "the budget is spent" in lab.summary()["stopped"]
