"""What befalls single jobs of a real cluster: the sweep ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from trb_lab.store.status import attempts, last_error, state_of

from .lab import Lab, Marks, are_well, outrank, parent_of, slurm, worker_pid

pytestmark = Marks

Labs = Callable[[str], Lab]
Weights = Callable[[], dict[str, str]]


def test_killed_workers_and_supervisors_requeues_and_cancelled_jobs(lab: Labs, undisturbed: Weights):
    sweep = lab("storm").plan(["opd", "trb"], [0, 1], partition="high")
    driver = sweep.start()
    sweep.wait_until(sweep.planned, "planned")
    worker, supervisor, requeued, cancelled = runs = sweep.trials()
    sweep.frozen(*runs)
    jobs = {t["run_id"]: t["job"] for t in sweep.status().values()}

    os.kill(worker_pid(worker) or 0, signal.SIGKILL)
    os.kill(parent_of(worker_pid(supervisor) or 0), signal.SIGKILL)
    slurm("scontrol", "requeue", jobs[requeued.run_id])
    slurm("scancel", jobs[cancelled.run_id])
    sweep.thaw(supervisor)  # an orphan, on a cluster that leaves it alive

    assert driver.ends() == 0, driver.text
    assert state_of(cancelled) == "cancelled", driver.text
    assert [str(state_of(run)) for run in (worker, supervisor, requeued)] == ["completed"] * 3
    assert sweep.attempts()[:1] + sweep.attempts()[2:] == [2, 2, 1]

    again = sweep.sweep("--retry-failed=cancelled")
    assert again.code == 0, again.text
    assert attempts(cancelled)[-1]["state"] == "completed"
    are_well({sweep: None}, undisturbed())


def test_preemption_with_grace_and_without(lab: Labs, undisturbed: Weights):
    kind = lab("grace").plan(["opd"], [0, 1])
    harsh = lab("harsh").plan(["trb"], [0, 1, 2], partition="scavenge", pack=3, pack_parallel=2)
    drivers = [kind.start(), harsh.start()]
    for each in (kind, harsh):
        each.wait_until(each.planned, "planned")
    kind.frozen(*kind.trials())
    harsh.frozen(*harsh.trials()[:2])
    outrank(taken=3)
    assert [driver.ends() for driver in drivers] == [0, 0], kind.said() + harsh.said()
    assert kind.attempts() == [2, 2]
    assert harsh.attempts() == [2, 2, 1]
    are_well({kind: 1, harsh: 1}, undisturbed())


def test_time_limits(lab: Labs, undisturbed: Weights):
    """One that a limit interrupts goes on; one that a whole limit does not bring to a step is given up."""
    sweep = lab("limits").plan(["opd", "trb"], [2], partition="high", time="1m", signal_delay_seconds=10)
    driver = sweep.start()
    sweep.wait_until(sweep.planned, "planned")
    moves, stands = sweep.trial("opd", 2), sweep.trial("trb", 2)
    sweep.frozen(stands, before=True)
    sweep.frozen(moves)
    sweep.frozen(stands, attempt=2, before=True)
    assert driver.ends() == 1, driver.text
    assert state_of(moves) == "completed"
    assert len([event for event in attempts(moves) if event["event"] == "start"]) == 2
    error = last_error(stands) or {}
    assert error["error_class"] == "time_limit"
    assert sweep.status()["trb 2"]["error_class"] == "time_limit"

    assert sweep.sweep("--retry-failed=time_limit").code == 0, sweep.said()
    are_well({sweep: None}, undisturbed())
