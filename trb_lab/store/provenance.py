"""Where a result came from: code, packages, machine, command, seeds. One file an attempt.

Nothing of it is part of the identity: it explains a difference, it does not make one.
"""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import trb_lab
from trb_lab.spec import ExperimentSpec

from .run_dir import RunDir, write_json

DIFF_BYTES = 100_000
"""Longest stored diff; the rest is cut and said to be."""

PACKAGES = (
    "trb-lab",
    "torch",
    "transformers",
    "safetensors",
    "numpy",
    "pydantic",
    "math-verify",
    "pandas",
    "pyarrow",
    "triton",
    "vllm",
    "reasoning-gym",
    "datasets",
    "gguf",
    "mlflow",
    "optuna",
    "submitit",
)
"""Packages whose version can matter; those that are not installed are left out."""

ENVIRONMENT = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "HF_HUB_OFFLINE",
    "PYTHONHASHSEED",
)
ENVIRONMENT_PREFIXES = ("TRB_", "SLURM_JOB", "SLURM_ARRAY", "SLURM_RESTART", "SLURM_NODELIST")


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command, or None where there is no git or no repository."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, timeout=20, env=environment, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def code_version() -> dict[str, Any]:
    """`{"version", "commit", "dirty", "diff", "label"}`; commit is null outside a checkout of this package.

    `label` is short and for people: `0.1.0+g1a2b3c4d5e` with `.dirty` where files differ from the commit.
    """
    version = trb_lab.__version__
    folder = Path(trb_lab.__file__).resolve().parent
    # A package installed inside some other repository's virtual environment is not a checkout of ours.
    tracked = _git(folder, "ls-files", "--error-unmatch", "__init__.py")
    commit = (_git(folder, "rev-parse", "HEAD") or "").strip() if tracked is not None else ""
    if not commit:
        return {"version": version, "commit": None, "dirty": None, "diff": None, "label": version}
    diff = _git(folder, "diff", "HEAD", "--", str(folder)) or ""
    untracked = _git(folder, "ls-files", "--others", "--exclude-standard", "--", str(folder)) or ""
    new_files = [name for name in untracked.split("\n") if name]
    dirty = bool(diff or new_files)
    if len(diff) > DIFF_BYTES:
        diff = diff[:DIFF_BYTES] + f"\n... cut, {len(diff)} characters in all\n"
    return {
        "version": version,
        "commit": commit,
        "dirty": dirty,
        "diff": diff or None,
        "untracked": new_files,
        "label": f"{version}+g{commit[:10]}" + (".dirty" if dirty else ""),
    }


def _package_versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _first_match(path: str, prefix: str) -> str | None:
    """What follows the colon in the first line of a /proc file that starts with `prefix`."""
    try:
        with open(path) as f:
            for line in f:
                if line.startswith(prefix):
                    return line.partition(":")[2].strip()
    except OSError:
        return None
    return None


def _host() -> dict[str, Any]:
    memory = _first_match("/proc/meminfo", "MemTotal")
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "name": socket.gethostname(),
        "system": platform.platform(),
        "cpu": _first_match("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cores_usable": len(affinity(0)) if affinity is not None else os.cpu_count(),
        "memory_bytes": int(memory.split()[0]) * 1024 if memory else None,
    }


def _environment() -> dict[str, str]:
    """The variables that can change a run. Nothing else: an environment holds secrets."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name in ENVIRONMENT or name.startswith(ENVIRONMENT_PREFIXES)
    }


def _device(device: Any) -> dict[str, Any]:
    """`{"kind", "names"}`; a device name or object is spelled out with what the worker's torch knows."""
    if isinstance(device, Mapping):
        return dict(device)
    kind = str(device) if device is not None else "cpu"
    torch = sys.modules.get("torch")  # never imported for this: a worker that has a GPU has it loaded
    names: list[str] = []
    if kind.startswith("cuda") and torch is not None:
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"kind": kind, "names": names}


def _threads() -> int | None:
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch is not None else None


def collect(
    run_dir: RunDir,
    spec: ExperimentSpec,
    attempt: int,
    *,
    threads: int | None = None,
    device: Any = None,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Gather the attempt's provenance, write it, and return it.

    Writes provenance/attempt_001.json, which later attempts leave alone, and provenance.json (the last one).
    `device` is a name, a torch device, or `{"kind", "names"}`; `threads` and `command` default to what this
    process has.
    """
    data_seed = getattr(spec.dataset, "seed", None)
    gathered = {
        "attempt": attempt,
        "time": time.time(),
        "code": code_version(),
        "python": platform.python_version(),
        "packages": _package_versions(),
        "host": _host(),
        "device": _device(device),
        "threads": threads if threads is not None else _threads(),
        "command": list(command if command is not None else sys.argv),
        "environment": _environment(),
        "seeds": {"seed": spec.seed, "eval": spec.eval.seed, "dataset": data_seed},
        "pid": os.getpid(),
    }
    write_json(run_dir.path / "provenance" / f"attempt_{attempt:03d}.json", gathered)
    write_json(run_dir.provenance, gathered)
    return gathered
