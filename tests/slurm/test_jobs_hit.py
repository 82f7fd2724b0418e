"""What befalls single jobs of a real cluster: the sweep ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import pytest

from trb_lab.store.status import attempt_count, attempts, last_error, state_of

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
    outrank()
    assert [driver.ends() for driver in drivers] == [0, 0], kind.said() + harsh.said()
    assert kind.attempts() == [2, 2]
    assert harsh.attempts() == [2, 2, 1]
    are_well({kind: 1, harsh: 1}, undisturbed())


@pytest.fixture(scope="module", autouse=True)
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Future[int]]]:
    """A sweep under a time limit, and its driver's exit code: it mostly waits, so others run meanwhile."""
    sweep = Lab(tmp_path_factory.mktemp("limits"), "limits")
    sweep.plan(["opd", "trb"], [2], partition="high", time="2m", signal_delay_seconds=40)
    driver = sweep.start()

    def hold_until_the_limit() -> int:
        sweep.wait_until(sweep.planned, "planned")
        moves, stands = sweep.trials()
        sweep.frozen(moves, before=[stands])
        held = {worker_pid(stands)}
        while driver.code is None and state_of(stands) != "failed":
            pid = worker_pid(stands)
            if pid is not None and pid not in held:
                held.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            time.sleep(0.02)
        return driver.ends()

    with ThreadPoolExecutor(1) as threads:
        yield sweep, threads.submit(hold_until_the_limit)
        sweep.close()


def test_time_limits(limited: tuple[Lab, Future[int]], undisturbed: Weights):
    """A trial that a limit interrupts goes on; one that a whole limit does not bring to a step is given up."""
    sweep, ended = limited
    assert ended.result() == 1, sweep.said()
    moves, stands = sweep.trials()
    assert state_of(moves) == "completed", sweep.said()
    assert attempt_count(moves) >= 2  # a busy machine brings it to one more limit
    assert (last_error(stands) or {}).get("error_class") == "time_limit", sweep.said()
    assert sweep.status()["trb 2"]["error_class"] == "time_limit"
    assert sweep.sweep("--retry-failed=time_limit").code == 0, sweep.said()
    are_well({sweep: None}, undisturbed())
