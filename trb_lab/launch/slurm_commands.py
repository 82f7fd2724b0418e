"""Slurm's own commands, and what they print. Asks and tells; decides nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from trb_lab.errors import LabError

TIMEOUT_SECONDS = 60.0
_SEPARATOR = "|"


class SlurmError(LabError):
    """A Slurm command failed, or did not answer in time."""


@dataclass(frozen=True)
class Line:
    """One job element as squeue or sacct tell of it."""

    element: str
    """`123`, or `123_4` of an array."""
    state: str
    name: str
    node: str = ""
    reason: str = ""


def call(command: Sequence[str], timeout: float = TIMEOUT_SECONDS, fine: Sequence[int] = (0,)) -> str:
    """What a command prints. Raises SlurmError with its complaint, unless its exit code is `fine`."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, env=outside_any_job()
        )  # fmt: skip
    except FileNotFoundError:
        raise SlurmError(
            f"{command[0]} is not installed here: run this where Slurm's commands are."
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} has not answered within {timeout:.0f} s") from None
    if done.returncode not in fine:
        said = " ".join((done.stderr or done.stdout).split())
        raise SlurmError(f"{command[0]} failed: {said or f'exit code {done.returncode}'}")
    return done.stdout


def outside_any_job() -> dict[str, str]:
    """The environment without what Slurm puts into a job: it would bend the jobs that a job submits."""
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    return {
        k: v for k, v in os.environ.items() if k in kept or not k.startswith(("SLURM_", "SBATCH_", "SRUN_"))
    }


@contextmanager
def in_no_job() -> Iterator[None]:
    """`outside_any_job` for the block, for libraries that start commands themselves."""
    before = dict(os.environ)
    for key in set(before) - set(outside_any_job()):
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(before)


def queue(names: Iterable[str] = ()) -> list[Line]:
    """Every job of this user that the controller still knows, ended ones too for some minutes (MinJobAge)."""
    chosen = sorted(names)
    text = call(
        ["squeue", "--me", "-h", "-r", "-t", "all", "-o", _SEPARATOR.join(["%i", "%T", "%j", "%N", "%r"])]
        + (["--name", ",".join(chosen)] if chosen else [])
    )
    return [Line(*fields) for fields in _fields(text, 5)]


def accounting(job_ids: Iterable[str]) -> list[Line]:
    """What the accounting database says of jobs; without one, SlurmError or nothing."""
    ids = sorted(job_ids)
    if not ids:
        return []
    command = [
        "sacct",
        "-n",
        "-X",
        "-P",
        "--array",
        "-j",
        ",".join(ids),
        "-o",
        "JobID,State,JobName,NodeList",
    ]
    found = []
    for element, state, name, node in _fields(call(command), 4):
        found += [Line(single, state, name, node) for single in expand(element)]
    return found


def job_named(name: str, since: float) -> str | None:
    """The id of the newest job of that name, from the queue or the accounting; None where neither has one.

    The accounting looks for jobs that were there after `since` (seconds since the epoch). Raises SlurmError when the
    queue cannot be asked: nothing is known then.
    """
    ids = {line.element.split("_")[0] for line in queue([name]) if line.name == name}
    if not ids:
        try:
            text = call(
                ["sacct", "-n", "-X", "-P", "-S", _stamp(since - 3600), "--name", name, "-o", "JobID,JobName"]
            )
        except SlurmError:
            return None
        ids = {element.split("_")[0] for element, found in _fields(text, 2) if found == name}
    return max(ids, key=int) if ids else None


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))


def expand(element: str) -> list[str]:
    """`12_[0-2,7%4]` -> `12_0 12_1 12_2 12_7`: how a part of an array that has not begun is printed."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", element)
    if match is None:
        return [element]
    found = []
    for part in match[2].split(","):
        first, _, last = part.partition("-")
        found += [f"{match[1]}_{i}" for i in range(int(first), int(last or first) + 1)]
    return found


def largest_array() -> int:
    """Elements that one array may have: MaxArraySize, whose 0 means no arrays. Raises SlurmError."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", call(["scontrol", "show", "config"]), re.MULTILINE)
    return max(1, int(found[1])) if found else 1001


def cancel(elements: Sequence[str]) -> None:
    """scancel; an element that has ended already is no error. Raises SlurmError."""
    for start in range(0, len(elements), 500):
        call(["scancel", "--quiet", *elements[start : start + 500]])


def requeue(element: str) -> None:
    """Put the running element that calls this back into the queue. Raises SlurmError where that is not allowed.

    Slurm ends the caller at once, and with it the command, often before that could say that it has worked.
    """
    call(["scontrol", "requeue", element], fine=(0, -signal.SIGTERM))


def release(element: str) -> None:
    """Let a held element start again. Raises SlurmError where only an administrator may."""
    call(["scontrol", "release", element])


def job_state(job_id: str) -> str:
    """JobState of `scontrol show job`, from inside the job. Raises SlurmError."""
    match = re.search(r"\bJobState=(\S+)", call(["scontrol", "show", "job", job_id]))
    return match[1] if match else ""


def _fields(text: str, count: int) -> Iterator[list[str]]:
    """The lines that have so many fields; the last field may hold separators."""
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(_SEPARATOR, count - 1)]
        if len(fields) == count and re.match(r"\d", fields[0]):
            yield fields
