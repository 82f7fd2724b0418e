"""Gives the tasks of a job the names that submitit looks for, where the driver died before it did so itself."""

from __future__ import annotations

from .batches import Batch
from .slurm_task import SlurmTask


def name_pickles(batch: Batch, job_id: str) -> None:
    """Name what submitit wrote before it called sbatch after the job's id, which was found later.

    An element waits for a minute for its task; what comes later than that is run again by the driver.
    """
    from submitit.core.utils import DelayedSubmission, JobPaths

    for path in sorted(batch.folder.glob("*.pkl")):
        if "_submitted" in path.name or "_result" in path.name:
            continue
        task = DelayedSubmission.load(path).function
        assert isinstance(task, SlurmTask)
        element = f"{job_id}_{task.index}" if len(batch.elements) > 1 else job_id
        JobPaths(batch.folder, element).move_temporary_file(path, "submitted_pickle")
