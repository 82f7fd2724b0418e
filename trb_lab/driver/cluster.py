"""A sweep on a cluster: what it asks for, leaving after the submission, a driver that is a job itself."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.launch.base import Job, JobStatus
from trb_lab.launch.follow import Fleet, Member
from trb_lab.spec.cluster import ClusterProfile, load_cluster
from trb_lab.store.run_dir import Store

if TYPE_CHECKING:
    from trb_lab.launch.slurm import SlurmLauncher


@dataclass(frozen=True)
class Cluster:
    """Where `--on` sends the trials, and who drives them."""

    profile: ClusterProfile
    path: Path
    """The profile's file."""
    arguments: tuple[str, ...] = ()
    """The sweep command's own arguments, for a driver that is a job: absolute paths, no --driver."""
    detach: bool = False
    driver_is_a_job: bool = False

    @property
    def name(self) -> str:
        return self.profile.name or self.path.stem

    @property
    def options(self) -> list[str]:
        """What must be said to come here again."""
        return ["--on", str(self.path)]

    def launcher(
        self, store: Store, sweep: str, slots: int | None, check: Callable[[], object] = lambda: None
    ) -> SlurmLauncher:
        """`check` raises where another driver has taken over."""
        from trb_lab.launch.slurm import SlurmLauncher

        return SlurmLauncher(store, self.profile, sweep, slots, check=check)

    def slots(self, given: int | None) -> int:
        """Runs at once, as far as the profile bounds them; `given` bounds our jobs in the queue instead of it."""
        jobs = min(
            given or self.profile.max_jobs or self.profile.array_parallelism, self.profile.array_parallelism
        )
        return jobs * self.profile.pack_parallel

    def request_text(self, jobs: Sequence[Job], slots: int | None) -> str:
        """What the jobs ask the cluster for: a line for each kind of job. Empty where there is nothing to ask.

        Raises UsageError where a trial's `resources` cannot be had with this profile.
        """
        counts: Counter[str] = Counter()
        for job in jobs:
            counts[_one_job(self.profile.for_trial(job.resources))] += 1
        pack = self.profile.pack
        where = f" (partition {self.profile.partition})" if self.profile.partition else ""
        lines = []
        for wants, runs in counts.items():
            packed = f" in {math.ceil(runs / pack)} jobs of up to {pack}" if pack > 1 else " in a job each"
            lines.append(f"On {self.name}{where}: {runs} runs{packed}; a job asks for {wants}.")
        if lines:
            most = slots or self.profile.max_jobs
            lines.append(
                f"At most {self.profile.array_parallelism} jobs of an array run at once"
                + (f", and {most} of our jobs are in the queue." if most else ".")
            )
            lines.append(_array_text())
        return "\n".join(lines)

    def detached(
        self,
        store: Store,
        sweep: str,
        members: Sequence[Member],
        slots: int | None,
        again: str,
        as_json: bool,
        check: Callable[[], object],
    ) -> int:
        """Submit what the cluster takes now, and a job that makes the report when all of it has ended.

        Returns 0 when everything was submitted, and 1 when trials wait here: nobody feeds them by itself.
        """
        from trb_lab.launch.slurm_commands import SlurmError
        from trb_lab.launch.slurm_submit import submit_command

        launcher = self.launcher(store, sweep, slots, check)
        try:
            Fleet(launcher, [m for m in members if m.run_id not in launcher.settled])
            submitted, left = launcher.submit_all()
            after = launcher.job_ids()
            command = [
                "report",
                sweep,
                *(["--sync"] if mlflow_is_here() else []),
            ]
            log = store.sweep(sweep).driver_job_log
            report, problem = None, ""
            try:
                report = submit_command(
                    store, self.profile, sweep, "report", _own_verb(store, command), log, after
                )
            except SlurmError as error:  # the trials have taken every place, perhaps: they count more
                problem = str(error)
        finally:
            launcher.close()
        if as_json:
            print(json.dumps({"submitted": submitted, "left": left, "jobs": after, "report_job": report}))
        else:
            made = f"; job {report} makes the report once they have ended" if report else ""
            print(f"{submitted} runs submitted{made}.")
            print(f"How far they are: trb-lab status {sweep}. To stop them: trb-lab cancel {sweep}")
        if problem:
            print(f"{problem}\nOnce the runs have ended: trb-lab report {sweep}", file=sys.stderr)
        if left:
            print(
                f"{left} runs do not fit under the cluster's limits now and wait for the same command, or for a driver "
                f"that feeds them: {again} --driver slurm",
                file=sys.stderr,
            )
        return 1 if left or problem else 0

    def submit_driver(self, store: Store, sweep: str, as_json: bool) -> int:
        """Submit a small job that runs this sweep's driver."""
        from trb_lab.launch.slurm_jobs import command_jobs
        from trb_lab.launch.slurm_submit import submit_command

        if present := command_jobs(store, sweep):
            raise UsageError(
                f"Job {', '.join(present)} is to drive '{sweep}' already: `trb-lab logs {sweep} -f` follows it, "
                f"`trb-lab cancel {sweep}` ends it with its trials."
            )
        log = store.sweep(sweep).driver_job_log
        job = submit_command(store, self.profile, sweep, "driver", _own_verb(store, self.arguments), log)
        if as_json:
            print(json.dumps({"driver_job": job, "log": str(log)}))
        else:
            print(f"Job {job} on {self.name} drives the sweep. To follow it: trb-lab logs {sweep} --follow")
            print(f"How far it is: trb-lab status {sweep}. To stop it: trb-lab cancel {sweep}")
        return 0


def cluster_of(
    on: Path | None,
    *,
    arguments: Sequence[str] = (),
    detach: bool = False,
    driver: str | None = None,
    inline: bool = False,
) -> Cluster | None:
    """The cluster that the options of `trb-lab sweep` name; None is this machine.

    Raises UsageError for options that do not go together, and with every problem of the profile.
    """
    if driver is not None and driver != "slurm":
        raise UsageError(
            f"--driver {driver}: a driver runs here, or with `--driver slurm` as a job."
            f"{did_you_mean(driver, ['slurm'])}"
        )
    given = [option for option, on_ in (("--detach", detach), ("--driver slurm", driver)) if on_]
    if on is None:
        if given:
            raise UsageError(f"{given[0]} needs a cluster: name its profile with --on slurm/NAME.yaml.")
        return None
    if inline:
        raise UsageError(
            "--inline runs the trials in this process and --on sends them to a cluster: give one of them."
        )
    if len(given) == 2:
        raise UsageError(
            "--detach leaves no driver and --driver slurm makes one a job: give one of them. The job feeds trials that "
            "do not fit under the cluster's limits, and starts killed ones again."
        )
    path = on.absolute()
    profile = load_cluster(path)
    if profile.tasks > 1:
        raise UsageError(
            f"{path}: a job has {profile.tasks} tasks (nodes x tasks_per_node), and the trainer uses one a trial. "
            "Set both to 1; several GPUs of a node serve several trials with `pack` and `pack_parallel`."
        )
    return Cluster(profile, path, tuple(arguments), detach, driver is not None)


def places_of(store: Store) -> Mapping[str, JobStatus]:
    """Where a cluster has the store's runs; empty for a store that never met one."""
    if not store.slurm.is_dir():
        return {}
    from trb_lab.launch import slurm_jobs

    return slurm_jobs.places(store)


def mlflow_is_here() -> bool:
    return importlib.util.find_spec("mlflow") is not None


def _own_verb(store: Store, arguments: Sequence[str]) -> list[str]:
    """A command line of ours for a job, which brings the interpreter."""
    return ["-m", "trb_lab.cli", "--store", str(store.root), *arguments]


def _array_text() -> str:
    """The largest array that this cluster takes, as far as it can be asked from here."""
    from trb_lab.launch.slurm_commands import SlurmError, largest_array

    try:
        return (
            f"The cluster takes arrays of up to {largest_array()} jobs; more are submitted as places free up."
        )
    except SlurmError as error:
        return f"The cluster's own limits are not known here ({error})."


def _one_job(wants: ClusterProfile) -> str:
    """`2 tasks of 1 GPU and 4 cores, 64GB, 12h`."""
    one = " and ".join(
        filter(None, [_many(wants.gpus, "GPU") if wants.gpus else "", _many(wants.cpus, "core")])
    )
    tasks = f"{wants.tasks} tasks of {one}" if wants.tasks > 1 else one
    nodes = f"on {wants.nodes} nodes" if wants.nodes > 1 else ""
    memory = f"{wants.mem} of memory" if wants.mem is not None else ""
    return ", ".join(filter(None, [tasks, nodes, memory, f"{wants.time} of time"]))


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
