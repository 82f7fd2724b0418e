"""Worker processes that decide whether answers equal their golds.

Each worker checks one pair at a time, so one that hangs or dies costs that pair and no other. Workers are
plain subprocesses running `grading_worker.py`: they inherit neither this process's memory nor its `__main__`.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from trb_lab.errors import LabError

from .verdict_cache import Pair

Outcome = Literal["correct", "wrong", "timeout", "error"]

START_SECONDS = 120.0
"""A worker has this long to import its verifier (slow network disks)."""
WALL_FACTOR = 4.0
"""A pair may take this many times its CPU limit by the clock, for workers that hang without computing."""
# The order of sets decides what sympy tries first, so it must not differ between runs.
WORKER_ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"}


class _Worker:
    """One process and the pair it works on."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | WORKER_ENVIRONMENT,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.ready = False
        self.pair: Pair | None = None
        self.deadline = float("inf")
        self._unread = b""

    def send(self, pair: Pair, wall_seconds: float) -> None:
        """Start on a pair. Raises OSError when the process is gone."""
        message = memoryview(json.dumps({"gold": pair[0], "answer": pair[1]}).encode() + b"\n")
        while message:  # a signal may cut the write of a message that is longer than the pipe
            message = message[self.stdin.write(message) :]
        self.pair = pair
        self.deadline = time.monotonic() + (wall_seconds if self.ready else START_SECONDS)

    def receive(self) -> list[dict] | None:
        """Complete messages that have arrived; None when the process has closed its output."""
        data = os.read(self.stdout.fileno(), 1 << 16)
        if not data:
            return None
        *lines, self._unread = (self._unread + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self) -> int:
        """Kill the process if it lives; its return code."""
        self.process.kill()
        code = self.process.wait()
        self.stdin.close()
        self.stdout.close()
        return code


class VerifierPool:
    """Up to `num_workers` processes, started as pairs need them and replaced when they hang or die.

    Args:
        num_workers: processes at most.
        timeout_seconds: CPU seconds for one pair.
        verifier: `FILE.py:NAME` or `MODULE:NAME` of another verifier than math-verify's; see `graders.py`.
    """

    def __init__(self, num_workers: int, timeout_seconds: float, verifier: str | None = None) -> None:
        self.num_workers = max(1, num_workers)
        self.wall_seconds = WALL_FACTOR * timeout_seconds
        # -P: the folder of the script holds modules whose names must not shadow others.
        script = Path(__file__).with_name("grading_worker.py").absolute()
        self._command = [sys.executable, "-P", str(script), str(timeout_seconds)]
        self._verifier = verifier
        if verifier is not None:
            self._command.append(verifier)
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run now."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """End the workers. Verifying again starts new ones."""
        for worker in list(self._workers):
            self._drop(worker)

    def verify(self, pairs: Sequence[Pair]) -> dict[Pair, Outcome]:
        """Outcome of each pair. Raises LabError when workers do not start."""
        waiting = deque(pairs)
        outcomes: dict[Pair, Outcome] = {}
        try:
            while len(outcomes) < len(pairs):
                self._hand_out(waiting)
                nearest = min(worker.deadline for worker in self._workers)
                for key, _ in self._selector.select(max(0.0, nearest - time.monotonic())):
                    self._collect(key.data, outcomes)
                self._expire(outcomes)
        except BaseException:  # after an interrupt, replies on their way would go to the wrong pairs
            self.close()
            raise
        return outcomes

    def _hand_out(self, waiting: deque[Pair]) -> None:
        """Give each idle worker a pair, starting workers up to the limit."""
        while waiting:
            worker = next((w for w in self._workers if w.pair is None), None)
            if worker is None:
                if len(self._workers) >= self.num_workers:
                    return
                worker = _Worker(self._command)
                self._workers.append(worker)
                self._selector.register(worker.stdout, selectors.EVENT_READ, worker)
            try:
                worker.send(waiting[0], self.wall_seconds)
            except OSError:
                if not worker.ready:
                    raise self._start_failure("it ended at once") from None
                self._drop(worker)  # it died while idle: nothing is lost
            else:
                waiting.popleft()

    def _collect(self, worker: _Worker, outcomes: dict[Pair, Outcome]) -> None:
        """Take what a worker has said, or its death."""
        messages = worker.receive()
        if messages is None:
            code = self._drop(worker)
            if not worker.ready:
                raise self._start_failure(f"exit code {code}")
            if worker.pair is not None:
                outcomes[worker.pair] = "timeout" if code == -signal.SIGPROF else "error"
            return
        for message in messages:
            if "fatal" in message:
                raise self._start_failure(message["fatal"])
            if "ready" in message:
                worker.ready = True
                worker.deadline = time.monotonic() + self.wall_seconds
                continue
            assert worker.pair is not None
            outcomes[worker.pair] = message["outcome"]
            worker.pair, worker.deadline = None, float("inf")

    def _expire(self, outcomes: dict[Pair, Outcome]) -> None:
        """Give up on workers that are past their deadline."""
        for worker in [w for w in self._workers if w.pair and w.deadline <= time.monotonic()]:
            self._drop(worker)
            if not worker.ready:
                raise self._start_failure(f"not ready after {START_SECONDS:.0f} seconds")
            assert worker.pair is not None
            outcomes[worker.pair] = "timeout"

    def _drop(self, worker: _Worker) -> int:
        self._workers.remove(worker)
        self._selector.unregister(worker.stdout)
        return worker.end()

    def _start_failure(self, why: str) -> LabError:
        module = "math_verify"
        if self._verifier is not None:
            module = self._verifier.rpartition(":")[0]
        advice = f"Check that {module} can be imported there."
        if not module.endswith(".py"):
            advice = f"Check that {module} can be imported there: python -c 'import {module}'."
        return LabError(
            f"a grading worker did not start ({why.strip()}). It runs: {' '.join(self._command)}. {advice}"
        )
