from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trb_lab.errors import UsageError
from trb_lab.launch import claim
from trb_lab.launch.base import Job, Phase, last_lines
from trb_lab.launch.local import InlineLauncher, ProcessLauncher, visible_gpus, worker_command
from trb_lab.spec.experiment import ResourcesSpec
from trb_lab.store.run_dir import RunDir, write_json

from . import fake_worker
from .conformance import ClaimConformance, LauncherConformance, fake_command, wait_for


class TestProcessLauncher(LauncherConformance, ClaimConformance):
    @pytest.fixture
    def launcher(self) -> Iterator[ProcessLauncher]:
        launcher = ProcessLauncher(2, gpus=(), command=fake_command)
        yield launcher
        for run_id in list(launcher.poll()):
            launcher.cancel(run_id, kill=True)

    def test_slots_bound_what_runs_at_once(self, launcher: ProcessLauncher, make: Callable[..., Job]):
        for i in range(3):
            launcher.submit(make(f"job{i}", pause=0.05, steps=10_000))
        phases = [status.phase for status in launcher.poll().values()]
        assert sorted(phases) == [Phase.RUNNING, Phase.RUNNING, Phase.WAITING]

    def test_a_running_job_is_asked_to_save_or_killed(
        self, launcher: ProcessLauncher, make: Callable[..., Job]
    ):
        for name in ("asked", "killed"):
            launcher.submit(make(name, pause=0.02, steps=10_000))
        wait_for(
            lambda: launcher.poll() and all(last_lines(RunDir(j.path).log, 1) for j in _run_dirs(launcher))
        )
        launcher.cancel("asked")
        launcher.cancel("killed", kill=True)
        assert self.drain(launcher) == {"asked": 130, "killed": -signal.SIGKILL}

    def test_the_claim_is_held_before_the_worker_takes_its_lock(
        self, launcher: ProcessLauncher, make: Callable[..., Job]
    ):
        job = make("job", late=0.5)
        launcher.submit(job)
        launcher.poll()
        worker = claim.live_worker(job.run_dir)
        assert worker is not None
        assert worker["pid"] != os.getpid()
        other = ProcessLauncher(1, gpus=(), command=fake_command)
        other.submit(job)
        assert other.poll()["job"].phase is Phase.RUNNING  # attached: there is no second worker
        assert self.drain(launcher) == {"job": 0}
        assert self.drain(other) == {"job": None}
        assert fake_worker.attempt_count(job.run_dir) == 1

    def test_children_of_a_killed_worker_do_not_outlive_it(self, tmp_path: Path):
        """A forked child would hold the dead worker's locks for ever."""
        job = Job(RunDir(tmp_path / "job"))
        write_json(job.run_dir.config, {})
        script = "import os, time; pid = os.fork(); time.sleep(60) if pid == 0 else os.kill(os.getpid(), 9)"
        launcher = ProcessLauncher(1, gpus=(), command=lambda job: [sys.executable, "-c", script])
        launcher.submit(job)
        assert self.drain(launcher) == {"job": -9}
        wait_for(lambda: claim.live_worker(job.run_dir) is None)


def _run_dirs(launcher: ProcessLauncher) -> list[RunDir]:
    return [running.job.run_dir for running in launcher._running.values()]


class TestInlineLauncher(LauncherConformance, ClaimConformance):
    @pytest.fixture
    def launcher(self) -> InlineLauncher:
        def execute(job: Job) -> int:
            # The worker takes the process's signal handler and standard output; a child keeps both apart.
            with open(job.run_dir.log, "ab") as log:
                return subprocess.run(fake_command(job), stdout=log).returncode

        return InlineLauncher(execute)


def _environment_of(tmp_path: Path, resources: ResourcesSpec, **kwargs: object) -> dict[str, str]:
    """The environment that a launched worker sees."""
    job = Job(RunDir(tmp_path / f"job{time.monotonic_ns()}"), resources=resources)
    write_json(job.run_dir.config, {})
    command = [
        sys.executable,
        "-c",
        "import os; print(*(f'{k}={v}' for k, v in os.environ.items()), sep='\\n')",
    ]
    launcher = ProcessLauncher(command=lambda job: command, **kwargs)  # type: ignore[arg-type]
    launcher.submit(job)
    wait_for(lambda: launcher.poll()[job.run_id].phase is Phase.ENDED)
    return dict(line.split("=", 1) for line in job.run_dir.log.read_text().splitlines() if "=" in line)


def test_threads_are_shared_among_the_slots(tmp_path: Path):
    shared = _environment_of(tmp_path, ResourcesSpec(), slots=2, cores=8, gpus=())
    assert (shared["OMP_NUM_THREADS"], shared["MKL_NUM_THREADS"]) == ("4", "4")
    assert (shared["OMP_WAIT_POLICY"], shared["TOKENIZERS_PARALLELISM"]) == ("PASSIVE", "false")
    assert _environment_of(tmp_path, ResourcesSpec(), slots=8, cores=2, gpus=())["OMP_NUM_THREADS"] == "1"
    own = _environment_of(tmp_path, ResourcesSpec(cpu_threads=3), slots=2, cores=8, gpus=())
    assert own["OMP_NUM_THREADS"] == "3"


def test_each_slot_gets_a_gpu_of_its_own(tmp_path: Path):
    launcher = ProcessLauncher(
        gpus=("0", "3"), command=lambda job: [sys.executable, "-c", "import time; time.sleep(30)"]
    )
    assert launcher.slots == 2
    jobs = [Job(RunDir(tmp_path / f"job{i}")) for i in range(3)]
    for job in jobs:
        write_json(job.run_dir.config, {})
        launcher.submit(job)
    launcher.poll()
    assert [claim.claimed_by(job.run_dir).get("gpus") for job in jobs] == [["0"], ["3"], None]
    launcher.cancel(jobs[0].run_id, kill=True)
    wait_for(lambda: launcher.poll()[jobs[2].run_id].phase is Phase.RUNNING)
    assert claim.claimed_by(jobs[2].run_dir)["gpus"] == ["0"]
    for job in jobs:
        launcher.cancel(job.run_id, kill=True)


def test_cuda_visible_devices_says_which_gpus_a_worker_sees(tmp_path: Path):
    assert _environment_of(tmp_path, ResourcesSpec(), gpus=("5", "6"))["CUDA_VISIBLE_DEVICES"] == "5"
    assert _environment_of(tmp_path, ResourcesSpec(device="cpu"), gpus=("5",))["CUDA_VISIBLE_DEVICES"] == ""
    launcher = ProcessLauncher(gpus=("0",))
    with pytest.raises(UsageError, match=r"wants 2 GPUs .* offers 1"):
        launcher.submit(Job(RunDir(tmp_path / "job"), resources=ResourcesSpec(gpus=2)))


def test_gpus_are_those_the_environment_names():
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1, GPU-ab"}) == ["1", "GPU-ab"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []


def test_the_worker_is_the_command_line_of_this_interpreter(tmp_path: Path):
    run_dir = RunDir(tmp_path / "a")
    assert worker_command(Job(run_dir)) == [
        sys.executable,
        "-m",
        "trb_lab.cli",
        "run",
        "--run-dir",
        str(run_dir.path),
    ]
    assert worker_command(Job(run_dir, "eval"))[3] == "eval"


def test_a_log_is_read_from_its_end(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    assert last_lines(run_dir.log, 3) == []
    run_dir.log.write_text("".join(f"line {i}\n" for i in range(5000)))
    assert last_lines(run_dir.log, 2) == ["line 4998", "line 4999"]
