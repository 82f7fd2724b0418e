"""What every launcher must do. Subclass `LauncherConformance` and give a `launcher` fixture.

Launchers of processes, which claim a run directory before its worker starts, add `ClaimConformance`. A cluster's
launcher claims by its batch record.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trb_lab.launch import claim
from trb_lab.launch.base import Job, Launcher, Phase
from trb_lab.store import locks
from trb_lab.store.run_dir import Store, write_json
from trb_lab.store.status import state_of

from . import fake_worker

SCRIPT = Path(fake_worker.__file__)
REPOSITORY = str(SCRIPT.parents[2])


def fake_command(job: Job) -> list[str]:
    return [sys.executable, str(SCRIPT), str(job.run_dir.path)]


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("waited in vain")
        time.sleep(0.02)


class LauncherConformance:
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return Store(tmp_path / "runs")

    @pytest.fixture
    def make(self, store: Store) -> Callable[..., Job]:
        """Jobs in run directories of their own; keywords say how the fake worker behaves."""

        def make(name: str, **behaviour: float) -> Job:
            run_dir = store.trial(name)
            write_json(run_dir.config, {"run_id": name, "spec": {"steps": 3}})
            path = Path(os.environ["FAKE_WORKER"])
            known = json.loads(path.read_text()) if path.exists() else {}
            path.write_text(json.dumps({**known, name: behaviour}))
            return Job(run_dir)

        return make

    @pytest.fixture(autouse=True)
    def _behaviour_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FAKE_WORKER", str(tmp_path / "behaviour.json"))
        monkeypatch.setenv("PYTHONPATH", REPOSITORY)

    @pytest.fixture
    def stranger(self, make: Callable[..., Job]) -> Iterator[Callable[..., Job]]:
        """Starts a worker outside of any launcher."""
        started: list[subprocess.Popen[bytes]] = []

        def start(name: str) -> Job:
            job = make(name, pause=0.05, steps=10_000)
            started.append(subprocess.Popen(fake_command(job), stdout=subprocess.DEVNULL))
            wait_for(lambda: locks.is_held(job.run_dir.lock))
            return job

        yield start
        for process in started:
            process.kill()
            process.wait()

    def drain(self, launcher: Launcher) -> dict[str, int | None]:
        """Poll until everything has ended; exit codes by run id."""
        wait_for(lambda: all(s.phase is Phase.ENDED for s in launcher.poll().values()))
        return {run_id: status.exit_code for run_id, status in launcher.poll().items()}

    def test_jobs_end_with_their_exit_codes_and_results(self, launcher: Launcher, make: Callable[..., Job]):
        good, bad = make("good"), make("bad", fail_at=1)
        launcher.submit(good)
        launcher.submit(bad)
        assert self.drain(launcher) == {"good": 0, "bad": 1}
        assert (state_of(good.run_dir), state_of(bad.run_dir)) == ("completed", "failed")

    def test_a_job_is_submitted_once_until_it_has_ended(self, launcher: Launcher, make: Callable[..., Job]):
        job = make("job", fail_at=1)
        launcher.submit(job)
        with pytest.raises(ValueError, match="already"):
            launcher.submit(job)
        self.drain(launcher)
        launcher.submit(make("job"))
        assert self.drain(launcher) == {"job": 0}

    def test_a_cancelled_waiting_job_never_starts(self, launcher: Launcher, make: Callable[..., Job]):
        job = make("job")
        launcher.submit(job)
        launcher.cancel("job")
        assert self.drain(launcher) == {"job": None}
        assert not job.run_dir.attempts.exists()
        launcher.cancel("job")  # an ended job is left alone

    def test_an_attached_worker_takes_a_slot_until_it_has_ended(
        self, launcher: Launcher, make: Callable[..., Job], stranger: Callable[..., Job]
    ):
        theirs = [stranger(f"theirs{i}") for i in range(launcher.slots)]
        for job in theirs:
            launcher.attach(job)
        launcher.submit(make("ours"))
        assert launcher.poll()["ours"].phase is Phase.WAITING
        for job in theirs:
            assert launcher.poll()[job.run_id].phase is Phase.RUNNING
            launcher.cancel(job.run_id)
        codes = self.drain(launcher)
        assert codes["ours"] == 0
        assert {state_of(job.run_dir) for job in theirs} == {"interrupted"}

    def test_a_submitted_job_that_somebody_runs_already_is_followed(
        self, launcher: Launcher, stranger: Callable[..., Job]
    ):
        job = stranger("job")
        launcher.submit(job)
        assert launcher.poll()["job"].phase is Phase.RUNNING
        launcher.cancel("job", kill=True)
        assert self.drain(launcher) == {"job": None}

    def test_logs_are_what_the_worker_printed(self, launcher: Launcher, make: Callable[..., Job]):
        job = make("job")
        launcher.submit(job)
        self.drain(launcher)
        assert launcher.logs("job", lines=2)[-1] == "step 2"

    def test_an_ended_job_leaves_nobody_in_its_run_directory(
        self, launcher: Launcher, make: Callable[..., Job]
    ):
        job = make("job")
        launcher.submit(job)
        self.drain(launcher)
        assert claim.live_worker(job.run_dir) is None

    def test_a_launcher_says_what_the_driver_needs_to_know(self, launcher: Launcher):
        assert launcher.name in ("inline", "local", "slurm")
        assert launcher.poll_seconds > 0
        assert launcher.outlives_driver == (launcher.name == "slurm")
        launcher.close()


class ClaimConformance:
    def test_the_claim_names_the_launcher(self, launcher: Launcher, make: Callable[..., Job]):
        job = make("job")
        launcher.submit(job)
        wait_for(lambda: all(s.phase is Phase.ENDED for s in launcher.poll().values()))
        assert {"time", "pid", "host", "launcher"} <= set(locks.owner(job.run_dir.claim))
