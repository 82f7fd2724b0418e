"""Verdicts on what a compute node saw, against this machine. Pure: a probe's record in, findings out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trb_lab.spec.cluster import ClusterProfile

from . import cluster_output
from .findings import Findings

OLDEST_PYTHON = (3, 11)
CLOCK_SECONDS = 5.0
"""Clocks that differ by more make beats of leases look old or fresh when they are not."""
FREE_GIGABYTES = 20
NEEDED = ("torch", "transformers", "submitit")


@dataclass(frozen=True)
class Here:
    """The same facts of the machine that runs this command."""

    host: str
    python: tuple[int, int, int]
    versions: Mapping[str, str | None]
    version: str
    """Of trb_lab."""
    code: str


def judge_node(
    profile: ClusterProfile, seen: Mapping[str, Any], here: Here, token: str, findings: Findings
) -> None:
    """A line for each thing that a trial needs on the node."""
    same = seen["host"] == here.host
    where = f"{seen['host']}, this very machine" if same else str(seen["host"])
    _store(seen, token, where, findings)
    _lock(seen["lock"], same, findings)
    _clock(seen["clock"], same, findings)
    _python(seen, here, findings)
    _lab(seen["lab"], here, findings)
    for name in NEEDED:
        _package(name, seen["versions"].get(name), here.versions.get(name), findings)
    _gpus(profile.gpus * profile.tasks_per_node, seen, findings)
    _requeue(profile, seen, findings)


def _store(seen: Mapping[str, Any], token: str, where: str, findings: Findings) -> None:
    if seen["token"] != token:
        findings.fail(
            "store",
            f"on {where} a file that was written here reads otherwise. Put the store on a shared file system.",
        )
        return
    findings.ok("store", f"files go both ways between here and {where}")
    free = seen["free_bytes"] / 1e9
    if free < FREE_GIGABYTES:
        findings.warn("store", f"{free:.1f} GB free: checkpoints of larger models may not fit. Make room.")


def _lock(lock: str, same: bool, findings: Findings) -> None:
    if lock == "seen":
        findings.ok("locks", "a lock (flock) that is held here is seen on the node")
    elif same:
        findings.fail(
            "locks", f"flock does not work on the store's file system ({lock}). Put the store elsewhere."
        )
    else:
        findings.warn(
            "locks",
            f"a lock that is held here is not seen on the node ({lock}): who owns a trial is told by heartbeats there, "
            "and a dead owner is noticed after a minute. Nothing to do; flock over the network makes it quicker.",
        )


def _clock(clock: Mapping[str, float], same: bool, findings: Findings) -> None:
    if not clock:
        findings.warn("clock", "could not be compared: the node's file and the answer to it took too long.")
        return
    low, high = clock["there"] - clock["answered"], clock["there"] - clock["asked"]
    least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    if least > CLOCK_SECONDS:
        findings.fail(
            "clock",
            f"this machine's and the node's differ by at least {least:.0f} s: owners of trials would look dead or "
            "alive wrongly. Ask the cluster's staff to synchronise them (NTP).",
        )
    elif high - low > 4 * CLOCK_SECONDS:
        findings.warn(
            "clock", f"compared to {high - low:.0f} s only: files take that long between here and the node."
        )
    else:
        findings.ok(
            "clock",
            "the same machine's" if same else f"within {max(abs(low), abs(high)):.1f} s of this one's",
        )


def _python(seen: Mapping[str, Any], here: Here, findings: Findings) -> None:
    version = tuple(seen["python"])
    text = f"{'.'.join(map(str, version))} at {seen['executable']}"
    if version[:2] < OLDEST_PYTHON:
        findings.fail(
            "python", f"{text} is older than 3.11. Set `python`, `container` or `setup` to a newer one."
        )
    elif version[:2] != here.python[:2]:
        findings.warn("python", f"{text}; here {'.'.join(map(str, here.python))}. The same one is safer.")
    else:
        findings.ok("python", text)


def _lab(lab: Mapping[str, str], here: Here, findings: Findings) -> None:
    if "error" in lab:
        findings.fail(
            "trb_lab",
            f"cannot be imported on the node ({lab['error']}). Install it there, or set `python` to where it is.",
        )
    elif lab["version"] != here.version:
        findings.fail(
            "trb_lab",
            f"{lab['version']} on the node ({lab['path']}), {here.version} here. Install the same version.",
        )
    elif lab["code"] != here.code:
        findings.warn(
            "trb_lab",
            f"{lab['version']} on both, but the node's copy ({lab['path']}) differs from the one here. Install it anew "
            "where you changed it.",
        )
    else:
        findings.ok("trb_lab", f"{lab['version']} at {lab['path']}, the same code as here")


def _package(name: str, there: str | None, here: str | None, findings: Findings) -> None:
    if there is None:
        findings.fail(name, "is missing on the node. Install it into the Python that jobs use.")
    elif here is None:
        findings.ok(name, f"{there} on the node (none here)")
    elif there != here:
        findings.warn(name, f"{there} on the node, {here} here. Results may differ in their last digits.")
    else:
        findings.ok(name, there)


def _gpus(wanted: int, seen: Mapping[str, Any], findings: Findings) -> None:
    torch, listed = seen["torch"], seen["nvidia_smi"]
    if "error" in torch:
        findings.fail("torch", f"cannot be imported on the node: {torch['error']}")
        return
    count = torch["gpus"]
    if count < wanted <= listed:
        findings.fail(
            "gpus",
            f"nvidia-smi lists {listed} and torch sees {count} (built for CUDA {torch['cuda']}): take a torch that "
            "fits the driver, and `--nv` in a container.",
        )
    elif count < wanted:
        findings.fail(
            "gpus", f"{wanted} asked for, {count} seen. Look at gpus, constraint, sbatch and the container."
        )
    elif wanted:
        findings.ok("gpus", f"torch sees {count}")
    else:
        findings.ok("gpus", f"none asked for{f'; {count} seen' if count else ''}")


def _requeue(profile: ClusterProfile, seen: Mapping[str, Any], findings: Findings) -> None:
    if not profile.requeue:
        return
    if not seen["scontrol"]:
        findings.warn(
            "scontrol",
            "not found on the node: a job cannot put itself back into the queue before its time limit, and the driver "
            "starts the trial again instead (keep it running). In a container, add Slurm's commands and /etc/slurm.",
        )
    elif not cluster_output.job(seen["job"]):
        findings.warn(
            "scontrol",
            "does not answer on the node: the driver starts trials again instead (keep it running).",
        )
    else:
        findings.ok("scontrol", "answers on the node: jobs can put themselves back into the queue")
