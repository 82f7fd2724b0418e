"""The fake cluster as a test sees it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .world import ACTIVE, DEFAULTS, HERE, STRANGER, Element, World, alive, descendants, name_of

NAMES = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "srun")
SHIM = """#!{python} -IS
import sys
sys.path.insert(0, {here!r})
from {module} import main
sys.exit(main({arguments}))
"""


class FakeSlurm:
    """`with FakeSlurm(folder) as slurm:` and its `environment()`; at the end nothing of it is left alive."""

    def __init__(self, folder: str | Path, **script: Any) -> None:
        self.folder = Path(folder)
        for name in ("bin", "jobs", "control"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            own = name == "srun"
            arguments = "sys.argv[1:]" if own else f"{name!r}, sys.argv[1:]"
            text = SHIM.format(
                python=sys.executable,
                here=str(HERE),
                module="srun" if own else "commands",
                arguments=arguments,
            )
            path = self.folder / "bin" / name
            path.write_text(text)
            path.chmod(0o755)
        if not (self.folder / "script.json").exists() or script:
            self.script(**script)

    def __enter__(self) -> FakeSlurm:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def environment(self) -> dict[str, str]:
        """What makes processes use this cluster."""
        path = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])
        return {"FAKE_SLURM": str(self.folder), "PATH": path}

    def script(self, **faults: Any) -> None:
        """Change settings and faults (world.DEFAULTS lists them); what is not named stays as it is."""
        for key in faults:
            if key not in DEFAULTS:
                raise KeyError(f"{key}: not one of {', '.join(DEFAULTS)}")
        path = self.folder / "script.json"
        before = json.loads(path.read_text()) if path.exists() else {"version": 0}
        part = path.with_suffix(".part")
        part.write_text(json.dumps({**before, **faults, "version": before["version"] + 1}))
        os.replace(part, path)

    def heal(self) -> None:
        """Everything works again; sizes and limits stay."""
        keep = (
            "unreachable",
            "sbatch",
            "squeue",
            "sacct",
            "scontrol",
            "scancel",
            "sacct_lag",
            "states",
            "start",
        )
        self.script(**{key: DEFAULTS[key] for key in keep})

    # --- looking

    def jobs(self) -> dict[str, Element]:
        """Every element by name (`101`, `101_2`), after moving the world on."""
        with World(self.folder) as world:
            return json.loads(json.dumps(world.elements))

    def states(self) -> dict[str, str]:
        return {name: element["state"] for name, element in self.jobs().items()}

    def calls(self, command: str | None = None) -> list[list[str]]:
        """Arguments of every call so far."""
        path = self.folder / "calls.jsonl"
        calls = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call["args"] for call in calls if command in (None, call["command"])]

    def wait_for(self, condition: Callable[[dict[str, Element]], object], seconds: float = 30) -> None:
        """Until `condition(jobs())`."""
        until = time.monotonic() + seconds
        while not condition(self.jobs()):
            if time.monotonic() > until:
                raise TimeoutError(f"waited in vain: {self.states()}")
            time.sleep(0.02)

    def wait_idle(self, seconds: float = 30) -> None:
        """Until nothing is queued or runs."""
        self.wait_for(lambda jobs: all(e["state"] not in ACTIVE for e in jobs.values()), seconds)

    # --- what befalls a cluster

    def preempt(self, element: str, grace: float | None = None) -> None:
        """A job of higher priority needs the place.

        The steps get SIGCONT and SIGTERM; after `grace` everything does, and SIGKILL after KillWait; then back to
        the queue. To squeue the job runs until the grace is over.
        """
        with World(self.folder) as world:
            for e in world.find(element):
                if e["state"] != "RUNNING":
                    continue
                grace_time = world.script["grace_time"] if grace is None else grace
                requeue = bool(e["requeue"] and world.script["requeue"])
                if e["dry"] is not None:
                    world.take_away(e, "PREEMPTED", grace=0, requeue=requeue)
                    continue
                e["preempted"] = time.time()
                world.tell(e, do="preempt", grace=grace_time, requeue=requeue)

    def requeue(self, element: str) -> None:
        """What an administrator's `scontrol requeue` does."""
        with World(self.folder) as world:
            for e in world.find(element):
                world.take_away(e, "REQUEUED", grace=world.script["kill_wait"], requeue=True)

    def cancel(self, element: str) -> None:
        """What somebody's scancel does."""
        with World(self.folder) as world:
            for e in world.find(element):
                world.take_away(e, "CANCELLED", grace=world.script["kill_wait"])

    def time_limit(self, element: str) -> None:
        """The time is up, and no warning was asked for."""
        with World(self.folder) as world:
            for e in world.find(element):
                world.take_away(e, "TIMEOUT", grace=world.script["kill_wait"])

    def node_fail(self, element: str, *, zombie: bool = False) -> None:
        """The node is gone. With `zombie` its processes live on, and Slurm does not know."""
        with World(self.folder) as world:
            for e in world.find(element):
                if e["state"] not in ("RUNNING", "COMPLETING"):
                    continue
                if zombie:
                    world.tell(e, do="abandon")
                    world.ended(e, "NODE_FAIL", "0:0")
                else:
                    world.take_away(e, "NODE_FAIL", grace=0)

    def out_of_memory(self, element: str, *, one: bool = False) -> None:
        """The kernel kills the element's steps (`one`: only their youngest process) for want of memory."""
        with World(self.folder) as world:
            for e in world.find(element):
                world.tell(e, do="mark", end_as="OUT_OF_MEMORY", one=one)

    def forget(self, job: str, *, accounting: bool = True) -> None:
        """The controller (and the database) drop what they know of an ended job: its id is free again."""
        with World(self.folder) as world:
            for e in world.find(job):
                if e["state"] in ACTIVE:
                    raise ValueError(f"{job} has not ended")
                if accounting:
                    del world.elements[name_of(e)]
                else:
                    e["end"] = 0.0

    def stranger(self, job_id: int, state: str = "RUNNING", name: str = "theirs") -> None:
        """Another user's job under an id of our choice, whether or not the id was in use before."""
        now = time.time()
        element = {
            "array": job_id, "id": job_id, "task": None, "name": name, "user": STRANGER, "state": state,
            "reason": "None", "submitted": now, "eligible": now, "start": now, "end": None, "exit": "0:0",
            "node": "fake1", "restarts": 0, "requeue": True, "partition": "main", "account": "other",
            "qos": "normal", "comment": None, "minutes": 60, "nodes": 1, "ntasks": 1, "cpus": 0, "gpus": 0,
            "count": 1, "parallel": 0, "after": [], "held": False, "signal": None, "workdir": "/",
            "output": "/dev/null", "error": "/dev/null", "append": True, "args": [], "reaper": None,
            "dry": None, "end_as": None, "foreign": True,
        }  # fmt: skip
        with World(self.folder) as world:
            for e in world.find(str(job_id)):
                del world.elements[name_of(e)]
            world.elements[str(job_id)] = element

    def next_id(self, job_id: int) -> None:
        """The id that the next submission gets (Slurm starts again at FirstJobId some day)."""
        with World(self.folder) as world:
            world.state["next_id"] = job_id

    def finish_all(self, state: str = "COMPLETED") -> None:
        """End everything at once, without a word to its processes."""
        with World(self.folder) as world:
            self._kill(world)
            for e in world.elements.values():
                if e["state"] in ACTIVE:
                    world.ended(e, state, "0:0")

    def stop(self) -> None:
        """Kill every process that an element has left, zombies of lost nodes too; nothing starts any more."""
        self.script(start=False)
        with World(self.folder) as world:
            self._kill(world)

    def pids(self, element: str) -> set[int]:
        """Processes of an element that live now."""
        reaper = self.jobs()[element]["reaper"]
        return set(descendants(reaper)) if reaper else set()

    @staticmethod
    def _kill(world: World) -> None:
        for pid, since in world.state.get("reapers", ()):
            if not alive(pid, since):
                continue
            below = descendants(pid)  # before the reaper, which holds them together
            for process in (pid, *below):
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        world.state["reapers"] = []
