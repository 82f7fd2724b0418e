"""One call of sbatch, through submitit: what is asked for, and what an answer means."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trb_lab.errors import LabError, MissingExtra
from trb_lab.failpoints import reach
from trb_lab.spec.cluster import ClusterProfile, python_command, setup_lines
from trb_lab.store.run_dir import Store

from . import batches, slurm_commands
from .batches import Batch, Piece
from .slurm_commands import SlurmError
from .slurm_pickles import name_pickles
from .slurm_task import SlurmTask

_FULL = re.compile(
    r"(QOS|Assoc)\w*(MaxSubmit|GrpSubmit)\w*|maximum number of (pending )?jobs|MaxJobCount|job submit limit reached",
    re.I,
)
_UNANSWERED = re.compile(
    r"timed out|Unable to contact|Connection refused|Zero Bytes|Unexpected message|temporarily unable|"
    r"Resource temporarily unavailable|Transport endpoint|backup controller|slurm_persist_conn|SIGTERM|SIGKILL",
    re.I,
)


def require_submitit() -> None:
    """Raises MissingExtra where it is not installed."""
    if importlib.util.find_spec("submitit") is None:
        raise MissingExtra("A sweep on a cluster", "slurm")


class Refused(LabError):
    """The cluster does not take such a job, now or later."""


class Full(Exception):
    """No more jobs fit under the user's limits at present."""


class Unanswered(Exception):
    """The job may have been accepted all the same."""


def submit_command(
    store: Store,
    profile: ClusterProfile,
    sweep: str,
    what: str,
    argv: Sequence[str],
    log: Path,
    after: Sequence[str] = (),
) -> str:
    """A small job for one command (`what`: "driver" or "report"), once the jobs in `after` have ended; its id.

    Raises SlurmError or Refused when the cluster does not take it.
    """
    small = profile.for_driver()
    require_submitit()
    batch = batches.create(store, sweep, what, small.name or "", [[]])
    options = {"dependency": "afterany:" + ":".join(after)} if after else {}
    try:
        job_id = sbatch(store, batch, small, [[Piece(list(argv), str(log))]], options)
    except (Full, Unanswered) as error:
        found = None if isinstance(error, Full) else slurm_commands.job_named(batch.name, since=batch.created)
        if found is None:
            batches.discard(batch)
            raise SlurmError(f"The {what} job was not submitted: {error}") from None
        name_pickles(batch, found)
        job_id = found
    except Refused:
        batches.discard(batch)
        raise
    batches.submitted(batch, job_id)
    return job_id


def sbatch(
    store: Store,
    batch: Batch,
    profile: ClusterProfile,
    elements: Sequence[Sequence[Piece]],
    options: Mapping[str, Any] | None = None,
) -> str:
    """Submit, and return the id. Raises Full, Unanswered or Refused."""
    import submitit
    from submitit.core import utils

    tasks = [
        SlurmTask(
            str(store.root),
            batch.token,
            index,
            list(element),
            parallel=profile.pack_parallel,
            may_requeue=profile.requeue,
            threads=max(1, profile.cpus // profile.pack_parallel),
        )
        for index, element in enumerate(elements)
    ]
    reach("driver.sbatch.before")
    with slurm_commands.in_no_job(), contextlib.redirect_stderr(io.StringIO()):  # it prints what it raises
        # submitit tells a time-out from a preemption by the clock and counts both; our supervisor knows better.
        executor = submitit.SlurmExecutor(
            batch.folder, max_num_timeout=1_000_000, python=python_command(profile)
        )
        executor.update_parameters(**_parameters(batch, profile), **(options or {}))
        try:
            jobs = executor.submit_array(tasks) if len(tasks) > 1 else [executor.submit(tasks[0])]
        except (utils.FailedJobError, utils.FailedSubmissionError) as error:
            raise _meaning(error, profile) from None
    reach("driver.sbatch.after")
    return str(jobs[0].job_id).split("_")[0]


def _parameters(batch: Batch, profile: ClusterProfile) -> dict[str, Any]:
    """What submitit calls the profile's values."""
    further = {"reservation": profile.reservation, **profile.sbatch}
    further = {name.replace("_", "-"): value for name, value in further.items()}
    further = {key: value for key, value in further.items() if value is not None and value is not False}
    further["requeue" if profile.requeue else "no-requeue"] = True
    memory = profile.mem_megabytes
    parameters = {
        "job_name": batch.name,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "exclude": profile.exclude,
        "nodelist": profile.nodelist,
        "time": profile.time_minutes,
        "nodes": profile.nodes,
        "ntasks_per_node": profile.tasks_per_node,
        "cpus_per_task": profile.cpus,
        "gpus_per_node": profile.gpus * profile.tasks_per_node or None,
        "mem": None if memory is None else f"{memory}MB",
        "signal_delay_s": profile.signal_delay_seconds,
        "array_parallelism": profile.array_parallelism,
        "setup": setup_lines(profile) or None,
        "stderr_to_stdout": True,
        # srun does not take the cores from the job since 22.05, and one failed task ends the others of a trial alone.
        "srun_args": [f"--cpus-per-task={profile.cpus}", f"--kill-on-bad-exit={int(profile.tasks > 1)}"],
        "additional_parameters": further,
    }
    return {key: value for key, value in parameters.items() if value is not None}


def _meaning(error: Exception, profile: ClusterProfile) -> Exception:
    """What sbatch's complaint means for us."""
    said = " ".join(str(error).split())
    code = getattr(error.__cause__, "returncode", None)
    if not said or code is None or code < 0 or code > 128:  # killed, or its answer was not understood
        return Unanswered(
            f"sbatch ended without an answer ({said or f'code {code}'}): looking for the job by its name"
        )
    if _FULL.search(said):
        return Full(said)
    if _UNANSWERED.search(said):
        return Unanswered(f"sbatch was not answered ({said}): looking for the job by its name")
    return Refused(
        f"The cluster refuses such a job ({profile.name}): {said}\n"
        "Change the profile; `trb-lab check --cluster PROFILE` looks at each of its settings."
    )
