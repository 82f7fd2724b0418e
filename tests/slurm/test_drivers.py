"""Drivers that come, go and fight, and the ways to have none."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable

from trb_lab.store.status import state_of

from .invariants import complaints
from .lab import Lab, Marks, are_well

pytestmark = Marks

Labs = Callable[[str], Lab]
Weights = Callable[[], dict[str, str]]


def test_drivers_take_turns_and_trials_are_cancelled(lab: Labs, undisturbed: Weights):
    sweep = lab("turns").plan(["opd", "trb"], [0, 1], array_parallelism=3)
    first = sweep.start()
    sweep.wait_until(sweep.planned, "planned")
    opd, trb, pending = [sweep.trial("opd", s) for s in (0, 1)], sweep.trial("trb", 0), sweep.trial("trb", 1)
    sweep.frozen(*opd, trb)

    refused = sweep.sweep()
    assert refused.code not in (0, None)
    assert "--take-over" in refused.text
    second = sweep.start("--take-over")
    assert first.ends() == 3, first.text
    assert "was taken over" in first.text
    sweep.wait_until(lambda: sweep.status()["trb 1"]["state"] == "waiting", "told to wait")
    shown = sweep.status()
    assert "JobArrayTaskLimit" in shown["trb 1"]["where"]
    assert {shown[name]["state"] for name in ("opd 0", "opd 1", "trb 0")} == {"running"}
    assert all(row["job"] for row in shown.values())
    assert "trb_lab" in sweep.call("logs", trb.run_id) or trb.log.read_text().strip() in sweep.call(
        "logs", trb.run_id
    )

    sweep.wait_until(
        lambda: "running" in second.text or "started" in second.text or "attached" in second.text, "followed"
    )
    second.process.send_signal(signal.SIGKILL)
    third = sweep.start()
    sweep.call("cancel", pending.run_id, "--yes")
    assert sweep.status()["trb 1"]["state"] == "cancelled"
    cancel = subprocess.Popen(
        sweep.command(["cancel", f"{sweep.name}/opd", "--yes"]), stdout=subprocess.PIPE, text=True
    )
    sweep.processes.append(cancel)
    sweep.wait_until(lambda: all(run.stop_request.exists() for run in opd), "asked to stop")
    sweep.thaw(*opd)
    assert cancel.wait(120) == 0, cancel.communicate()[0]
    assert [str(state_of(run)) for run in opd] == ["cancelled", "cancelled"]
    sweep.thaw(trb)
    assert third.ends() == 0, third.text
    assert state_of(trb) == "completed"
    assert sweep.submissions() == 1

    again = sweep.sweep("--retry-failed=cancelled")
    assert again.code == 0, again.text
    are_well({sweep: 2}, undisturbed())


def test_no_driver_a_driver_that_is_a_job_and_a_queue_that_takes_three(lab: Labs, undisturbed: Weights):
    alone = lab("alone").plan(["opd", "trb"], [0])
    job = lab("job").plan(["opd", "trb"], [1])
    tight = lab("tight").plan(["opd", "trb"], [0, 1, 2], qos="tight")
    feeding = tight.start()

    detached = alone.sweep("--detach")
    assert detached.code == 0, detached.text
    assert "makes the report" in detached.text
    driven = job.sweep("--driver", "slurm")
    assert driven.code == 0, driven.text
    said = job.call("logs", job.name, "--follow")
    assert "2 planned, 2 completed" in said

    report = alone.store.sweep(alone.name).report / "report.html"
    alone.wait_until(
        lambda: report.exists() and not complaints(alone.store, alone.name), "over, with a report"
    )
    assert feeding.ends() == 0, feeding.text
    assert "takes no more jobs" in feeding.text or tight.submissions() >= 2
    assert tight.attempts() == [1] * 6
    # two for each: the trials, and the report or the driver
    are_well({alone: 2, job: 2, tight: None}, undisturbed())
