"""Workers on this machine: in processes of their own, or (`InlineLauncher`) in this one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trb_lab.errors import UsageError

from . import claim
from .base import Job, JobStatus, Phase, last_lines


def worker_command(job: Job) -> list[str]:
    """The command line of a worker, with the interpreter that runs the driver."""
    return [sys.executable, "-m", "trb_lab.cli", job.verb, "--run-dir", str(job.run_dir.path)]


def visible_gpus(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Names of the GPUs for workers: CUDA_VISIBLE_DEVICES, else what nvidia-smi lists. Asks no torch."""
    given = environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    count = sum(line.startswith("GPU ") for line in listing.stdout.splitlines())
    return [str(index) for index in range(count)]


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass
class _Running:
    job: Job
    gpus: tuple[str, ...]
    process: subprocess.Popen[bytes] | None
    """None for a worker that this launcher did not start."""


class ProcessLauncher:
    """Worker processes on this machine, `slots` at once.

    Each worker leads a session of its own, so it outlives its driver and no Ctrl-C reaches it; it appends to
    log.txt, gets its share of the cores, and GPUs where there are any (the least used ones).
    """

    name = "local"
    poll_seconds = 1.0
    outlives_driver = False
    settled: frozenset[str] = frozenset()

    def __init__(
        self,
        slots: int | None = None,
        gpus: Sequence[str] | None = None,
        cores: int | None = None,
        command: Callable[[Job], list[str]] = worker_command,
    ) -> None:
        """`slots` None takes one a GPU, or one a core where there are no GPUs; `gpus` None looks for them."""
        self.gpus = tuple(visible_gpus() if gpus is None else gpus)
        self.cores = cores or available_cores()
        self.slots = slots or len(self.gpus) or self.cores
        self._command = command
        self._waiting: dict[str, Job] = {}
        self._running: dict[str, _Running] = {}
        self._ended: dict[str, JobStatus] = {}
        self._jobs: dict[str, Job] = {}

    def submit(self, job: Job) -> None:
        self._accept(job)
        if self.gpus and _wants_gpu(job) and job.resources.local_gpus > len(self.gpus):
            raise UsageError(
                f"{job.run_id} wants {job.resources.local_gpus} GPUs (resources.gpus) and this machine offers "
                f"{len(self.gpus)}. Lower resources.gpus, or run it where there are more."
            )
        self._waiting[job.run_id] = job

    def attach(self, job: Job) -> None:
        self._accept(job)
        gpus = tuple(claim.claimed_by(job.run_dir).get("gpus", ()))
        self._running[job.run_id] = _Running(job, gpus, None)

    def poll(self) -> Mapping[str, JobStatus]:
        for run_id, running in list(self._running.items()):
            ended = self._reap(running)
            if ended is not None:
                del self._running[run_id]
                self._ended[run_id] = ended
        for run_id, job in list(self._waiting.items()):
            if len(self._running) >= self.slots:
                break
            del self._waiting[run_id]
            self._start(job)
        return {
            **self._ended,
            **{run_id: JobStatus(Phase.WAITING) for run_id in self._waiting},
            **{run_id: JobStatus(Phase.RUNNING) for run_id in self._running},
        }

    def cancel(self, run_id: str, *, kill: bool = False) -> None:
        if self._waiting.pop(run_id, None) is not None:
            self._ended[run_id] = JobStatus(Phase.ENDED)
        elif (running := self._running.get(run_id)) is not None:
            number = signal.SIGKILL if kill else signal.SIGTERM
            if running.process is None:
                claim.send_signal(running.job.run_dir, number)
            elif kill:
                os.killpg(running.process.pid, number)
            else:
                running.process.send_signal(number)

    def logs(self, run_id: str, lines: int = 50) -> list[str]:
        return last_lines(self._jobs[run_id].run_dir.log, lines)

    def close(self) -> None:
        """Nothing is held beyond the workers, which go on."""

    def _accept(self, job: Job) -> None:
        if job.run_id in self._waiting or job.run_id in self._running:
            raise ValueError(f"{job.run_id} is already submitted")
        self._ended.pop(job.run_id, None)
        self._jobs[job.run_id] = job

    def _start(self, job: Job) -> None:
        job.prepare()
        gpus = self._assign(job)
        descriptor = claim.take(job.run_dir, self.name, gpus)
        if descriptor is None:  # another driver was faster: follow its worker
            self.attach(job)
            return
        try:
            with open(job.run_dir.log, "ab") as log:
                process = subprocess.Popen(
                    self._command(job),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment(job, gpus),
                    start_new_session=True,
                    pass_fds=(descriptor,),
                )
            claim.write(descriptor, self.name, process.pid, gpus)
        finally:
            os.close(descriptor)
        self._running[job.run_id] = _Running(job, gpus, process)

    def _reap(self, running: _Running) -> JobStatus | None:
        """The status of a worker that has ended; None while it lives."""
        process = running.process
        if process is None:
            return None if claim.live_worker(running.job.run_dir) else JobStatus(Phase.ENDED)
        if process.returncode is None:
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            # The dead worker is not reaped yet, so its group's number cannot belong to anybody else: end
            # children that it left (a killed worker cannot do so itself) and that may hold its locks.
            os.killpg(process.pid, signal.SIGKILL)
        return JobStatus(Phase.ENDED, process.wait())

    def _assign(self, job: Job) -> tuple[str, ...]:
        if not self.gpus or not _wants_gpu(job):
            return ()
        used = [name for running in self._running.values() for name in running.gpus]
        by_load = sorted(self.gpus, key=lambda name: (used.count(name), self.gpus.index(name)))
        return tuple(by_load[: job.resources.local_gpus])

    def _environment(self, job: Job, gpus: tuple[str, ...]) -> dict[str, str]:
        threads = job.resources.cpu_threads or max(1, self.cores // self.slots)
        environment = dict(os.environ)
        environment.update(
            OMP_NUM_THREADS=str(threads),
            MKL_NUM_THREADS=str(threads),
            OMP_WAIT_POLICY="PASSIVE",  # spinning threads would take the cores of the other slots
            TOKENIZERS_PARALLELISM="false",
            PYTHONUNBUFFERED="1",
        )
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
            environment.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # nvidia-smi's numbering
        return environment


def _wants_gpu(job: Job) -> bool:
    return job.resources.device != "cpu" and job.resources.local_gpus > 0


class InlineLauncher:
    """Runs each job in this process, one a poll: for debuggers, and where processes cannot be started."""

    name = "inline"
    slots = 1
    poll_seconds = 1.0
    outlives_driver = False
    settled: frozenset[str] = frozenset()

    def __init__(self, execute: Callable[[Job], int]) -> None:
        """`execute` does a worker's work and returns its exit code."""
        self._execute = execute
        self._waiting: dict[str, Job] = {}
        self._attached: dict[str, Job] = {}
        self._ended: dict[str, JobStatus] = {}
        self._jobs: dict[str, Job] = {}

    def submit(self, job: Job) -> None:
        self._accept(job)
        self._waiting[job.run_id] = job

    def attach(self, job: Job) -> None:
        self._accept(job)
        self._attached[job.run_id] = job

    def poll(self) -> Mapping[str, JobStatus]:
        for run_id, job in list(self._attached.items()):
            if claim.live_worker(job.run_dir) is None:
                del self._attached[run_id]
                self._ended[run_id] = JobStatus(Phase.ENDED)
        if self._waiting and not self._attached:
            run_id = next(iter(self._waiting))
            self._run(self._waiting.pop(run_id))
        return {
            **self._ended,
            **{run_id: JobStatus(Phase.WAITING) for run_id in self._waiting},
            **{run_id: JobStatus(Phase.RUNNING) for run_id in self._attached},
        }

    def cancel(self, run_id: str, *, kill: bool = False) -> None:
        if self._waiting.pop(run_id, None) is not None:
            self._ended[run_id] = JobStatus(Phase.ENDED)
        elif (job := self._attached.get(run_id)) is not None:
            claim.send_signal(job.run_dir, signal.SIGKILL if kill else signal.SIGTERM)

    def logs(self, run_id: str, lines: int = 50) -> list[str]:
        return last_lines(self._jobs[run_id].run_dir.log, lines)

    def close(self) -> None:
        """Nothing is held beyond the workers, which go on."""

    def _accept(self, job: Job) -> None:
        if job.run_id in self._waiting or job.run_id in self._attached:
            raise ValueError(f"{job.run_id} is already submitted")
        self._ended.pop(job.run_id, None)
        self._jobs[job.run_id] = job

    def _run(self, job: Job) -> None:
        job.prepare()
        descriptor = claim.take(job.run_dir, self.name)
        if descriptor is None:
            self._attached[job.run_id] = job
            return
        try:
            self._ended[job.run_id] = JobStatus(Phase.ENDED, self._execute(job))
        finally:
            os.close(descriptor)
