"""Slurm's own daemons crash while a driver follows."""

from __future__ import annotations

import json
from collections.abc import Callable

from .lab import Lab, Marks, are_well, cluster

pytestmark = Marks


def test_crashes_that_jobs_outlive(lab: Callable[[str], Lab], undisturbed: Callable[[], dict[str, str]]):
    sweep = lab("daemons").plan(["opd", "trb"], [0])
    driver = sweep.start()
    sweep.wait_until(sweep.planned, "planned")
    runs = sweep.trials()
    sweep.frozen(*runs)
    try:
        for daemon in ("slurmctld", "slurmd"):
            cluster(f"kill-{daemon}")
        silent = json.loads(sweep.call("status", sweep.name, "--json"))
        assert silent["cluster_answers"] is False
        assert silent["sweeps"][0]["counts"] == {"running": 2}
        assert driver.code is None, driver.text
        cluster("start-slurmctld")
        cluster("start-slurmd")
        cluster("kill-slurmdbd")  # only now: a controller whose accounting was never there does not start
        sweep.thaw(*runs)
        assert driver.ends() == 0, driver.text  # the accounting is still away
    finally:
        cluster("up")
    assert sweep.attempts() == [1, 1]
    are_well({sweep: 1}, undisturbed())
