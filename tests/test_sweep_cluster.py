"""A sweep on a cluster: attached, detached, driven by a job, followed by another driver, looked at, cancelled."""

from __future__ import annotations

import errno
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trb_lab.cli import main
from trb_lab.driver import cancelling, cleanup, overview
from trb_lab.driver import cluster as driver_cluster
from trb_lab.driver.cluster import cluster_of
from trb_lab.driver.plan import plan_sweep
from trb_lab.errors import LabError, UsageError
from trb_lab.launch import slurm, slurm_jobs
from trb_lab.store import locks
from trb_lab.store.run_dir import read_json

from .launch.conformance import wait_for
from .slurm_fakes import FakeSlurm
from .sweep_fakes import TESTS, Lab, patch

pytest.importorskip("submitit")
pytestmark = pytest.mark.long
LONG = {"": {"pause": 0.05, "steps": 10_000}, "teacher": {}, "student": {}}
PROFILE = """
name: fake
partition: main
time: 60m
poll_seconds: 0.1
array_parallelism: 3
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    with FakeSlurm(tmp_path / "cluster", kill_wait=1.0, requeue_delay=0.05, cpus=6) as cluster:
        for key, value in cluster.environment().items():
            monkeypatch.setenv(key, value)
        yield cluster


@pytest.fixture
def lab(tmp_path: Path, cluster: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> Lab:
    patch(monkeypatch.setattr)
    monkeypatch.setattr(slurm_jobs, "GONE_SECONDS", 0.3)
    monkeypatch.setattr(slurm, "FULL_SECONDS", 0.1)
    monkeypatch.setattr(cancelling, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(overview, "ASK_SECONDS", 0.1)
    monkeypatch.setattr(driver_cluster, "mlflow_is_here", lambda: False)
    lab = Lab(tmp_path)
    lab.edit("[0.01, 0.1]", "[0.1]")  # 4 trials and 2 references
    (tmp_path / "profile.yaml").write_text(PROFILE)
    monkeypatch.setenv("FAKE_WORKER", str(lab.behaviour_file))
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    return lab


def run(lab: Lab, *, detach: bool = False, **kwargs: Any) -> int:
    return lab.run(cluster=cluster_of(lab.root / "profile.yaml", detach=detach), **kwargs)


def status(lab: Lab, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    overview.show_status(lab.store, "fake", as_json=True)
    return json.loads(capsys.readouterr().out)


def profile(lab: Lab, text: str) -> None:
    (lab.root / "profile.yaml").write_text(PROFILE + text)


def submissions(cluster: FakeSlurm) -> int:
    return len(cluster.calls("sbatch"))


def test_a_sweep_runs_on_a_cluster_once_and_then_nothing(
    lab: Lab, cluster: FakeSlurm, capsys: pytest.CaptureFixture[str]
):
    assert run(lab) == 0
    out = capsys.readouterr().out
    assert "On fake (partition main): 6 runs in a job each; a job asks for 1 core, 60m of time." in out
    assert "At most 3 jobs of an array run at once." in out
    assert set(lab.states().values()) == {"completed"}
    before = submissions(cluster)
    assert run(lab) == 0
    assert (submissions(cluster), lab.attempts()) == (before, 6)


def test_a_driver_that_is_stopped_leaves_its_jobs_and_the_next_follows_them(lab: Lab, cluster: FakeSlurm):
    lab.behave({**LONG, "": {"pause": 0.05, "steps": 60}})
    with lab.driver("--on", str(lab.root / "profile.yaml")) as driver:
        lab.wait_for_steps(2)
        driver.send_signal(signal.SIGINT)
        out, _ = driver.communicate(timeout=20)
        assert driver.returncode == 128 + signal.SIGINT
        assert "what the cluster has goes on without this driver" in out
        assert "To follow again: trb-lab sweep" in out
        assert f"--on {lab.root / 'profile.yaml'}" in out
        assert "trb-lab cancel fake" in out
        before = submissions(cluster)
        places = slurm_jobs.places(lab.store)
        counts = plan_sweep(lab.path, lab.store, places=places).counts()
        assert counts["attach"] + counts["adopt"] == 4  # also what has not begun
        assert run(lab) == 0
    assert (submissions(cluster), lab.attempts()) == (before, 6)


def test_a_detached_sweep_is_submitted_whole_with_a_job_for_its_report(
    lab: Lab, cluster: FakeSlurm, capsys: pytest.CaptureFixture[str]
):
    cluster.script(start=False)
    assert run(lab, detach=True) == 0
    out = capsys.readouterr().out
    assert "6 runs submitted; job 107 makes the report once they have ended" in out
    assert not locks.is_held(lab.store.sweep("fake").driver_lock)
    found = status(lab, capsys)["sweeps"][0]
    assert found["counts"] == {"waiting": 4}
    assert all(t["where"].startswith("waits") and t["job"].startswith("101_") for t in found["trials"])
    assert "--dependency=afterany:101" in Path(cluster.calls("sbatch")[-1][-1]).read_text()
    cluster.script(start=True)
    cluster.wait_idle(120)
    assert set(lab.states().values()) == {"completed"}
    # The real report of fake runs: whatever it makes of them, it has been at work.
    assert lab.store.sweep("fake").driver_job_log.exists()


def test_what_does_not_fit_waits_for_the_same_command(
    lab: Lab, cluster: FakeSlurm, capsys: pytest.CaptureFixture[str]
):
    cluster.script(max_submit=5, start=False)
    profile(lab, "max_jobs: 4\n")
    assert run(lab, detach=True) == 1
    captured = capsys.readouterr()
    assert "4 runs submitted" in captured.out
    assert "2 runs do not fit under the cluster's limits now and wait for the same command" in captured.err
    cluster.script(max_submit=None, start=True)
    assert run(lab) == 0
    assert set(lab.states().values()) == {"completed"}
    assert lab.attempts() == 6


def test_a_report_that_does_not_fit_leaves_the_trials_submitted(
    lab: Lab, cluster: FakeSlurm, capsys: pytest.CaptureFixture[str]
):
    cluster.script(max_submit=6, start=False)
    assert run(lab, detach=True) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("fake: 4 trials")
    assert "6 runs submitted.\n" in captured.out
    assert "The report job was not submitted: " in captured.err
    assert "trb-lab report fake" in captured.err
    assert list(cluster.states().values()) == ["PENDING"] * 6


def test_what_was_cancelled_while_no_driver_ran_stays_cancelled(lab: Lab, cluster: FakeSlurm):
    lab.edit("seeds: [0, 1]", "seeds: [0]")
    cluster.script(start=False)
    run(lab, detach=True)
    for job in cluster.jobs():
        cluster.cancel(job)
    cluster.script(start=True)
    before = submissions(cluster)
    assert run(lab) == 0
    assert set(lab.states().values()) == {"cancelled"}
    assert (submissions(cluster), lab.attempts()) == (before, 0)
    assert run(lab, retry_failed=frozenset({"cancelled"})) == 0
    assert set(lab.states().values()) == {"completed"}
    assert lab.attempts() == 4


def test_the_driver_may_be_a_job(lab: Lab, cluster: FakeSlurm, capsys: pytest.CaptureFixture[str]):
    assert run(lab) == 0
    capsys.readouterr()
    place = ["--store", str(lab.store.root)]
    command = [*place, "sweep", str(lab.path), "--on", str(lab.root / "profile.yaml"), "--driver", "slurm"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "on fake drives the sweep. To follow it: trb-lab logs fake --follow" in out
    assert main([*place, "logs", "fake", "--follow"]) == 0
    assert "fake: 4 trials: 4 adopt" in (log := capsys.readouterr().out)
    assert "no driver of 'fake' runs" in log
    cluster.wait_idle()
    assert lab.attempts() == 6


def test_logs_of_a_run_that_waits_say_why(lab: Lab, cluster: FakeSlurm, capsys: pytest.CaptureFixture[str]):
    cluster.script(start=False, reason="QOSMaxJobsPerUserLimit")
    run(lab, detach=True)
    capsys.readouterr()
    overview.show_logs(lab.store, "opd-s0")
    out = capsys.readouterr().out
    assert " is waiting (job 101_" in out
    assert "waits: QOSMaxJobsPerUserLimit) and has printed nothing." in out
    overview.show_status(lab.store)
    header = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("run id"))
    assert header.split()[-4:] == ["pass@1", "job", "where", "why"]


def test_status_asks_slurm_twice_and_works_without_it(
    lab: Lab, cluster: FakeSlurm, capsys: pytest.CaptureFixture[str]
):
    lab.behave(LONG)
    run(lab, detach=True)
    lab.wait_for_steps(2)
    before = len(cluster.calls("squeue")) + len(cluster.calls("sacct"))
    states = status(lab, capsys)["sweeps"][0]["counts"]
    assert states.get("running", 0) >= 2
    assert len(cluster.calls("squeue")) + len(cluster.calls("sacct")) - before <= 2
    cluster.script(unreachable=True)
    found = status(lab, capsys)
    assert found["cluster_answers"] is False
    assert set(found["sweeps"][0]["counts"]) <= {"running", "waiting"}  # unknown means live
    overview.show_status(lab.store)
    assert capsys.readouterr().out.splitlines()[-1].startswith("Slurm does not answer: a run that it had")
    # A second driver would submit nothing either: what the cluster had may live.
    assert plan_sweep(lab.path, lab.store, places=slurm_jobs.places(lab.store)).counts()["attach"] == 4


def test_cancelling_takes_out_of_the_queue_and_lets_workers_save(
    lab: Lab, cluster: FakeSlurm, capsys: pytest.CaptureFixture[str]
):
    lab.behave(LONG)
    run(lab, detach=True)
    lab.wait_for_steps(2)
    with pytest.raises(UsageError, match="--yes"):
        cancelling.cancel(lab.store, "fake")
    cancelling.cancel(lab.store, "fake/trb", yes=True)
    out = capsys.readouterr().out
    assert "in the cluster's queue" in out
    assert "2 trials cancelled" in out
    states = {state for run_id, state in lab.states().items() if run_id.startswith("trb")}
    assert states == {"cancelled"}
    cancelling.cancel(lab.store, "fake", yes=True)
    assert set(lab.states().values()) == {"cancelled"}
    cluster.wait_idle()  # the report's job too
    for trial in lab.store.trials():
        events = trial.attempts.read_text().splitlines()
        assert json.loads(events[-1])["state"] == "cancelled"
    lab.behave({})
    assert len(list(cleanup.find_items(lab.store, ["failed"]))) >= 4
    cluster.script(start=False)
    assert run(lab, detach=True, retry_failed=frozenset({"cancelled"})) == 0
    assert not list(cleanup.find_items(lab.store, ["failed"]))  # the queue has them again
    cluster.script(start=True)
    assert run(lab) == 0
    assert set(lab.states().values()) == {"completed"}


def test_what_cannot_be_cancelled_is_named(lab: Lab, cluster: FakeSlurm, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cancelling, "CANCEL_SECONDS", 0.3)
    cluster.script(start=False)
    run(lab, detach=True)
    cluster.script(scancel="fail")
    with pytest.raises(LabError, match=r"opd-s0-\w+: ") as caught:
        cancelling.cancel(lab.store, "fake/opd", yes=True)
    assert str(caught.value).startswith("Not stopped:\n")
    assert caught.value.exit_code == 1


def test_cancelling_a_sweep_stops_the_driver_that_is_a_job(lab: Lab, cluster: FakeSlurm):
    cluster.script(start=False)
    run(lab, detach=True)
    cancelling.cancel(lab.store, "fake", yes=True)
    wait_for(lambda: set(cluster.states().values()) == {"CANCELLED"})
    assert overview.driver_jobs(lab.store, lab.store.sweep("fake")) == {}


def test_dry_run_says_what_would_be_asked(lab: Lab, cluster: FakeSlurm, capsys: pytest.CaptureFixture[str]):
    profile(lab, "pack: 3\ngpus: 2\nmem: 8GB\nmax_jobs: 9\n")
    assert run(lab, dry_run=True) == 0
    out = capsys.readouterr().out
    assert "6 runs in 2 jobs of up to 3; a job asks for 2 GPUs and 1 core, 8GB of memory, 60m" in out
    assert "and 9 of our jobs are in the queue." in out
    assert not lab.store.root.exists()
    assert all(
        call == ["show", "config"] for call in cluster.calls()
    )  # its limits are asked, and nothing is told


def test_a_full_disk_after_the_submission_loses_nothing(
    lab: Lab, cluster: FakeSlurm, monkeypatch: pytest.MonkeyPatch
):
    def fail(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(lab.store.root))

    monkeypatch.setattr("trb_lab.launch.batches.submitted", fail)
    with pytest.raises(LabError, match="the disk is full"):
        run(lab)
    monkeypatch.undo()
    for key, value in cluster.environment().items():
        monkeypatch.setenv(key, value)
    cluster.wait_idle(120)
    patch(monkeypatch.setattr)
    assert run(lab) == 0
    assert submissions(cluster) == 1  # the job was found by its name
    assert read_json(lab.store.sweep("fake").plan)["name"] == "fake"
