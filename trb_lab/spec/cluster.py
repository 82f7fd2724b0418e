"""A cluster profile: how trials become Slurm jobs on one cluster. `trb-lab sweep FILE --on slurm/NAME.yaml`.

Nothing here is part of a trial's identity: it says where and how large, not what.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from trb_lab.errors import UsageError

from .base import Spec
from .experiment import ResourcesSpec
from .loading import load_spec
from .quantities import Memory, Time, megabytes_of, minutes_of, seconds_of

OWN_KEYS = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "reservation": "reservation",
    "time": "time",
    "mem": "mem",
    "nodes": "nodes",
    "cpus-per-task": "cpus",
    "gpus-per-task": "gpus",
    "ntasks-per-node": "tasks_per_node",
    "exclude": "exclude",
    "nodelist": "nodelist",
    "signal": "signal_delay_seconds",
    "requeue": "requeue",
    "no-requeue": "requeue",
}
"""sbatch option -> key of the profile that sets it."""

OURS = (
    "array",
    "job-name",
    "output",
    "error",
    "open-mode",
    "dependency",
    "wait",
    "wrap",
    "chdir",
    "parsable",
)
"""sbatch options that the launcher needs for itself."""


def _plain_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class DriverResources(Spec):
    """The small job of `--driver slurm`, and the one that makes a detached sweep's report.

    What is null is the profile's.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: Time | None = None
    """It has to outlast the sweep, waiting included."""
    mem: Memory | None = None
    cpus: int | None = Field(None, ge=1)
    setup: list[str] | None = None


class ClusterProfile(Spec):
    """How trials become jobs of one cluster."""

    other_names: ClassVar[dict[str, str]] = {
        **{option.replace("-", "_"): key for option, key in OWN_KEYS.items()},
        "gpus_per_node": "gpus",
        "gres": "gpus",
        "timeout": "time",
        "timeout_min": "time",
        "walltime": "time",
        "time_limit": "time",
        "mem_gb": "mem",
        "memory": "mem",
        "array_limit": "array_parallelism",
        "env": "environment",
        "modules": "setup",
        "image": "container",
        "singularity": "container",
        "apptainer": "container",
    }
    """What others call a key of ours, for hints."""

    name: str | None = None
    """What messages call this cluster; null takes the file's name."""

    partition: str | None = None
    """null: the cluster's default partition."""
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """Features that a node must have, as for `sbatch --constraint`: h100, or [a100|h100]."""
    reservation: str | None = None
    nodelist: str | None = None
    """Only these nodes."""
    exclude: str | None = None
    """Never these nodes."""
    sbatch: dict[str, Any] = {}
    """Further sbatch options without their dashes: {gres: "gpu:h100:1", exclusive: true}."""

    gpus: int = Field(0, ge=0)
    """GPUs of a task; trials that share a job (pack_parallel) share them."""
    cpus: int = Field(1, ge=1)
    """CPU cores of a task."""
    mem: Memory | None = None
    """Memory of a node's part of the job: 64GB. null: the cluster's default."""
    time: Time = "4h"
    """Time limit of a job: 30m, 12h, 08:30:00, 2-00:00:00, or whole minutes. Trials resume after it."""
    nodes: int = Field(1, ge=1)
    """Nodes of one job."""
    tasks_per_node: int = Field(1, ge=1)
    """Processes of one trial on each node; more than one sets rank and address for torch.distributed."""

    array_parallelism: int = Field(256, ge=1)
    """Jobs of one array that run at once."""
    pack: int = Field(1, ge=1)
    """Trials in one job, for short ones."""
    pack_parallel: int = Field(1, ge=1)
    """Of the trials in one job, how many run at once."""
    max_jobs: int | None = Field(None, ge=1)
    """Jobs of ours in the queue at once, running ones included; null: what the cluster allows."""

    setup: list[str] = []
    """Shell lines before the worker starts: module load cuda."""
    environment: dict[str, Annotated[str, BeforeValidator(_plain_text)]] = {}
    """Variables set before the setup lines."""
    container: str | None = None
    """What goes before the interpreter: apptainer exec --nv lab.sif"""
    python: str | None = None
    """Interpreter on the compute nodes (inside the container); null: the one that runs this command."""

    signal_delay_seconds: int = Field(120, ge=1, le=65_535)
    """How long before the time limit a trial is asked to save."""
    requeue: bool = True
    """Whether the cluster may put a preempted job back into the queue."""
    restarts: int = Field(20, ge=0)
    """Times a trial is started again after the cluster took its job."""
    poll_seconds: float = Field(5.0, gt=0)
    """How often the queue is asked."""
    driver: DriverResources | None = None
    """Resources of `--driver slurm` and of the report job; null: the profile's, without GPUs."""

    @property
    def time_seconds(self) -> int:
        return seconds_of(self.time)

    @property
    def time_minutes(self) -> int:
        """The time limit, rounded up to what Slurm can tell apart."""
        return minutes_of(self.time)

    @property
    def mem_megabytes(self) -> int | None:
        return None if self.mem is None else megabytes_of(self.mem)

    @property
    def tasks(self) -> int:
        """Processes of one job."""
        return self.nodes * self.tasks_per_node

    @field_validator("python")
    @classmethod
    def _whole_path(cls, python: str | None) -> str | None:
        if python is not None and "/" in python and python[0] not in "/$~":
            raise ValueError(
                f"{python} is relative, and a job starts elsewhere. Write the whole path, or a name in the node's PATH."
            )
        return python

    @field_validator("container")
    @classmethod
    def _shell_words(cls, container: str | None) -> str | None:
        if container is not None:
            try:
                words = shlex.split(container)
            except ValueError as error:
                raise ValueError(f"{container!r} is no command: {error}. Close the quote.") from None
            if not words:
                raise ValueError(
                    "an empty prefix does nothing. Write null, or `apptainer exec --nv lab.sif`."
                )
        return container

    @field_validator("environment")
    @classmethod
    def _variable_names(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} is no name of a variable: letters, digits and _ only.")
        return environment

    @field_validator("sbatch")
    @classmethod
    def _options(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name, value in options.items():
            plain = name.lstrip("-").replace("_", "-")
            if plain in OWN_KEYS:
                raise ValueError(
                    f"{name} is a key of the profile: write `{OWN_KEYS[plain]}` beside `sbatch`."
                )
            if plain in OURS:
                raise ValueError(f"{name} is set by the launcher, which needs it. Remove it.")
            if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
                raise ValueError(f"{name!r} is no long option of sbatch. Write it without dashes: exclusive.")
            if not isinstance(value, str | int | bool):
                raise ValueError(f"{name} takes text, a whole number, or true for an option without a value.")
        return options

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.signal_delay_seconds >= self.time_seconds:
            raise ValueError(
                f"signal_delay_seconds is {self.signal_delay_seconds} and time is {self.time}: a trial would be asked "
                "to save before it starts. Raise time, or lower signal_delay_seconds."
            )
        if self.driver and self.driver.time and seconds_of(self.driver.time) <= self.signal_delay_seconds:
            raise ValueError(
                f"driver.time is {self.driver.time}, and signal_delay_seconds is {self.signal_delay_seconds}: "
                "raise driver.time, it has to outlast the sweep."
            )
        if self.pack_parallel > self.pack:
            raise ValueError(
                f"pack_parallel is {self.pack_parallel} and pack is {self.pack}: no more trials can run at once than "
                f"the job holds. Raise pack to at least {self.pack_parallel}, or lower pack_parallel."
            )
        if self.pack_parallel > 1 and self.tasks > 1:
            raise ValueError(
                f"pack_parallel is {self.pack_parallel} and a job has {self.tasks} tasks (nodes x tasks_per_node): "
                "trials side by side have one task each. Set pack_parallel, or nodes and tasks_per_node, to 1."
            )
        if self.gpus and self.gpus % self.pack_parallel and self.pack_parallel % self.gpus:
            raise ValueError(
                f"gpus is {self.gpus} and pack_parallel is {self.pack_parallel}: they cannot be shared evenly. "
                f"Take a multiple: pack_parallel {self.gpus}, for example."
            )
        return self

    def for_trial(self, resources: ResourcesSpec) -> ClusterProfile:
        """This profile with what the trial's own `resources` say: gpus, mem and time of one trial.

        A job with several trials gets as much as they need together. Raises UsageError where that cannot be.
        """
        changes: dict[str, Any] = {}
        if resources.gpus is not None:
            if resources.gpus % self.tasks:
                raise UsageError(
                    f"resources.gpus is {resources.gpus} and the profile has {self.tasks} tasks a trial "
                    "(nodes x tasks_per_node): each needs the same number. Take a multiple, or fewer tasks."
                )
            changes["gpus"] = resources.gpus // self.tasks * self.pack_parallel
        elif resources.device == "cpu":
            changes["gpus"] = 0
        if resources.mem is not None:
            changes["mem"] = f"{megabytes_of(resources.mem) * self.pack_parallel}MB"
        if resources.time is not None:
            rounds = math.ceil(self.pack / self.pack_parallel)
            changes["time"] = f"{minutes_of(resources.time) * rounds}m"
        if resources.cpu_threads is not None:
            changes["cpus"] = max(self.cpus, resources.cpu_threads * self.pack_parallel)
        return self._changed(changes, "resources")

    def for_driver(self) -> ClusterProfile:
        """One task without GPUs, with the `driver` resources: for the driver's job and the report's.

        What asks for the trials' kind of node is left out: constraint, node lists, GPUs, whole nodes.
        """
        changes: dict[str, Any] = {"gpus": 0, "nodes": 1, "tasks_per_node": 1, "pack": 1, "pack_parallel": 1}
        changes |= {"constraint": None, "nodelist": None, "exclude": None, "driver": None}
        changes["sbatch"] = {
            name: value
            for name, value in self.sbatch.items()
            if name not in ("exclusive", "gres") and not name.startswith(("gpu", "ntasks", "mem"))
        }
        if self.driver is not None:
            changes |= {k: v for k, v in self.driver.model_dump().items() if v is not None}
        return self._changed(changes, "driver")

    def _changed(self, changes: dict[str, Any], block: str) -> ClusterProfile:
        if not changes:
            return self
        try:
            return ClusterProfile.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            texts = [str(e["ctx"]["error"]) if "ctx" in e else e["msg"] for e in error.errors()]
            raise UsageError(
                "\n".join(f"{block}, on {self.name or 'the cluster'}: {t}" for t in texts)
            ) from None


def load_cluster(path: Path | str) -> ClusterProfile:
    """Read a profile, with what it `extends`. Raises UsageError with every problem of the file."""
    path = Path(path)
    wanted = "a cluster profile: partition, gpus, mem, time, ..."
    profile = load_spec(ClusterProfile, path, wanted, _refuse_other_kinds)
    return profile if profile.name else profile.model_copy(update={"name": path.stem})


def _refuse_other_kinds(value: dict[str, Any], source: str) -> None:
    for key, kind in {"arms": "a sweep", "student": "an experiment"}.items():
        if key in value:
            raise UsageError(f"{source} is {kind}, and a cluster profile is wanted here: slurm/NAME.yaml.")


def setup_lines(profile: ClusterProfile) -> list[str]:
    """Shell lines of every job of ours before its command: the profile's environment, then its setup."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in profile.environment.items()]
    return [*exports, *profile.setup]


def python_command(profile: ClusterProfile, arguments: Sequence[str] = ()) -> str:
    """The interpreter of a job as one shell text, container prefix included, with arguments quoted.

    The container and `python` are left as written, so that a job's shell fills in variables such as $HOME.
    """
    python = profile.python or shlex.quote(sys.executable)
    return " ".join(
        [*([profile.container] if profile.container else []), python, *map(shlex.quote, arguments)]
    )
