"""State of the fake cluster: which jobs there are, which may start, and what became of them.

One JSON file under a lock, and the standard library alone: every fake command and every reaper loads this
module, so it has to start in a few hundredths of a second. Nothing runs between calls but the reapers (one a
started element, see reaper.py); whoever calls moves the world on first.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ACTIVE = ("PENDING", "RUNNING", "COMPLETING")
STRANGER = "mallory"

DEFAULTS: dict[str, Any] = {
    "cpus": 4,  # of each node
    "gpus": 8,  # of each node
    "nodes": 1,
    "partitions": {"main": "2-00:00:00", "low": "2-00:00:00", "high": "2-00:00:00"},  # first is the default
    "accounts": None,  # names; None takes any
    "qos": None,
    "max_array_size": 1001,
    "max_job_count": 10_000,
    "max_submit": None,  # elements of this user in the queue at once
    "requeue": True,  # JobRequeue
    "accounting": True,
    "grace_time": 0.0,  # GraceTime of every partition, seconds
    "kill_wait": 2.0,  # KillWait, seconds
    "requeue_delay": 0.2,  # seconds before a requeued element may start again
    "minute": 60.0,  # seconds that a minute of --time and of --signal lasts
    "min_job_age": 300.0,  # seconds for which the controller knows ended jobs
    "start": True,  # False: nothing leaves the queue
    "reason": None,  # what pending elements are said to wait for
    "unreachable": False,  # every command fails
    "sbatch": None,  # faults, one for every call or a list consumed call by call: see commands.py
    "squeue": None,
    "sacct": None,
    "scontrol": None,
    "scancel": None,
    "sacct_lag": 0,  # calls by which sacct is behind
    "states": {},  # element -> state that squeue and sacct name, "*" for all live ones
    "dry": None,  # {"advances": 3}: elements run no process, see dry.py
}
Element = dict[str, Any]


def name_of(element: Element) -> str:
    """`101_2`, or `101` of a job that is no array."""
    task = element["task"]
    return str(element["array"]) if task is None else f"{element['array']}_{task}"


class World:
    """`with World(folder) as world:` holds the lock, moves the world on, and saves what changed."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.script = dict(DEFAULTS)
        self._met: dict[str, Any] = {}

    def __enter__(self) -> World:
        self._lock = open(self.folder / "lock", "a")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            script = self.folder / "script.json"
            self.script = {**DEFAULTS, **(json.loads(script.read_text()) if script.exists() else {})}
            state = self.folder / "state.json"
            self._text = state.read_text() if state.exists() else ""
            fresh = {"next_id": 101, "elements": {}, "used": {}, "sacct_views": []}
            self.state: dict[str, Any] = json.loads(self._text) if self._text else fresh
            self.advance()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        text = json.dumps(self.state)
        if text != self._text:
            part = self.folder / "state.json.part"
            part.write_text(text)
            os.replace(part, self.folder / "state.json")
        self._lock.close()

    @property
    def elements(self) -> dict[str, Element]:
        """By name, in the order of submission."""
        return self.state["elements"]

    def fault(self, command: str) -> Any:
        """The fault that this call of a command meets, or None."""
        given = self.script.get(command)
        if not isinstance(given, list):
            return given
        if command in self._met:
            return self._met[command]
        mark = f"{command}@{self.script.get('version', 0)}"  # a new script counts from its start
        index = self.state["used"].get(mark, 0)
        self.state["used"][mark] = index + 1
        self._met[command] = given[index] if index < len(given) else None
        return self._met[command]

    def new_id(self) -> int:
        job_id = self.state["next_id"]
        self.state["next_id"] = job_id + 1
        return job_id

    def queued(self) -> int:
        """Elements of this user that count against submit limits."""
        return sum(e["state"] in ACTIVE for e in self.elements.values() if e["user"] != STRANGER)

    def find(self, wanted: str) -> list[Element]:
        """Elements that a name means: `101` all of an array (or a raw id), `101_2`, `101_[1-3,7]`."""
        base, _, rest = wanted.partition("_")
        mine = [e for e in self.elements.values() if str(e["array"]) == base]
        if rest:
            indices = expand(rest.strip("[]").split("%")[0])
            return [e for e in mine if e["task"] in indices]
        return mine or [e for e in self.elements.values() if str(e["id"]) == base]

    # --- moving on

    def advance(self) -> None:
        """Notice deaths that no reaper told of, let dry elements go on, start what there is room for."""
        for element in self.elements.values():
            if element["state"] in ("RUNNING", "COMPLETING") and not element.get("foreign"):
                if element.get("dry") is not None:
                    self._advance_dry(element)
                elif element.get("reaper") and not alive(element["reaper"], element["reaper_began"]):
                    self.ended(element, element.get("end_as") or "NODE_FAIL", "0:0")
        if self.script["start"]:
            self._start_pending()

    def _start_pending(self) -> None:
        waiting = [e for e in self.elements.values() if e["state"] == "PENDING" and not e.get("foreign")]
        if not waiting:
            return
        running = [e for e in self.elements.values() if e["state"] in ("RUNNING", "COMPLETING")]
        at_once: dict[int, int] = {}
        for e in running:
            at_once[e["array"]] = at_once.get(e["array"], 0) + 1
        free = {k: self.script["nodes"] * self.script[k] for k in ("cpus", "gpus")}
        for key in free:
            free[key] -= sum(e[key] for e in running if not e.get("foreign"))
        now = time.time()
        for e in waiting:
            unmet = [d for d in e["after"] if any(o["state"] in ACTIVE for o in self.find(d))]
            reason = None
            if e.get("held"):
                reason = "JobHeldUser"
            elif unmet:
                reason = "Dependency"
            elif e["eligible"] > now:
                reason = "BeginTime"
            elif e["parallel"] and at_once.get(e["array"], 0) >= e["parallel"]:
                reason = "JobArrayTaskLimit"
            elif any(e[key] > free[key] for key in free):
                reason = "Resources"
            if reason is not None:
                e["reason"] = reason
                continue
            for key in free:
                free[key] -= e[key]
            at_once[e["array"]] = at_once.get(e["array"], 0) + 1
            self._start(e)

    def _start(self, element: Element) -> None:
        dry = self.script["dry"]
        nodes = [f"fake{i + 1}" for i in range(element["nodes"])]
        listed = nodes[0] if len(nodes) == 1 else f"fake[1-{len(nodes)}]"
        element.update(
            state="RUNNING", reason="None", start=time.time(), end=None, node=listed, exit="0:0", end_as=None
        )
        if dry is not None:
            element["dry"] = int(dry.get("advances", 1))
            return
        # SIGUSR1 stays pending until the reaper is ready for it: no message to it is lost.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGCHLD})
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", str(HERE / "reaper.py"), str(self.folder), name_of(element)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                check=True,
                cwd="/",
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        element["reaper"] = int(done.stdout)
        element["reaper_began"] = began(element["reaper"])
        self.state.setdefault("reapers", []).append([element["reaper"], element["reaper_began"]])

    def _advance_dry(self, element: Element) -> None:
        element["dry"] -= 1
        if element["dry"] < 0:
            dry = importlib.import_module(f"{__package__}.dry" if __package__ else "dry")
            self.ended(element, *dry.finish(self.script["dry"] or {}, element))

    # --- ending

    def tell(self, element: Element, **message: Any) -> None:
        """Send a reaper a message; it acts on messages in their order."""
        with open(self.control(element), "a") as f:
            f.write(json.dumps(message) + "\n")
        if element.get("reaper") and alive(element["reaper"], element["reaper_began"]):
            os.kill(element["reaper"], signal.SIGUSR1)

    def control(self, element: Element) -> Path:
        """One file an element and incarnation, so that no old message meets a new reaper."""
        return self.folder / "control" / f"{name_of(element)}.{element['restarts']}"

    def take_away(self, element: Element, end_as: str, *, grace: float, requeue: bool = False) -> None:
        """End an element: SIGCONT and SIGTERM, SIGKILL after `grace`."""
        if element["state"] == "PENDING":
            if not requeue:
                self.ended(element, end_as, "0:0")
            return
        if element["state"] not in ("RUNNING", "COMPLETING"):
            return
        element["end_as"] = end_as
        if element.get("dry") is not None or element.get("foreign"):
            self.ended(element, end_as, "0:15", requeue)
            return
        self.completing(element, end_as, requeue)
        self.tell(element, do="end", end_as=end_as, grace=grace, requeue=requeue)

    def completing(self, element: Element, end_as: str, requeue: bool) -> None:
        """Being ended: to squeue it is COMPLETING, to the accounting it has ended. A requeue is counted at once."""
        reason = "TimeLimit" if end_as == "TIMEOUT" else "None"
        element.update(state="COMPLETING", end_as=end_as, requeued=requeue, reason=reason)

    def ended(self, element: Element, state: str, exit: str, requeue: bool = False) -> None:
        """Note the end of an element, or put it back into the queue."""
        now = time.time()
        element.setdefault("history", []).append({"state": state, "restarts": element["restarts"]})
        element.update(reaper=None, dry=None, end=now, end_as=None, preempted=None, requeued=False)
        requeue = requeue or (state == "NODE_FAIL" and element["requeue"] and self.script["requeue"])
        if requeue and state != "CANCELLED":
            element.update(
                state="PENDING",
                reason="BeginTime",
                restarts=element["restarts"] + 1,
                eligible=now + self.script["requeue_delay"],
                node="",
                start=None,
                end=None,
                exit="0:0",
            )
        else:
            element.update(state=state, exit=exit)


def expand(text: str) -> list[int]:
    """`0-9`, `1,3,5-7`, `0-10:2` -> indices."""
    found: list[int] = []
    for part in text.split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        found += range(int(first), int(last or first) + 1, int(step or 1))
    return found


def pattern(text: str, element: Element, task: int = 0) -> str:
    """`%A_%a.out` and the like."""
    values = {
        "A": element["array"],
        "a": element["task"] if element["task"] is not None else 4294967294,
        "j": element["id"],
        "J": element["id"],
        "x": element["name"],
        "u": element["user"],
        "t": task,
        "n": 0,
        "N": "fake1",
        "%": "%",
    }
    pieces, rest = [], text
    while "%" in rest:
        before, _, rest = rest.partition("%")
        key = rest[:1]
        pieces.append(before + str(values.get(key, "%" + key)))
        rest = rest[1:]
    return "".join([*pieces, rest])


def stat_of(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat after the name: state, parent, group, session, ..."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def began(pid: int) -> str | None:
    """When a process started: with its id, this names it for good."""
    fields = stat_of(pid)
    return fields[19] if fields and fields[0] not in "ZX" else None


def alive(pid: int, since: str | None) -> bool:
    return since is not None and began(pid) == since


def descendants(pid: int) -> dict[int, int]:
    """Processes below one, with their session ids. Zombies do not count."""
    parents: dict[int, tuple[int, int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat_of(int(entry))) and fields[0] not in "ZX":
            parents[int(entry)] = (int(fields[1]), int(fields[3]))
    found: dict[int, int] = {}
    level = {pid}
    while level:
        level = {p for p, (parent, _) in parents.items() if parent in level and p not in found}
        found.update({p: parents[p][1] for p in level})
    return found
