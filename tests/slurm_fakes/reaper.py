"""Runs one element's batch script, as a compute node would: signals, time limit, kill deadlines, exit code.

It adopts orphans (child subreaper), so no process of the element escapes it. Steps (what srun starts) run in
sessions of their own, so they are told from the batch script by the session id. Messages come through a file
and SIGUSR1 (World.tell).
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # Leave the command that started us at once: it waits for this line.
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        os._exit(0)
    os.setsid()
    # Whoever called a command may read its output to the end: hold none of it open.
    log = os.open(os.path.join(sys.argv[1], "reapers.log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import ctypes
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from world import Element, World, descendants, pattern

PR_SET_CHILD_SUBREAPER = 36
WATCHED = {signal.SIGUSR1, signal.SIGCHLD}


class Reaper:
    def __init__(self, folder: str, name: str) -> None:
        self.folder, self.name = Path(folder), name
        with World(folder) as world:
            self.element: Element = dict(world.elements[name])
            self.script = world.script
            self.control = world.control(self.element)
        self.read = 0
        self.kill_at: float | None = None
        self.end_as: str | None = None
        self.requeue = False
        self.grace_at: float | None = None
        self.abandoned = False
        minute = self.script["minute"]
        limit = self.element["minutes"]
        self.limit_at = time.time() + limit * minute if limit else None
        self.warn_at: float | None = None
        self.warning = self.element["signal"]
        if self.warning and self.limit_at:
            self.warn_at = self.limit_at - self.warning["seconds"] * minute / 60

    def run(self) -> None:
        self.batch = self.start()
        while True:
            self.messages()
            self.deadlines()
            code = self.collect()
            if code is not None and (self.kill_at is None or not self.tree()):
                break
            signal.sigtimedwait(WATCHED, self.pause())
        self.signal(signal.SIGKILL)  # whatever the script left behind
        while self.tree():
            self.collect()
            time.sleep(0.005)
        self.report(code)

    def start(self) -> subprocess.Popen[bytes]:
        files = self.folder / "jobs" / str(self.element["array"])
        environment = {**json.loads((files / "env.json").read_text()), **self.environment()}
        mode = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if self.element["append"] else os.O_TRUNC)
        out, err = (pattern(self.element[k], self.element) for k in ("output", "error"))
        opened = {
            path: os.open(os.path.join(self.element["workdir"], path), mode, 0o644) for path in {out, err}
        }
        batch = subprocess.Popen(
            ["/bin/bash", str(files / "script"), *self.element["args"]],
            stdin=subprocess.DEVNULL,
            stdout=opened[out],
            stderr=opened[err],
            cwd=self.element["workdir"],
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED),
        )
        for descriptor in opened.values():
            os.close(descriptor)
        return batch

    def environment(self) -> dict[str, str]:
        e = self.element
        tasks = e["ntasks"]
        found = {
            "SLURM_JOB_ID": e["id"],
            "SLURM_JOBID": e["id"],
            "SLURM_JOB_NAME": e["name"],
            "SLURM_JOB_PARTITION": e["partition"],
            "SLURM_JOB_USER": e["user"],
            "SLURM_JOB_NODELIST": e["node"],
            "SLURM_NODELIST": e["node"],
            "SLURM_JOB_NUM_NODES": e["nodes"],
            "SLURM_NNODES": e["nodes"],
            "SLURM_NTASKS": tasks,
            "SLURM_NPROCS": tasks,
            "SLURM_NTASKS_PER_NODE": max(1, tasks // e["nodes"]),
            "SLURM_CPUS_PER_TASK": e["cpus"] // tasks,
            "SLURM_PROCID": 0,
            "SLURM_LOCALID": 0,
            "SLURM_NODEID": 0,
            "SLURM_SUBMIT_DIR": e["workdir"],
            "SLURMD_NODENAME": "fake1",
            "SLURM_CLUSTER_NAME": "fake",
        }
        if e["task"] is not None:
            found |= {"SLURM_ARRAY_JOB_ID": e["array"], "SLURM_ARRAY_TASK_ID": e["task"]}
            found |= {"SLURM_ARRAY_TASK_COUNT": e["count"]}
        if e["restarts"]:
            found["SLURM_RESTART_COUNT"] = e["restarts"]
        return {key: str(value) for key, value in found.items()}

    def messages(self) -> None:
        try:
            lines = self.control.read_text().splitlines()
        except FileNotFoundError:
            return
        for line in lines[self.read :]:
            self.obey(json.loads(line))
        self.read = len(lines)

    def obey(self, message: dict[str, Any]) -> None:
        if message["do"] == "signal":
            self.signal(message["number"], message["to"])
        elif message["do"] == "mark":  # the kernel killed for want of memory
            self.end_as = message["end_as"]
            tree = self.tree("steps") or self.tree()
            for pid in sorted(tree)[-1:] if message["one"] else tree:
                os.kill(pid, signal.SIGKILL)
        elif message["do"] == "abandon":  # the node is lost to Slurm, its processes go on
            self.abandoned = True
            self.limit_at = self.warn_at = None
        elif message["do"] == "preempt":
            # The steps alone hear of it at first; the script lives on until the grace is over.
            self.requeue_after = message["requeue"]
            self.grace_at = time.time() + message["grace"]
            if message["grace"] > 0:
                self.signal(signal.SIGCONT, "steps")
                self.signal(signal.SIGTERM, "steps")
        elif message["do"] == "end":
            self.end(message["end_as"], message["grace"], message["requeue"])

    def end(self, end_as: str, grace: float, requeue: bool) -> None:
        self.end_as, self.requeue = end_as, requeue
        self.grace_at = None
        self.kill_at = min(self.kill_at or float("inf"), time.time() + grace)
        if end_as != "NODE_FAIL":
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)

    def deadlines(self) -> None:
        now = time.time()
        if self.warn_at is not None and now >= self.warn_at:
            self.warn_at = None
            self.signal(self.warning["number"], "batch" if self.warning["batch"] else "steps")
        if self.kill_at is None and self.limit_at is not None and now >= self.limit_at:
            self.completing("TIMEOUT", False)
        elif self.kill_at is None and self.grace_at is not None and now >= self.grace_at:
            self.completing("PREEMPTED", self.requeue_after)
        if self.kill_at is not None and now >= self.kill_at:
            self.signal(signal.SIGKILL)

    def completing(self, end_as: str, requeue: bool) -> None:
        with World(self.folder) as world:
            element = world.elements.get(self.name)
            if element is not None and element["reaper"] == os.getpid():
                world.completing(element, end_as, requeue)
        self.end(end_as, self.script["kill_wait"], requeue)

    def pause(self) -> float:
        marks = [m for m in (self.warn_at, self.limit_at, self.grace_at, self.kill_at) if m is not None]
        now = time.time()
        pending = min(marks) - now if marks else 1.0
        ending = 0.02 if self.batch.returncode is not None else 1.0  # the last orphans are waited for
        return max(0.005, min(pending, ending, 1.0))

    def collect(self) -> int | None:
        """Reap; the batch script's return code once it has ended."""
        code = self.batch.poll()
        while code is not None:  # orphans too, but never the script itself behind Popen's back
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break
        return code

    def tree(self, part: str = "all") -> set[int]:
        found = descendants(os.getpid())
        batch = {pid for pid, session in found.items() if session == self.batch.pid}
        return {"all": set(found), "batch": batch, "steps": set(found) - batch}[part]

    def signal(self, number: int, to: str = "all") -> None:
        for pid in self.tree(to):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def report(self, code: int) -> None:
        if self.abandoned:
            return
        exit = f"{code}:0" if code >= 0 else f"0:{-code}"
        state = self.end_as or ("COMPLETED" if code == 0 else "FAILED")
        if state == "OUT_OF_MEMORY":
            exit = "0:125"
        with World(self.folder) as world:
            element = world.elements.get(self.name)
            if element is not None and element["reaper"] == os.getpid():
                world.ended(element, state, exit, self.requeue)
                world.advance()
        if element is not None and element["state"] == "PENDING":
            time.sleep(self.script["requeue_delay"] + 0.01)
            with World(self.folder):
                pass  # it starts again although nobody asks


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    Reaper(sys.argv[1], sys.argv[2]).run()
