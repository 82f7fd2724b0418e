"""A small real job that tells what a compute node sees. Set up as trials are: same prefix, setup and environment."""

from __future__ import annotations

import fcntl
import getpass
import json
import secrets
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trb_lab.launch.slurm_commands import SlurmError, call
from trb_lab.spec.cluster import ClusterProfile, python_command, setup_lines
from trb_lab.store.run_dir import Store, write_json

from . import cluster_output, node_probe

INVISIBLE, UNWRITABLE = 41, 42
"""Exit codes of the job's script: its folder is not there, or takes no file."""
PROBE_MINUTES = 10
PROBE_MEGABYTES = 4096
"""Enough to import torch; no more is asked for, so that the probe starts soon."""

_FAILED_LINE = "trb-check setup failed:"

HOPELESS = (
    "PartitionTimeLimit", "PartitionNodeLimit", "PartitionDown", "PartitionInactive", "BadConstraints",
    "InvalidAccount", "InvalidQOS", "AccountNotAllowed", "QOSNotAllowed", "JobHeldUser", "JobHeldAdmin",
    "QOSMaxWallDurationPerJobLimit", "AssocMaxWallDurationPerJobLimit",
)  # fmt: skip
"""Reasons for waiting that no patience helps."""


@dataclass
class Probed:
    """What came of the probe job."""

    found: dict[str, Any] | None = None
    """probe.json."""
    job_id: str = ""
    problem: str = ""
    """Why there is no probe.json."""
    waiting: bool = False
    """It did not start in time: nothing is known."""
    log: list[str] = field(default_factory=list)
    token: str = ""

    @property
    def failed_setup(self) -> list[str]:
        """Setup lines that ended with an error."""
        return [line.removeprefix(_FAILED_LINE).strip() for line in self.log if line.startswith(_FAILED_LINE)]


def sbatch_options(profile: ClusterProfile) -> list[str]:
    """The profile's resources as sbatch options, as the launcher gives them."""
    values: dict[str, Any] = {
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "reservation": profile.reservation,
        "nodelist": profile.nodelist,
        "exclude": profile.exclude,
        "time": profile.time_minutes,
        "nodes": profile.nodes,
        "ntasks-per-node": profile.tasks_per_node,
        "cpus-per-task": profile.cpus,
        "gpus-per-node": profile.gpus * profile.tasks_per_node or None,
        "mem": None if profile.mem_megabytes is None else f"{profile.mem_megabytes}MB",
        "requeue" if profile.requeue else "no-requeue": True,
        **{name.replace("_", "-"): value for name, value in profile.sbatch.items()},
    }
    return [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in values.items()
        if value is not None and value is not False
    ]


def smallest(profile: ClusterProfile) -> ClusterProfile:
    """The profile with one task of the same kind of node, and no more of it than a look needs."""
    memory = profile.mem_megabytes
    changes = {
        "nodes": 1,
        "gpus": profile.gpus * profile.tasks_per_node,
        "tasks_per_node": 1,
        "pack": 1,
        "pack_parallel": 1,
        "cpus": 1,
        "mem": None if memory is None else f"{min(memory, PROBE_MEGABYTES)}MB",
        "time": f"{min(profile.time_minutes, PROBE_MINUTES)}m",
        "signal_delay_seconds": 1,
        "requeue": False,
        "sbatch": {name: value for name, value in profile.sbatch.items() if name != "exclusive"},
    }
    return ClusterProfile.model_validate({**profile.model_dump(), **changes})


def script(profile: ClusterProfile, folder: Path) -> str:
    """The batch script. It opens its own log, because a job whose output Slurm cannot open ends without a word."""
    place = shlex.quote(str(folder))
    return "\n".join(
        [
            "#!/bin/bash",
            f"[ -d {place} ] || exit {INVISIBLE}",
            f"exec >>{place}/log.txt 2>&1 || exit {UNWRITABLE}",
            # The shell goes on after a line that fails, as it does in a trial's job; here it is told.
            f"trap 'echo \"{_FAILED_LINE} $BASH_COMMAND\"' ERR",
            *setup_lines(profile),
            "trap - ERR",
            python_command(profile, [str(folder / "probe.py"), str(folder)]),
            "",
        ]
    )


def run_probe(profile: ClusterProfile, store: Store, seconds: float) -> Probed:
    """Submit the probe and wait for it, `seconds` at most. Its folder and its job are gone afterwards."""
    profile = smallest(profile)
    with _folder(store) as folder:
        token = secrets.token_hex(8)
        (folder / "token").write_text(token)
        shutil.copy(node_probe.__file__, folder / "probe.py")
        (folder / "probe.sh").write_text(script(profile, folder))
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            command = ["sbatch", "--parsable", "--job-name=trb-check", "--output=/dev/null"]
            try:
                printed = call([*command, *sbatch_options(profile), str(folder / "probe.sh")])
            except SlurmError as error:
                return Probed(problem=str(error))
            job_id = printed.strip().splitlines()[-1].split(";")[0]
            try:
                probed = _follow(job_id, folder, seconds)
            finally:
                _cancel(job_id)
        log = folder / "log.txt"
        probed.log = log.read_text(errors="replace").splitlines()[-8:] if log.exists() else []
        probed.token = token
        return probed


def _follow(job_id: str, folder: Path, seconds: float) -> Probed:
    start = time.monotonic()
    patience = 3  # looks at an ended job: a network file system may show its files late
    next_look = 0.0
    info: dict[str, str] = {}
    while True:
        list(folder.iterdir())
        if (folder / "hello.json").exists() and not (folder / "reply.json").exists():
            write_json(folder / "reply.json", {"time": time.time()})
        text = _text(folder / "probe.json")
        if text:
            return Probed(json.loads(text), job_id)
        waited = time.monotonic() - start
        if waited >= next_look:
            next_look = waited + 2
            info = _job(job_id) or info
            state, reason = info.get("JobState", ""), info.get("Reason", "")
            if state == "PENDING" and reason in HOPELESS:
                return Probed(None, job_id, f"it would wait for ever: {reason}. Change the profile.")
            if state not in ("", "PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
                patience -= 1
                if not patience:
                    return Probed(None, job_id, _why_ended(info))
        if waited > seconds:
            if info.get("JobState") in ("PENDING", "CONFIGURING"):
                reason = info.get("Reason", "no reason given")
                problem = (
                    f"it still waits after {seconds:.0f} s ({reason}). Try later, or raise --probe-seconds."
                )
                return Probed(None, job_id, problem, waiting=True)
            where = info.get("NodeList", "a node")
            return Probed(
                None,
                job_id,
                f"it started on {where} and was not done after {seconds:.0f} s (--probe-seconds).",
            )
        time.sleep(0.1)


def _why_ended(info: dict[str, str]) -> str:
    code = int(info.get("ExitCode", "0:0").split(":")[0] or 0)
    where = info.get("NodeList", "the node")
    if code == INVISIBLE:
        return (
            f"the store is not visible on {where}. Put it on a file system that nodes share "
            "(--store, or $TRB_LAB_STORE)."
        )
    if code == UNWRITABLE:
        return f"the store cannot be written from {where}. Look at its owner and mode, and at quotas."
    if code in (126, 127):
        return f"a command was not found on {where} (exit code {code}): look at `python`, `container` and `setup`."
    state, reason = info.get("JobState", "UNKNOWN"), info.get("Reason", "")
    return f"the job ended as {state} on {where}, exit code {code}{f', {reason}' if reason else ''}."


def _job(job_id: str) -> dict[str, str]:
    try:
        return cluster_output.job(call(["scontrol", "show", "job", "--oneliner", job_id]))
    except SlurmError:
        return {}  # not answered, or forgotten: the probe's own files decide


def _cancel(job_id: str) -> None:
    try:
        call(["scancel", "--quiet", job_id])
    except SlurmError as error:
        print(
            f"The probe job {job_id} may still be there ({error}). End it with: scancel {job_id}", flush=True
        )


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


@contextmanager
def _folder(store: Store) -> Iterator[Path]:
    """A folder in the store for this look alone; nothing of it stays."""
    new = [path for path in (store.root / "slurm", store.root, *store.root.parents) if not path.exists()]
    folder = store.root / "slurm" / f"check-{getpass.getuser()}-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for path in new:
            if path.exists() and not any(path.iterdir()):
                path.rmdir()
