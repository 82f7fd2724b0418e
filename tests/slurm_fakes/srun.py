"""The fake srun: starts the step's tasks, each in a session of its own, and waits for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import FrameType

from commands import Options
from world import Element, World, pattern

SRUN = (
    "unbuffered u o|output= e|error= i|input= n|ntasks= N|nodes= ntasks-per-node= c|cpus-per-task= K|kill-on-bad-exit "
    "cpu-bind= gpu-bind= mpi= exclusive overlap export= J|job-name= l|label mem= gres= gpus= time= wait= W="
)


def main(arguments: list[str]) -> int:
    options = Options("srun", arguments, SRUN)
    environment = dict(os.environ)
    name = environment.get("SLURM_ARRAY_JOB_ID") or environment["SLURM_JOB_ID"]
    if "SLURM_ARRAY_TASK_ID" in environment:
        name += f"_{environment['SLURM_ARRAY_TASK_ID']}"
    with World(environment["FAKE_SLURM"]) as world:
        element: Element = dict(world.elements[name])
    tasks = int(options.get("ntasks") or environment["SLURM_NTASKS"])
    nodes = int(environment["SLURM_JOB_NUM_NODES"])
    per_node = max(1, tasks // nodes)
    started: list[subprocess.Popen[bytes]] = []

    def forward(number: int, frame: FrameType | None) -> None:
        for process in started:
            if process.poll() is None:
                process.send_signal(number)

    # A real srun passes signals on, so a task meets one twice: from the daemon and from here.
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, forward)
    for task in range(tasks):
        opened = {
            key: open(pattern(options.get(key), element, task), "ab") if key in options else None  # noqa: SIM115
            for key in ("output", "error")
        }
        started.append(
            subprocess.Popen(
                options.rest,
                stdin=subprocess.DEVNULL,
                stdout=opened["output"],
                stderr=opened["error"] or (subprocess.STDOUT if opened["output"] else None),
                start_new_session=True,
                env={
                    **environment,
                    "SLURM_STEP_ID": "0",
                    "SLURM_STEPID": "0",
                    "SLURM_PROCID": str(task),
                    "SLURM_LOCALID": str(task % per_node),
                    "SLURM_NODEID": str(task // per_node),
                    "SLURMD_NODENAME": f"fake{task // per_node + 1}",
                },
            )
        )
        for file in opened.values():
            if file is not None:
                file.close()
    codes = [process.wait() for process in started]
    for task, code in enumerate(codes):
        if code < 0:
            print(f"srun: error: fake1: task {task}: {signal.strsignal(-code)}", file=sys.stderr)
        elif code:
            print(f"srun: error: fake1: task {task}: Exited with exit code {code}", file=sys.stderr)
    return max(code if code >= 0 else 128 - code for code in codes)
