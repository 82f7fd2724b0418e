"""What Slurm prints, and what we make of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from trb_lab.launch import batches, slurm_commands
from trb_lab.launch.base import End, JobStatus, Phase
from trb_lab.launch.batches import Event
from trb_lab.launch.slurm_commands import Line, SlurmError, expand
from trb_lab.launch.slurm_jobs import _of_run
from trb_lab.launch.slurm_states import Standing, standing
from trb_lab.launch.slurm_submit import Full, Refused, Unanswered, _meaning
from trb_lab.launch.slurm_task import gpu_share
from trb_lab.spec.cluster import ClusterProfile
from trb_lab.store.run_dir import Store


@pytest.mark.parametrize(
    ("state", "phase", "end"),
    [
        ("PENDING", Phase.WAITING, None),
        ("CONFIGURING", Phase.WAITING, None),
        ("REQUEUE_HOLD", Phase.WAITING, None),
        ("RUNNING", Phase.RUNNING, None),
        ("SUSPENDED", Phase.RUNNING, None),
        ("COMPLETING", Phase.RUNNING, None),
        ("TELEPORTING", Phase.RUNNING, None),
        ("", Phase.RUNNING, None),
        ("COMPLETED", Phase.ENDED, End.EXITED),
        ("FAILED", Phase.ENDED, End.EXITED),
        ("CANCELLED by 1000", Phase.ENDED, End.CANCELLED),
        ("CANCELLED+", Phase.ENDED, End.CANCELLED),
        ("TIMEOUT", Phase.ENDED, End.TIME_LIMIT),
        ("OUT_OF_MEMORY", Phase.ENDED, End.OUT_OF_MEMORY),
        ("NODE_FAIL", Phase.ENDED, End.NODE_FAILURE),
        ("PREEMPTED", Phase.ENDED, End.PREEMPTED),
    ],
)
def test_a_state_says_whether_a_worker_may_live(state: str, phase: Phase, end: End | None):
    assert (standing(state).phase, standing(state).end) == (phase, end)


def test_a_standing_says_where_or_why_not():
    assert standing("PENDING", "Resources").where == "waits: Resources"
    assert standing("RUNNING", "None", "node7").where == "node7"
    assert standing("SUSPENDED", "None", "node7").where == "node7 suspended"


def test_parts_of_an_array_are_told_apart():
    assert expand("12_[0-2,7%4]") == ["12_0", "12_1", "12_2", "12_7"]
    assert expand("12_3") == ["12_3"]
    assert expand("12") == ["12"]


def test_the_queue_is_read_by_fields(commands: Commands):
    commands.say(
        "squeue", "12_0|RUNNING|trb-ab|node7|None\n12_1|PENDING|trb-ab||(a|b) odd\nslurm: a warning\n"
    )
    assert slurm_commands.queue() == [
        Line("12_0", "RUNNING", "trb-ab", "node7", "None"),
        Line("12_1", "PENDING", "trb-ab", "", "(a|b) odd"),
    ]


def test_the_accounting_is_read_by_fields(commands: Commands):
    commands.say("sacct", "12_[0-1]|PENDING|trb-ab|None assigned\n13|CANCELLED by 0|x|node7\n")
    assert [line.element for line in slurm_commands.accounting(["12", "13"])] == ["12_0", "12_1", "13"]


@pytest.mark.parametrize(("said", "size"), [("301", 301), ("0", 1)])
def test_the_largest_array_comes_from_the_configuration(commands: Commands, said: str, size: int):
    commands.say("scontrol", f"MaxArraySize            = {said}\nMaxJobCount             = 5000\n")
    assert slurm_commands.largest_array() == size


def test_a_command_that_fails_says_so_in_words(commands: Commands):
    commands.say("squeue", "slurm_load_jobs error: Unable to contact slurm controller", code=1)
    with pytest.raises(SlurmError, match="squeue failed: slurm_load_jobs error"):
        slurm_commands.queue()
    with pytest.raises(SlurmError, match="sbatch-that-is-not-there is not installed"):
        slurm_commands.call(["sbatch-that-is-not-there"])


def test_a_job_is_found_by_its_name_in_the_queue_and_then_in_the_accounting(commands: Commands):
    commands.say("squeue", "41_0|RUNNING|trb-ab|n|None\n")
    commands.say("sacct", "")
    assert slurm_commands.job_named("trb-ab", since=0.0) == "41"
    commands.say("squeue", "")
    assert slurm_commands.job_named("trb-ab", since=0.0) is None
    commands.say("sacct", "39_0|trb-ab\n40|other\n")
    assert slurm_commands.job_named("trb-ab", since=0.0) == "39"


def test_commands_run_outside_any_job(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    assert "SLURM_JOB_ID" not in slurm_commands.outside_any_job()
    assert slurm_commands.outside_any_job()["SLURM_CONF"] == "/etc/slurm.conf"
    with slurm_commands.in_no_job():
        assert "SLURM_JOB_ID" not in os.environ
    assert os.environ["SLURM_JOB_ID"] == "7"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit sbatch: error: Batch job submission failed: Job violates", Full),
        ("sbatch: error: AssocMaxSubmitJobLimit sbatch: error: Batch job submission failed", Full),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", Unanswered),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller", Unanswered),
        ("sbatch: error: invalid partition specified: gpus", Refused),
        ("sbatch: error: QOSMaxWallDurationPerJobLimit sbatch: error: Job violates accounting/QOS policy", Refused),
    ],
)  # fmt: skip
def test_a_refusal_now_is_told_from_one_for_good(said: str, kind: type[Exception]):
    assert isinstance(_meaning(complaint(said, 1), ClusterProfile()), kind)


@pytest.mark.parametrize(("said", "code"), [("", -9), ("", 143), ("sbatch: Submitted job", None)])
def test_an_sbatch_that_died_or_mumbled_may_have_worked(said: str, code: int | None):
    assert isinstance(_meaning(complaint(said, code), ClusterProfile()), Unanswered)


def complaint(said: str, code: int | None) -> Exception:
    """As submitit raises it: the command's failure is its cause, where the command failed."""
    error = RuntimeError(said)
    error.__cause__ = None if code is None else subprocess.CalledProcessError(code, ["sbatch"])
    return error


def event(what: str, **values: object) -> Event:
    return Event(what, "trials/a", 1.0, 0, "node7", **values)  # type: ignore[arg-type]


SAVED = event("interrupted", exit_code=130, end=End.PREEMPTED)


@pytest.mark.parametrize(
    ("element", "noted", "packed", "phase", "end"),
    [
        (standing("RUNNING"), event("start"), False, Phase.RUNNING, None),
        (standing("RUNNING"), None, False, Phase.RUNNING, None),
        (standing("RUNNING"), None, True, Phase.WAITING, None),
        (standing("RUNNING"), event("end", exit_code=1), True, Phase.ENDED, End.EXITED),
        (standing("RUNNING"), event("end", exit_code=-9), False, Phase.RUNNING, None),
        (standing("FAILED"), event("end", exit_code=-9), False, Phase.ENDED, End.EXITED),
        (standing("OUT_OF_MEMORY"), event("end", exit_code=-9), False, Phase.ENDED, End.OUT_OF_MEMORY),
        (standing("OUT_OF_MEMORY"), None, True, Phase.ENDED, End.PREEMPTED),
        (standing("TIMEOUT"), None, True, Phase.ENDED, End.PREEMPTED),
        (standing("TIMEOUT"), event("interrupted", end=End.PREEMPTED), True, Phase.ENDED, End.PREEMPTED),
        (standing("CANCELLED"), event("interrupted", end=End.PREEMPTED), True, Phase.ENDED, End.CANCELLED),
        (standing("TIMEOUT"), SAVED, True, Phase.ENDED, End.TIME_LIMIT),
        (standing("TIMEOUT"), None, False, Phase.ENDED, End.TIME_LIMIT),
        (standing("PENDING"), event("interrupted", end=End.PREEMPTED), False, Phase.WAITING, None),
        (standing("COMPLETED"), event("interrupted", end=End.TIME_LIMIT), False, Phase.ENDED, End.TIME_LIMIT),
        (standing("CANCELLED"), event("interrupted", end=End.PREEMPTED), False, Phase.ENDED, End.CANCELLED),
        (standing("COMPLETED"), event("start"), False, Phase.ENDED, End.UNSEEN),
        (standing("NODE_FAIL"), event("start"), False, Phase.ENDED, End.NODE_FAILURE),
    ],
)
def test_a_run_is_placed_by_its_element_and_what_that_noted(
    element: Standing, noted: Event | None, packed: bool, phase: Phase, end: End | None
):
    status: JobStatus = _of_run(element, noted, packed)
    assert (status.phase, status.end) == (phase, end)


def test_gpus_of_a_job_are_shared_evenly():
    assert [gpu_share(["0", "1", "2", "3"], place, 4) for place in range(4)] == [["0"], ["1"], ["2"], ["3"]]
    assert [gpu_share(["4", "5"], place, 1) for place in range(1)] == [["4", "5"]]
    assert [gpu_share(["0", "1"], place, 4) for place in range(4)] == [["0"], ["1"], ["0"], ["1"]]


def test_an_element_keeps_the_last_word_on_each_run(tmp_path: Path):
    batch = batches.create(Store(tmp_path), "s", "trials", "dev", [["trials/a", "trials/b"]])
    log = batch.log(0)
    log.append(event("start"))
    with open(log.path, "a") as f:
        f.write('{"event": "en')  # torn by a death
    log.append(event("end", exit_code=0))
    assert log.last()["trials/a"].event == "end"
    assert "trials/b" not in log.last()


def test_batches_are_found_again_until_they_are_over(tmp_path: Path):
    store = Store(tmp_path)
    batch = batches.create(store, "s", "trials", "dev", [["trials/a"]])
    files = batches.BatchFiles(store)
    assert [found.job_id for found in files.open()] == [None]
    batch = batches.submitted(batch, "12")
    assert files.open() == [batch]
    assert batch.element(0) == "12"
    batches.close(batch)
    assert files.open() == []


class Commands:
    """Stands for Slurm's commands: each prints what it was told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def say(self, name: str, text: str, code: int = 0) -> None:
        (self.folder / f"{name}.txt").write_text(text)
        script = self.folder / name
        stream = ">&2" if code else ""
        script.write_text(f"#!/bin/sh\ncat {self.folder}/{name}.txt {stream}\nexit {code}\n")
        script.chmod(0o755)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    found = Commands(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return found
