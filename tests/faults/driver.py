"""A driver process of a case: `python -m tests.faults.driver SETTINGS.json [--retry-failed] [--take-over]`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import trb_lab.sweep as sweep_module
from trb_lab.driver import end
from trb_lab.driver.cluster import Cluster
from trb_lab.errors import LabError
from trb_lab.launch import slurm, slurm_jobs
from trb_lab.launch.base import Job, Launcher
from trb_lab.launch.local import ProcessLauncher
from trb_lab.launch.slurm import SlurmLauncher
from trb_lab.spec.cluster import ClusterProfile
from trb_lab.store.run_dir import Store

from ..sweep_fakes import NoMirror, fake_report

WORKER = Path(__file__).with_name("worker.py")


def command(job: Job) -> list[str]:
    return [sys.executable, str(WORKER), job.verb, str(job.run_dir.path)]


def local(slots: int | None) -> Launcher:
    found = ProcessLauncher(slots, gpus=(), command=command)
    found.poll_seconds = 0.1
    return found


class OnFake(Cluster):
    def launcher(
        self, store: Store, sweep: str, slots: int | None, check: Callable[[], object] = lambda: None
    ) -> SlurmLauncher:
        return SlurmLauncher(store, self.profile, sweep, slots, check=check, command=command)


def main() -> int:
    settings = json.loads(Path(sys.argv[1]).read_text())
    # What a driver waits for minutes, it waits for an instant here.
    slurm_jobs.GONE_SECONDS = slurm_jobs.UNBORN_SECONDS = 0.5
    slurm.FULL_SECONDS = 0.1
    if not settings["mlflow"]:
        sweep_module.MirrorProcess = NoMirror  # type: ignore[assignment,misc]
    end.report_files = fake_report  # type: ignore[assignment]
    cluster = None
    if settings["profile"] is not None:
        cluster = OnFake(ClusterProfile.model_validate(settings["profile"]), Path("fake.yaml"))
    options = {"retry_failed": "--retry-failed" in sys.argv, "take_over": "--take-over" in sys.argv}
    store = Store(Path(settings["store"]))
    try:
        return sweep_module.run_sweep(settings["sweep"], store, launcher=local, cluster=cluster, **options)
    except LabError as error:
        print(error)
        return error.exit_code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
