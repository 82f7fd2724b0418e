"""The supervisor inside a Slurm job: starts the workers of its element, passes signals on, and goes back into
the queue when the cluster takes its place away.

submitit carries it to the node. It stays small (no torch) and puts its own signal handlers in the place of
submitit's, which let SIGTERM pass without a word.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from trb_lab.store.locks import Lost
from trb_lab.store.run_dir import RunDir, newest_checkpoint, read_json

from .base import End
from .batches import ElementLog, Event, Piece
from .slurm_commands import SlurmError, job_state, outside_any_job, requeue

LOOK_SECONDS = 0.2
"""Between two looks at the workers."""
STOP_LOOK_SECONDS = 1.0
"""Between two looks for a wish to stop one of them."""
WHOLE_LIMIT_SECONDS = 60.0
"""A run that began so soon after its job had the whole time limit."""
STOPPED, FENCED = 130, Lost.exit_code
"""Exit codes of a worker: it saved and ended because it was asked to; another one has its trial."""


@dataclass(frozen=True)
class SlurmTask:
    """What is pickled: the pieces of one job element."""

    store: str
    token: str
    index: int
    pieces: list[Piece]
    parallel: int = 1
    """Pieces at once."""
    may_requeue: bool = True
    threads: int | None = None
    """CPU threads of one worker."""

    def __call__(self) -> None:
        code = Supervisor(self).run()
        if code:
            raise SystemExit(code)

    def checkpoint(self) -> Any:
        """Of submitit, for a signal that comes before our handlers are in place."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    __submitit_checkpoint__ = checkpoint


@dataclass
class _Child:
    piece: Piece
    process: subprocess.Popen[bytes]
    place: int
    """Which share of the job's GPUs it has."""
    asked: bool = False
    """To save and end."""
    cancelled: bool = False


@dataclass
class Supervisor:
    """Runs the pieces of an element. One of it lives in each task of the job."""

    task: SlurmTask
    signalled: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        env = os.environ
        self.rank, self.tasks = int(env.get("SLURM_PROCID", 0)), int(env.get("SLURM_NTASKS", 1))
        self.incarnation = int(env.get("SLURM_RESTART_COUNT", 0))
        self.element = _element(env)
        self.log = ElementLog(
            Path(self.task.store) / "slurm" / self.task.token / f"element_{self.task.index}.jsonl"
        )
        self.children: list[_Child] = []
        self.began = time.time()
        self.interrupted = False
        self.worst = 0
        self._next_look = 0.0

    def run(self) -> int:
        """Run what is left of the element. Returns the exit code: that of the first piece that failed, or 0."""
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            signal.signal(number, self._note)
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        waiting = deque(self._pieces())
        while waiting or self.children:
            while waiting and len(self.children) < self.task.parallel and not self.signalled:
                self._start(waiting.popleft())
            if self.signalled:
                self.interrupted = self.interrupted or bool(waiting)
                for piece in waiting:  # its turn comes in another job
                    self._note_event(piece, "interrupted", end=End.PREEMPTED)
                waiting.clear()
                for child in self.children:
                    self._ask(child)
            self._look_for_wishes()
            self.children = [child for child in self.children if not self._reap(child)]
            time.sleep(LOOK_SECONDS)
        if self.interrupted and self.rank == 0:
            self._go_back_into_the_queue()
        return self.worst

    def _pieces(self) -> list[Piece]:
        """What an earlier incarnation has not brought to its end."""
        over = {run for run, event in self.log.last().items() if event.event == "end"}
        return [piece for piece in self.task.pieces if piece.run not in over]

    @property
    def _shared(self) -> bool:
        """Whether the job has several tasks, which work on each piece together (torch.distributed)."""
        return self.tasks > 1

    def _start(self, piece: Piece) -> None:
        if self._is_unwanted(piece):
            self._end(piece, STOPPED)
            return
        self._note_event(
            piece, "start", checkpoint=newest_checkpoint(self._run_dir(piece)) if piece.run else None
        )
        log = Path(piece.log)
        log.parent.mkdir(parents=True, exist_ok=True)
        place = min(set(range(self.task.parallel)) - {child.place for child in self.children})
        with open(log, "ab") as out:
            process = subprocess.Popen(
                [sys.executable, *piece.argv] if piece.argv[0].startswith("-") else piece.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._environment(place),
                start_new_session=True,  # so that a killed worker's grading processes can be found
            )
        self.children.append(_Child(piece, process, place))

    def _environment(self, place: int) -> dict[str, str]:
        environment = dict(os.environ) if self._shared else outside_any_job()
        environment.update(
            TRB_LAB_JOB=f"{self.task.token}/{self.task.index}",
            TRB_LAB_INCARNATION=str(self.incarnation),
            PYTHONUNBUFFERED="1",
            TOKENIZERS_PARALLELISM="false",
        )
        if self.task.threads is not None:
            threads = str(self.task.threads)
            environment.update(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, OMP_WAIT_POLICY="PASSIVE")
        if self._shared:
            environment.update(_distributed())
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        if self.task.parallel > 1 and visible:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpu_share(visible, place, self.task.parallel))
        return environment

    def _ask(self, child: _Child) -> None:
        """Ask a worker to save and end, once: Slurm signals it too, and often twice."""
        if not child.asked:
            child.asked = True
            # Not Popen.terminate, which reaps a worker that has just ended: `_reap` must find it.
            os.kill(child.process.pid, signal.SIGTERM)

    def _look_for_wishes(self) -> None:
        """Somebody may want one run to end: the wish is a file, so that no command has to reach this node."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + STOP_LOOK_SECONDS
        for child in self.children:
            if not self._is_unwanted(child.piece):
                continue
            child.cancelled = True
            self._ask(child)
            if (read_json(self._run_dir(child.piece).stop_request) or {}).get("what") == "kill":
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.process.pid, signal.SIGKILL)

    def _reap(self, child: _Child) -> bool:
        """Whether the worker has ended; what came of it is noted then."""
        process = child.process
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return False
        # Not reaped yet, so the group's number is still its own: end what a killed worker left behind.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        # SIGTERM ends a worker that has not set up its handler yet.
        stopped = code in (STOPPED, 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGUSR2)
        if stopped and not (child.cancelled or self._is_unwanted(child.piece)):
            self._interrupt(child.piece, code)
        else:
            self._end(child.piece, code)
        return True

    def _interrupt(self, piece: Piece, code: int) -> None:
        """It saved, and has more to do. One that a whole time limit did not bring to a checkpoint never will."""
        end = End.TIME_LIMIT if signal.SIGUSR2 in self.signalled else End.PREEMPTED
        newest = newest_checkpoint(self._run_dir(piece)) if piece.run is not None else None
        before = self.log.last().get(piece.run or "")
        hopeless = (
            end is End.TIME_LIMIT
            and self.incarnation > 0
            and before is not None
            and before.checkpoint == newest
            and before.time - self.began < WHOLE_LIMIT_SECONDS
        )
        self.interrupted = self.interrupted or not hopeless
        self._note_event(piece, "interrupted", code, end, newest)

    def _end(self, piece: Piece, code: int) -> None:
        if code not in (0, STOPPED, FENCED):
            self.worst = self.worst or (code if code > 0 else 128 - code)
        self._note_event(piece, "end", code)

    def _note_event(
        self,
        piece: Piece,
        event: str,
        code: int | None = None,
        end: End | None = None,
        checkpoint: str | None = None,
    ) -> None:
        if piece.run is None or (self._shared and self.rank > 0):
            return
        node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        note = Event(event, piece.run, time.time(), self.incarnation, node, code, end, checkpoint)
        try:
            self.log.append(note)
        except OSError as error:  # a full disk must not end the other workers of this job
            print(f"Not noted ({error}): {note}", file=sys.stderr, flush=True)

    def _go_back_into_the_queue(self) -> None:
        """The place is needed for somebody else, or the time is up: the rest is for the next incarnation."""
        if not self.task.may_requeue:
            print("Saved. The profile forbids a requeue: the driver starts it again.", flush=True)
            return
        try:
            # Still running means: preempted with a grace time, or near its time limit. Else Slurm is ending the
            # job already, and knows itself whether it is to come back (requeued) or not (cancelled).
            if job_state(self.element) != "RUNNING":
                print("Saved. Slurm ends this job.", flush=True)
                return
            requeue(self.element)
            print(f"Saved; {self.element} goes back into the queue.", flush=True)
        except SlurmError as error:
            print(
                f"Saved. No requeue from here ({error}): the driver starts it again.",
                file=sys.stderr,
                flush=True,
            )

    def _is_unwanted(self, piece: Piece) -> bool:
        try:
            return piece.run is not None and self._run_dir(piece).stop_request.exists()
        except OSError:  # the file system is away for a moment
            return False

    def _run_dir(self, piece: Piece) -> RunDir:
        return RunDir(Path(self.task.store) / str(piece.run))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signalled.append(number)


def gpu_share(gpus: list[str], place: int, places: int) -> list[str]:
    """The GPUs of one of several trials in a job: an even share, or one of fewer that they take turns on."""
    share = max(1, len(gpus) // places)
    first = place * share % len(gpus)
    return gpus[first : first + share]


def _element(env: Any) -> str:
    if "SLURM_ARRAY_JOB_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return str(env.get("SLURM_JOB_ID", ""))


def _distributed() -> dict[str, str]:
    """RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, LOCAL_RANK, LOCAL_WORLD_SIZE for torch.distributed."""
    from submitit.helpers import TorchDistributedEnvironment

    found = TorchDistributedEnvironment()
    return {
        "MASTER_ADDR": found.master_addr,
        "MASTER_PORT": str(found.master_port),
        "RANK": str(found.rank),
        "WORLD_SIZE": str(found.world_size),
        "LOCAL_RANK": str(found.local_rank),
        "LOCAL_WORLD_SIZE": str(found.local_world_size),
    }
