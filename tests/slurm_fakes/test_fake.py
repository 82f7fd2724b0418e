"""The fake cluster keeps the promises that the tests of launching rest on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import submitit

from . import FakeSlurm


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    with FakeSlurm(tmp_path / "cluster", kill_wait=0.3, requeue_delay=0.05) as slurm:
        for key, value in slurm.environment().items():
            monkeypatch.setenv(key, value)
        yield slurm


def call(*command: str, ok: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode == 0) == ok, done.stderr
    return done.stdout if ok else done.stderr


def script(tmp_path: Path, text: str, *options: str) -> str:
    """Submit a script; the job's id."""
    path = tmp_path / "job.sh"
    path.write_text("#!/bin/bash\n" + "".join(f"#SBATCH {o}\n" for o in options) + text)
    return call("sbatch", "--parsable", f"--output={tmp_path}/out-%j-%a.txt", str(path)).strip()


def executor(tmp_path: Path, **parameters: object) -> submitit.SlurmExecutor:
    found = submitit.SlurmExecutor(tmp_path / "submitit")
    found.update_parameters(**{"time": 5, "srun_args": ["--kill-on-bad-exit"], **parameters})
    return found


def where(number: int) -> dict[str, str | int]:
    keys = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "SLURM_NTASKS")
    return {"number": number, **{key: os.environ.get(key, "") for key in keys}}


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_submitit_runs_functions_through_it(slurm: FakeSlurm, tmp_path: Path):
    single = executor(tmp_path).submit(where, 7)
    array = executor(tmp_path, array_parallelism=2).map_array(where, [0, 1, 2])
    slurm.wait_idle()
    assert [job.job_id for job in (single, *array)] == ["101", "102_0", "102_1", "102_2"]
    assert single.result()["number"] == 7
    found = [job.result() for job in array]
    assert [f["SLURM_ARRAY_TASK_ID"] for f in found] == ["0", "1", "2"]
    assert (
        found[2]["SLURM_JOB_ID"] == found[2]["SLURM_ARRAY_JOB_ID"] == "102"
    )  # the last keeps the array's id
    assert single.get_info()["State"] == "COMPLETED"
    assert len(slurm.calls("sbatch")) == 2


def test_several_tasks_know_their_rank(slurm: FakeSlurm, tmp_path: Path):
    slurm.script(nodes=2)
    job = executor(tmp_path, nodes=2, ntasks_per_node=2).submit(where, 0)
    slurm.wait_idle()
    assert [r["SLURM_PROCID"] for r in job.results()] == ["0", "1", "2", "3"]
    assert call("scontrol", "show", "hostnames", "fake[1-2]").split() == ["fake1", "fake2"]


def test_the_queue_is_shown_as_slurm_shows_it(slurm: FakeSlurm, tmp_path: Path):
    slurm.script(cpus=3)
    script(tmp_path, "sleep 30\n", "--array=0-5%2", "--job-name=arr")
    form = "%i|%A|%T|%r|%N|%j|%u"
    assert call("squeue", "-h", "-o", form).splitlines() == [
        "101_0|102|RUNNING|None|fake1|arr|root",
        "101_1|103|RUNNING|None|fake1|arr|root",
        "101_[2-5%2]|104|PENDING|JobArrayTaskLimit||arr|root",
    ]
    assert "101_5|101|PENDING" in call("squeue", "-h", "-r", "-t", "all", "--me", "--name", "arr", "-o", form)
    assert call("squeue", "-h", "--name", "other") == ""
    assert call("sacct", "-n", "-X", "-P", "-j", "101", "-o", "JobID,State,NodeList").splitlines() == [
        "101_0|RUNNING|fake1",
        "101_1|RUNNING|fake1",
        "101_[2-5%2]|PENDING|None assigned",
    ]
    assert "101_3|PENDING" in call("sacct", "-n", "-X", "-P", "--array", "-j", "101_3", "-o", "JobID,State")
    assert "JobState=PENDING" in call("scontrol", "show", "job", "101_4")
    assert "Invalid job id" in call("scontrol", "show", "job", "999", ok=False)
    assert "MaxArraySize            = 1001" in call("scontrol", "show", "config")


def test_exit_codes_and_dependencies(slurm: FakeSlurm, tmp_path: Path):
    first = script(tmp_path, "sleep 2; exit 3\n")
    second = script(tmp_path, "kill -9 $$\n", f"--dependency=afterany:{first}")
    assert call("squeue", "-h", "-j", second, "-o", "%T %r") == "PENDING Dependency\n"
    slurm.wait_idle()
    lines = call("sacct", "-X", "-n", "-P", "-o", "JobID,State,ExitCode").splitlines()
    assert lines == ["101|FAILED|3:0", "102|FAILED|0:9"]


STUBBORN = "import signal, time; [signal.signal(n, lambda n, f: print('got', n, flush=True)) for n in (15, 12, 18)]; "
FOREVER = STUBBORN + "print('begun', flush=True); [time.sleep(0.05) for _ in range(999)]"


def step(tmp_path: Path, *options: str) -> str:
    return script(
        tmp_path, f'srun --output {tmp_path}/step-%j.txt "{sys.executable}" -c "{FOREVER}"\n', *options
    )


def begun(tmp_path: Path, times: int = 1) -> bool:
    return read(tmp_path / "step-101.txt").count("begun") == times


def test_scancel_asks_and_then_kills_whatever_is_left(slurm: FakeSlurm, tmp_path: Path):
    job = step(tmp_path)
    slurm.wait_for(lambda jobs: begun(tmp_path))
    pids = slurm.pids(job)
    assert len(pids) >= 3  # script, srun, task
    call("scancel", job)
    assert call("squeue", "-h", "-o", "%T") == "COMPLETING\n"
    slurm.wait_idle()
    assert slurm.jobs()[job]["state"] == "CANCELLED"
    assert {"got 18", "got 15"} <= set(read(tmp_path / "step-101.txt").splitlines())
    assert not any(read(Path(f"/proc/{pid}/cmdline")) for pid in pids)
    assert call("sacct", "-X", "-n", "-P", "-j", job, "-o", "State") == "CANCELLED by 0\n"
    call("scancel", job)  # has ended: no error
    call("scancel", "999")  # unknown: no error either


def test_scancel_signals_steps_alone(slurm: FakeSlurm, tmp_path: Path):
    job = step(tmp_path)
    slurm.wait_for(lambda jobs: begun(tmp_path))
    call("scancel", "--signal=USR2", job)
    slurm.wait_for(lambda jobs: "got 12" in read(tmp_path / "step-101.txt"))
    assert slurm.states() == {job: "RUNNING"}


def test_a_preempted_job_comes_back_with_the_same_id(slurm: FakeSlurm, tmp_path: Path):
    job = step(tmp_path)
    slurm.wait_for(lambda jobs: begun(tmp_path))
    slurm.preempt(job, grace=0.3)
    assert slurm.states() == {job: "RUNNING"}  # within its grace
    slurm.wait_for(lambda jobs: begun(tmp_path, 2))
    assert slurm.jobs()[job]["restarts"] == 1
    assert "got 15" in read(tmp_path / "step-101.txt")
    states = call("sacct", "-X", "-n", "-P", "-D", "-j", job, "-o", "State").split()
    assert states == ["PREEMPTED", "RUNNING"]


def test_a_job_requeues_itself(slurm: FakeSlurm, tmp_path: Path):
    again = "scontrol requeue $SLURM_JOB_ID; sleep 9"
    text = f"echo try ${{SLURM_RESTART_COUNT:-0}}\n[ $SLURM_RESTART_COUNT ] || {{ {again}; }}\n"
    job = script(tmp_path, text, "--open-mode=append")
    slurm.wait_idle()
    assert read(tmp_path / "out-101-4294967294.txt") == "try 0\ntry 1\n"
    assert slurm.states() == {job: "COMPLETED"}
    fixed = script(tmp_path, "sleep 9\n", "--no-requeue")
    assert "presently disabled" in call("scontrol", "requeue", fixed, ok=False)


def test_the_time_limit_warns_and_ends(slurm: FakeSlurm, tmp_path: Path):
    slurm.script(minute=5.0, kill_wait=0.1)
    job = step(tmp_path, "--time=1", "--signal=USR2@30")
    slurm.wait_idle()
    assert slurm.states() == {job: "TIMEOUT"}
    got = [line for line in read(tmp_path / "step-101.txt").splitlines() if line.startswith("got")]
    assert got.index("got 12") < got.index("got 15")


def test_nodes_fail_and_their_zombies_live_on(slurm: FakeSlurm, tmp_path: Path):
    job = step(tmp_path)
    slurm.wait_for(lambda jobs: begun(tmp_path))
    zombies = slurm.pids(job)
    slurm.node_fail(job, zombie=True)
    slurm.wait_for(lambda jobs: begun(tmp_path, 2))
    assert all(Path(f"/proc/{pid}").exists() for pid in zombies)
    slurm.node_fail(job)
    slurm.wait_for(lambda jobs: begun(tmp_path, 3))
    slurm.out_of_memory(job)
    slurm.wait_for(lambda jobs: jobs[job]["state"] == "OUT_OF_MEMORY")
    slurm.stop()
    time.sleep(0.05)
    assert not any(read(Path(f"/proc/{pid}/cmdline")) for pid in zombies)


def test_scripted_faults(slurm: FakeSlurm, tmp_path: Path):
    slurm.script(start=False, sbatch=["accepted", "timeout", "unavailable", None], max_submit=3)
    with pytest.raises(AssertionError, match="Socket timed out"):
        script(tmp_path, "true\n")
    with pytest.raises(AssertionError, match="Socket timed out"):
        script(tmp_path, "true\n")
    with pytest.raises(AssertionError, match="Unable to contact"):
        script(tmp_path, "true\n")
    assert script(tmp_path, "true\n") == "102"
    with pytest.raises(AssertionError, match="QOSMaxSubmitJobPerUserLimit"):
        script(tmp_path, "true\n", "--array=0-1")
    assert slurm.states() == {"101": "PENDING", "102": "PENDING"}
    slurm.script(squeue=["fail", None], sacct="fail", states={"101": "TELEPORTING"}, reason="ReqNodeNotAvail")
    assert "Unable to contact" in call("squeue", ok=False)
    assert call("squeue", "-h", "-o", "%i %T %r").splitlines() == [
        "101 TELEPORTING ReqNodeNotAvail",
        "102 PENDING ReqNodeNotAvail",
    ]
    assert "Connection refused" in call("sacct", ok=False)
    slurm.script(sacct=None, sacct_lag=1)
    ask = ("sacct", "-X", "-n", "-P", "-o", "JobID,State")
    assert call(*ask) == ""
    assert call(*ask).startswith("101|TELEPORTING")
    slurm.script(unreachable=True)
    assert "Unable to contact" in call("scontrol", "ping", ok=False)


def test_refusals(slurm: FakeSlurm, tmp_path: Path):
    slurm.script(max_array_size=4)
    for option, words in (
        ("--partition=none", "invalid partition specified: none"),
        ("--array=0-4", "Invalid job array specification"),
        ("--cpus-per-task=99", "node configuration is not available"),
        ("--time=9-00:00:00", "time limit is invalid"),
        ("--nonsense=1", "unrecognized option"),
    ):
        with pytest.raises(AssertionError, match=words):
            script(tmp_path, "true\n", option)


def test_an_id_is_used_again_by_somebody_else(slurm: FakeSlurm, tmp_path: Path):
    job = script(tmp_path, "true\n")
    slurm.wait_idle()
    slurm.stranger(int(job))
    assert call("squeue", "-h", "-o", "%i %u %j") == "101 mallory theirs\n"
    assert call("squeue", "-h", "--me") == ""
    assert "denied" in call("scancel", job, ok=False)
    slurm.next_id(50)
    assert script(tmp_path, "true\n") == "50"


def test_a_thousand_dry_elements_cost_little(slurm: FakeSlurm, tmp_path: Path):
    runs = [f"r{i}" for i in range(1000)]
    for run in runs:
        folder = tmp_path / "store" / "trials" / run
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    batch = tmp_path / "store" / "slurm" / "token"
    batch.mkdir(parents=True)
    (batch / "batch.json").write_text(json.dumps({"elements": [[f"trials/{run}"] for run in runs]}))
    slurm.script(cpus=500, dry={"advances": 1}, max_array_size=5000)
    (tmp_path / "job.sh").write_text("#!/bin/bash\nfalse\n")
    call("sbatch", "--array=0-999", f"--output={batch}/%A_%a.out", str(tmp_path / "job.sh"))
    cpu = os.times()
    slurm.wait_idle()
    spent = os.times()
    assert sum(spent[:2]) - sum(cpu[:2]) < 5
    assert all((tmp_path / "store" / "trials" / run / "result.json").exists() for run in runs)


def test_stopping_leaves_nobody(slurm: FakeSlurm, tmp_path: Path):
    job = step(tmp_path)
    slurm.wait_for(lambda jobs: begun(tmp_path))
    pids = slurm.pids(job)
    slurm.stop()
    time.sleep(0.05)
    assert not any(read(Path(f"/proc/{pid}/cmdline")) for pid in pids)
