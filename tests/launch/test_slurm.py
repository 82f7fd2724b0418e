"""The Slurm launcher on a fake cluster: the suite of every launcher, and what only a cluster can do to it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from trb_lab.launch import batches, claim, slurm, slurm_cancel, slurm_jobs
from trb_lab.launch.base import End, Job, JobStatus, Launcher, Phase
from trb_lab.launch.batches import BatchFiles, ElementLog, Piece
from trb_lab.launch.follow import Fleet, Member
from trb_lab.launch.slurm import SlurmLauncher
from trb_lab.launch.slurm_jobs import JobBook, Place
from trb_lab.launch.slurm_task import SlurmTask, Supervisor
from trb_lab.spec.cluster import ClusterProfile
from trb_lab.store.run_dir import Store, read_json, write_json
from trb_lab.store.status import attempt_count, begin_attempt, end_attempt, last_error, state_of
from trb_lab.store.status import cancel as mark_cancelled

from ..slurm_fakes import FakeSlurm
from .conformance import REPOSITORY, LauncherConformance, fake_command, wait_for

pytestmark = pytest.mark.long

LONG = {"pause": 0.05, "steps": 10_000}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    with FakeSlurm(tmp_path / "cluster", kill_wait=1.0, requeue_delay=0.05) as cluster:
        for key, value in cluster.environment().items():
            monkeypatch.setenv(key, value)
        yield cluster


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a driver waits for minutes, it waits for an instant here."""
    monkeypatch.setattr(slurm_jobs, "GONE_SECONDS", 0.3)
    monkeypatch.setattr(slurm_jobs, "UNBORN_SECONDS", 0.3)
    monkeypatch.setattr(slurm, "FULL_SECONDS", 0.1)


def profile(**values: object) -> ClusterProfile:
    return ClusterProfile.model_validate({"name": "fake", "time": "60m", **values})


class TestSlurmLauncher(LauncherConformance):
    @pytest.fixture
    def launcher(self, store: Store, cluster: FakeSlurm) -> SlurmLauncher:
        return SlurmLauncher(store, profile(), "sweep", slots=2, command=fake_command)


class Bench:
    """A store of fake runs and launchers for it, one driver after the other."""

    def __init__(self, root: Path, cluster: FakeSlurm) -> None:
        self.cluster, self.store = cluster, Store(root / "runs")
        self.behaviour = root / "behaviour.json"

    def job(self, name: str, **behaviour: float) -> Job:
        run_dir = self.store.trial(name)
        write_json(run_dir.config, {"run_id": name, "spec": {"steps": 3}})
        known = json.loads(self.behaviour.read_text()) if self.behaviour.exists() else {}
        self.behaviour.write_text(json.dumps({**known, name: behaviour}))
        return Job(run_dir)

    def launcher(self, **values: object) -> SlurmLauncher:
        slots = values.pop("slots", None)
        assert slots is None or isinstance(slots, int)
        return SlurmLauncher(self.store, profile(**values), "sweep", slots, fake_command)

    def submitted(self, *names: str, **values: object) -> SlurmLauncher:
        """A launcher that was given jobs (known or new ones) and has submitted them."""
        launcher = self.launcher(**values)
        for name in names:
            launcher.submit(
                Job(self.store.trial(name)) if self.store.trial(name).path.exists() else self.job(name)
            )
        launcher.poll()
        return launcher

    def submissions(self) -> int:
        return len(self.cluster.calls("sbatch"))

    def live(self, name: str) -> bool:
        return claim.live_worker(self.store.trial(name)) is not None

    def steps(self, name: str) -> list[int]:
        metrics = self.store.trial(name).metrics
        text = metrics.read_text() if metrics.exists() else ""
        return [json.loads(line)["step"] for line in text.splitlines()]

    def working(self, *names: str) -> None:
        """Until they have made a step."""
        wait_for(lambda: all(self.live(name) and self.steps(name) for name in names))


@pytest.fixture
def bench(tmp_path: Path, cluster: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(tmp_path, cluster)
    monkeypatch.setenv("FAKE_WORKER", str(bench.behaviour))
    monkeypatch.setenv("PYTHONPATH", REPOSITORY)
    return bench


def drain(launcher: Launcher) -> dict[str, JobStatus]:
    wait_for(lambda: all(s.phase is Phase.ENDED for s in launcher.poll().values()))
    return dict(launcher.poll())


def follow(launcher: Launcher, *jobs: Job) -> Fleet:
    """Follow jobs to their end, as a driver does."""
    fleet = Fleet(launcher, [Member(job, steps=3) for job in jobs])
    to_its_end(fleet)
    return fleet


def to_its_end(fleet: Fleet) -> None:
    def over() -> bool:
        fleet.tick()
        return fleet.done

    wait_for(over)


def standings(fleet: Fleet) -> dict[str, str]:
    return {run_id: member.standing for run_id, member in fleet.members.items()}


# --- limits


def test_arrays_stay_below_the_clusters_limit(bench: Bench):
    bench.cluster.script(max_array_size=4, start=False)
    bench.submitted(*(f"r{i}" for i in range(10)))
    sizes = [len(batch.elements) for batch in BatchFiles(bench.store).open()]
    assert sum(sizes) == 10
    assert max(sizes) <= 4
    assert bench.submissions() == 3


def test_a_full_queue_is_fed_as_places_free_up(bench: Bench):
    bench.cluster.script(max_submit=2, cpus=2)
    jobs = [bench.job(f"r{i}") for i in range(5)]
    launcher = bench.launcher()
    fleet = follow(launcher, *jobs)
    assert set(standings(fleet).values()) == {"completed"}
    assert [attempt_count(job.run_dir) for job in jobs] == [1] * 5


def test_a_refusal_for_want_of_room_is_told_and_no_failure(bench: Bench):
    bench.cluster.script(max_submit=0)
    launcher = bench.submitted("r0")
    status = launcher.poll()["r0"]
    assert status.phase is Phase.WAITING
    assert "takes no more jobs" in status.where
    assert BatchFiles(bench.store).open() == []


def test_a_profile_bounds_our_jobs_in_the_queue(bench: Bench):
    bench.cluster.script(start=False)
    launcher = bench.submitted(*(f"r{i}" for i in range(5)), max_jobs=2)
    assert len(bench.cluster.jobs()) == 2
    assert sum(s.phase is Phase.WAITING for s in launcher.poll().values()) == 5


def test_short_trials_share_a_job(bench: Bench):
    jobs = [bench.job(f"r{i}") for i in range(5)]
    launcher = bench.launcher(pack=3, pack_parallel=2)
    fleet = follow(launcher, *jobs)
    assert set(standings(fleet).values()) == {"completed"}
    assert len(bench.cluster.jobs()) == 2


def test_a_failure_in_a_shared_job_is_that_trials_alone(bench: Bench):
    jobs = [bench.job("good"), bench.job("bad", fail_at=1), bench.job("last")]
    fleet = follow(bench.launcher(pack=3), *jobs)
    assert standings(fleet) == {"good": "completed", "bad": "failed", "last": "completed"}
    assert len(bench.cluster.jobs()) == 1


def test_one_trial_of_a_shared_job_is_cancelled_alone(bench: Bench):
    for name in ("a", "b"):
        bench.job(name, **LONG)
    launcher = bench.submitted("a", "b", pack=2, pack_parallel=2)
    bench.working("a", "b")
    launcher.cancel("a")
    wait_for(lambda: launcher.poll()["a"].phase is Phase.ENDED)
    assert state_of(bench.store.trial("a")) == "interrupted"
    assert launcher.poll()["b"].phase is Phase.RUNNING


@pytest.mark.parametrize(
    ("state", "end"), [("TIMEOUT", End.TIME_LIMIT), ("OUT_OF_MEMORY", End.OUT_OF_MEMORY)]
)
def test_a_run_that_waits_its_turn_shares_no_fault_of_its_job(bench: Bench, state: str, end: End):
    for name in ("a", "b"):
        bench.job(name, **LONG)
    launcher = bench.submitted("a", "b", pack=2)
    bench.working("a")
    bench.cluster.finish_all(state)
    assert {run_id: status.end for run_id, status in drain(launcher).items()} == {
        "a": end,
        "b": End.PREEMPTED,
    }


def test_a_run_that_waits_its_turn_has_not_used_up_the_time_of_its_job(bench: Bench):
    for name in ("a", "b"):
        bench.job(name, **LONG)
    launcher = bench.submitted("a", "b", pack=2)
    bench.working("a")
    bench.cluster.time_limit("101")  # its supervisor still notes what it leaves
    bench.cluster.wait_idle()
    (batch,) = BatchFiles(bench.store).open()
    assert batch.log(0).last()["trials/b"].event == "interrupted"
    ended = {run_id: status.end for run_id, status in drain(launcher).items()}
    assert ended == {"a": End.TIME_LIMIT, "b": End.PREEMPTED}


def test_a_run_that_waits_its_turn_goes_on_when_another_took_the_memory(bench: Bench):
    jobs = [bench.job("a", **LONG), bench.job("b")]
    fleet = Fleet(bench.launcher(pack=2), [Member(job, steps=3) for job in jobs])
    fleet.tick()
    bench.working("a")
    bench.cluster.out_of_memory("101")
    to_its_end(fleet)
    assert standings(fleet) == {"a": "failed", "b": "completed"}
    assert [attempt_count(job.run_dir) for job in jobs] == [1, 1]


def test_many_are_taken_out_of_the_queue_at_once(bench: Bench):
    bench.cluster.script(start=False)
    names = [f"r{i}" for i in range(5)]
    launcher = bench.submitted(*names)
    for name in names:
        launcher.cancel(name)
    assert bench.cluster.calls("scancel") == []
    launcher.poll()
    assert len(bench.cluster.calls("scancel")) == 1
    assert set(bench.cluster.states().values()) == {"CANCELLED"}
    assert {status.end for status in drain(launcher).values()} == {End.CANCELLED}


# --- sbatch


def test_a_job_whose_submission_was_not_answered_is_found_and_not_submitted_again(bench: Bench):
    bench.cluster.script(sbatch=["accepted"])
    job = bench.job("r0")
    fleet = follow(bench.launcher(), job)
    assert standings(fleet) == {"r0": "completed"}
    assert bench.submissions() == 1
    assert attempt_count(job.run_dir) == 1


def test_a_submission_that_never_arrived_is_made_again(bench: Bench):
    bench.cluster.script(sbatch=["timeout", "unavailable"])
    fleet = follow(bench.launcher(), bench.job("r0"), bench.job("r1"))
    assert set(standings(fleet).values()) == {"completed"}
    assert len(bench.cluster.jobs()) == 2


def test_an_sbatch_that_was_killed_may_have_worked(bench: Bench):
    bench.cluster.script(sbatch=["killed"])
    job = bench.job("r0")
    fleet = follow(bench.launcher(), job)  # a Refused would end it here
    assert standings(fleet) == {"r0": "completed"}
    assert (bench.submissions(), len(bench.cluster.jobs())) == (1, 1)
    assert attempt_count(job.run_dir) == 1


@pytest.mark.parametrize("sweep", [None, "another"])
def test_who_only_looks_does_not_finish_somebody_elses_submission(bench: Bench, sweep: str | None):
    bench.cluster.script(sbatch=["accepted"], start=False)
    launcher = bench.submitted("r0")
    (place,) = JobBook(bench.store, sweep).look()
    assert (place.status.phase, place.status.job) == (Phase.WAITING, "101")
    (batch,) = BatchFiles(bench.store).open()
    assert batch.job_id is None
    assert list(batch.folder.glob("*_submitted.pkl")) == []
    launcher.poll()
    (batch,) = BatchFiles(bench.store).open()
    assert batch.job_id == "101"
    assert [path.name for path in batch.folder.glob("*_submitted.pkl")] == ["101_submitted.pkl"]


def test_a_job_that_the_cluster_refuses_for_good_is_an_error_in_words(bench: Bench):
    with pytest.raises(Exception, match=r"(?s)invalid partition.*Change the profile"):
        bench.submitted("r0", partition="none")
    assert BatchFiles(bench.store).open() == []


# --- drivers that come and go


def test_the_next_driver_adopts_what_waits_and_what_runs(bench: Bench):
    bench.cluster.script(cpus=1)
    for name in ("a", "b"):
        bench.job(name, **LONG)
    first = bench.submitted("a", "b")
    bench.working("a")
    first.close()
    second = bench.submitted("a", "b")
    phases = {run_id: status.phase for run_id, status in second.poll().items()}
    assert phases == {"a": Phase.RUNNING, "b": Phase.WAITING}
    assert bench.submissions() == 1
    assert second.poll()["a"].job == "101_0"


DRIVER = """
import sys
from pathlib import Path
from trb_lab.store.run_dir import Store
from trb_lab.launch.base import Job
from trb_lab.launch.slurm import SlurmLauncher
from trb_lab.spec.cluster import ClusterProfile
from tests.launch.conformance import fake_command
store = Store(Path(sys.argv[1]))
profile = ClusterProfile.model_validate({"name": "fake", "time": "60m"})
launcher = SlurmLauncher(store, profile, "sweep", None, fake_command)
for name in sys.argv[2:]:
    launcher.submit(Job(store.trial(name)))
launcher.poll()
"""


@pytest.mark.parametrize(
    ("failpoint", "accepted", "names"),
    [
        ("driver.claim.before", False, ["r0"]),
        ("driver.claim.after", False, ["r0", "r1"]),
        ("driver.sbatch.before", False, ["r0"]),
        ("driver.sbatch.after", True, ["r0"]),
        ("driver.sbatch.after", True, ["r0", "r1"]),
        ("driver.id.after", True, ["r0", "r1"]),
    ],
)
def test_a_driver_killed_around_a_submission_leaves_each_trial_one_job(
    bench: Bench, failpoint: str, accepted: bool, names: list[str]
):
    jobs = [bench.job(name) for name in names]
    environment = {**os.environ, "TRB_LAB_FAILPOINT": failpoint}
    command = [sys.executable, "-c", DRIVER, str(bench.store.root), *names]
    killed = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(bench.cluster.jobs()) == (len(names) if accepted else 0)
    fleet = follow(bench.launcher(), *jobs)
    assert set(standings(fleet).values()) == {"completed"}
    assert len(bench.cluster.jobs()) == len(names)
    assert [attempt_count(job.run_dir) for job in jobs] == [1] * len(names)
    follow(bench.launcher())
    assert BatchFiles(bench.store).open() == []


# --- Slurm's word


def test_an_id_that_is_somebody_elses_by_now_is_not_taken_for_ours(bench: Bench):
    job = bench.job("r0", **LONG)
    first = bench.submitted("r0")
    bench.working("r0")
    first.close()
    bench.cluster.script(requeue=False)
    bench.cluster.finish_all("NODE_FAIL")
    bench.cluster.stranger(101)  # the id of r0's job
    bench.job("r0", steps=3)
    fleet = follow(bench.launcher(), job)
    assert standings(fleet) == {"r0": "completed"}
    assert fleet.members["r0"].status is not None
    assert fleet.members["r0"].status.job == "102"
    assert bench.cluster.states()["101"] == "RUNNING"


def test_a_state_that_nobody_knows_counts_as_alive(bench: Bench):
    bench.job("r0", **LONG)
    launcher = bench.submitted("r0")
    bench.cluster.script(states={"*": "TELEPORTING"})
    status = launcher.poll()["r0"]
    assert status.phase is Phase.RUNNING
    assert "teleporting" in status.where
    assert slurm_jobs.places(bench.store)["r0"].phase is Phase.RUNNING


@pytest.mark.parametrize("fault", [{"squeue": "fail"}, {"unreachable": True}])
def test_a_slurm_that_does_not_answer_ends_nothing(bench: Bench, fault: dict[str, object]):
    bench.job("r0", **LONG)
    launcher = bench.submitted("r0")
    bench.working("r0")
    launcher.poll()
    bench.cluster.script(**fault)
    for _ in range(3):
        assert launcher.poll()["r0"].phase is Phase.RUNNING
    assert "does not answer" in launcher.poll()["r0"].where
    assert slurm_jobs.places(bench.store)["r0"].phase is Phase.RUNNING
    bench.cluster.heal()
    assert launcher.poll()["r0"].where == "fake1"
    assert bench.submissions() == 1


@pytest.mark.parametrize(
    ("fault", "age"),
    [
        ({"sacct": "fail"}, 0),
        ({"sacct": "empty"}, 0),
        ({"sacct_lag": 3}, 0),
        ({"sacct_lag": 3}, 300),
        ({"accounting": False}, 0),
    ],
)
def test_the_accounting_may_fail_lag_or_be_missing(bench: Bench, fault: dict[str, object], age: int):
    bench.cluster.script(min_job_age=age, **fault)
    jobs = [bench.job("good"), bench.job("bad", fail_at=1)]
    fleet = follow(bench.launcher(), *jobs)
    assert standings(fleet) == {"good": "completed", "bad": "failed"}
    assert [attempt_count(job.run_dir) for job in jobs] == [1, 1]


# --- what befalls jobs


def test_a_preempted_trial_saves_and_goes_on_under_the_same_job(bench: Bench):
    bench.cluster.script(grace_time=20.0)
    job = bench.job("r0", pause=0.05, steps=200)
    launcher = bench.submitted("r0")
    bench.working("r0")
    bench.cluster.preempt("101")
    wait_for(lambda: bench.cluster.jobs()["101"]["restarts"] == 1)
    wait_for(lambda: attempt_count(job.run_dir) == 2)
    bench.working("r0")
    assert launcher.poll()["r0"].phase is Phase.RUNNING
    launcher.cancel("r0")
    drain(launcher)
    steps = bench.steps("r0")
    assert steps == list(range(len(steps)))
    assert bench.submissions() == 1


def test_a_trial_killed_without_grace_goes_on_from_its_checkpoint(bench: Bench):
    bench.cluster.script(kill_wait=0.0)
    job = bench.job("r0", pause=0.05, steps=40)
    fleet = Fleet(bench.launcher(), [Member(job, steps=40)])
    fleet.tick()
    bench.working("r0")
    bench.cluster.preempt("101", grace=0)
    to_its_end(fleet)
    assert standings(fleet) == {"r0": "completed"}
    assert bench.steps("r0") == list(range(40))
    assert bench.submissions() == 1
    assert attempt_count(job.run_dir) == 2


def test_a_lost_node_and_its_zombie_leave_one_worker(bench: Bench):
    job = bench.job("r0", pause=0.05, steps=60, stubborn=1)
    fleet = Fleet(bench.launcher(), [Member(job, steps=60)])
    fleet.tick()
    bench.working("r0")
    zombies = bench.cluster.pids("101")
    bench.cluster.node_fail("101", zombie=True)
    to_its_end(fleet)
    assert standings(fleet) == {"r0": "completed"}
    assert bench.steps("r0") == list(range(60))
    assert attempt_count(job.run_dir) == 2
    wait_for(lambda: not any(_runs(pid) for pid in zombies))
    assert "is lost to this process" in job.run_dir.log.read_text()


def _runs(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


def test_a_time_limit_saves_and_goes_on(bench: Bench):
    bench.cluster.script(minute=0.1)  # an hour is 6 s
    job = bench.job("r0", pause=0.1, steps=60)
    fleet = Fleet(bench.launcher(signal_delay_seconds=1200), [Member(job, steps=60)])

    def over() -> bool:
        fleet.tick()
        if attempt_count(job.run_dir) >= 2:
            bench.cluster.script(minute=60.0)
        return fleet.done

    wait_for(over)
    assert standings(fleet) == {"r0": "completed"}
    assert bench.steps("r0") == list(range(60))
    assert attempt_count(job.run_dir) >= 2


def test_a_job_cancelled_from_outside_is_cancelled_not_failed(bench: Bench):
    jobs = [bench.job("a", **LONG), bench.job("b", **LONG)]
    bench.cluster.script(cpus=1)
    fleet = Fleet(bench.launcher(), [Member(job, steps=3) for job in jobs])
    fleet.tick()
    bench.working("a")
    subprocess.run(["scancel", "101"], check=True)
    to_its_end(fleet)
    assert standings(fleet) == {"a": "cancelled", "b": "cancelled"}
    assert {str(state_of(job.run_dir)) for job in jobs} == {"cancelled"}
    assert attempt_count(jobs[1].run_dir) == 0


def test_a_job_without_memory_is_a_failure_of_that_class(bench: Bench):
    job = bench.job("r0", **LONG)
    fleet = Fleet(bench.launcher(), [Member(job, steps=3)])
    fleet.tick()
    bench.working("r0")
    bench.cluster.out_of_memory("101")
    to_its_end(fleet)
    assert standings(fleet) == {"r0": "failed"}
    last = json.loads(job.run_dir.attempts.read_text().splitlines()[-1])
    assert last["error_class"] == "oom"


def test_a_worker_killed_alone_for_want_of_memory_is_a_failure_of_that_class(bench: Bench):
    job = bench.job("r0", **LONG)
    fleet = Fleet(bench.launcher(), [Member(job, steps=3)])
    fleet.tick()
    bench.working("r0")
    bench.cluster.out_of_memory("101", one=True)  # its supervisor lives, and ends as after any kill
    to_its_end(fleet)
    status = fleet.members["r0"].status
    assert status is not None
    assert (status.end, status.exit_code) == (End.OUT_OF_MEMORY, -signal.SIGKILL)
    assert standings(fleet) == {"r0": "failed"}
    assert (last_error(job.run_dir) or {})["error_class"] == "oom"
    assert attempt_count(job.run_dir) == 1


@pytest.mark.parametrize(
    ("befalls", "standing"), [("cancel", "cancelled"), ("out_of_memory", "failed"), ("preempt", "completed")]
)
def test_how_a_job_ended_is_still_known_when_its_worker_seems_to_outlive_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, befalls: str, standing: str
):
    """As one on a lost node does, for as long as its last heartbeat is young."""
    job = bench.job("r0", **LONG)
    bench.cluster.script(requeue=False)
    fleet = Fleet(bench.launcher(), [Member(job, steps=3)])
    fleet.tick()
    bench.working("r0")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(claim, "live_worker", lambda run_dir: {"host": "a node", "pid": 1})
        getattr(bench.cluster, befalls)("101")
        bench.cluster.wait_idle()
        bench.job("r0")  # has made its steps, should it start again
        for _ in range(5):
            fleet.tick()
        assert standings(fleet) == {"r0": "running"}
        assert [batch.job_id for batch in BatchFiles(bench.store).open()] == ["101"]
    to_its_end(fleet)
    assert standings(fleet) == {"r0": standing}
    assert (last_error(job.run_dir) or {}).get("error_class") == ("oom" if standing == "failed" else None)
    assert bench.submissions() == (2 if standing == "completed" else 1)
    fleet.tick()
    assert BatchFiles(bench.store).open() == []


def test_a_job_cancelled_while_nobody_looked_is_settled(bench: Bench):
    bench.cluster.script(start=False)
    bench.submitted("r0", "r1").close()
    subprocess.run(["scancel", "101_0"], check=True)
    launcher = bench.launcher()
    assert launcher.settled == {"r0"}
    assert [str(state_of(bench.store.trial(name))) for name in ("r0", "r1")] == ["cancelled", "new"]
    assert bench.launcher().settled == frozenset()  # it is written down by now


def test_a_promoted_trial_that_waited_is_settled_too(bench: Bench):
    bench.cluster.script(start=False)
    jobs = [bench.job(name) for name in ("r0", "r1")]
    for job in jobs:
        end_attempt(job.run_dir, begin_attempt(job.run_dir), "paused")
    bench.submitted("r0", "r1").close()
    subprocess.run(["scancel", "101_0"], check=True)
    assert bench.launcher().settled == {"r0"}
    assert [str(state_of(job.run_dir)) for job in jobs] == ["cancelled", "paused"]


@pytest.mark.parametrize(
    ("end", "state"), [(End.OUT_OF_MEMORY, "failed"), (End.CANCELLED, "cancelled"), (End.EXITED, "paused")]
)
def test_how_a_promoted_trial_ended_is_written_down(bench: Bench, end: End, state: str):
    job = bench.job("r0")
    end_attempt(job.run_dir, begin_attempt(job.run_dir), "paused")
    batch = batches.create(bench.store, "sweep", "trials", "fake", [["trials/r0"]])
    place = Place(batch, 0, "trials/r0", JobStatus(Phase.ENDED, end=end, job="7"))
    assert slurm._learn(bench.store, place) is (state != "paused")
    assert state_of(job.run_dir) == state
    assert (last_error(job.run_dir) or {}).get("error_class") == ("oom" if state == "failed" else None)


def test_a_cancelled_trial_that_is_tried_again_may_be_cancelled_again(bench: Bench):
    bench.cluster.script(start=False)
    job = bench.job("r0")
    mark_cancelled(job.run_dir, "by hand")
    fleet = Fleet(bench.launcher(), [Member(job, steps=3)])
    fleet.tick()
    subprocess.run(["scancel", "101"], check=True)
    to_its_end(fleet)
    assert standings(fleet) == {"r0": "cancelled"}
    assert state_of(job.run_dir) == "cancelled"
    assert bench.submissions() == 1


def test_a_trial_that_is_always_killed_fails_in_the_end(bench: Bench):
    job = bench.job("r0", kill_at=1, kills=99)
    fleet = follow(bench.launcher(), job)
    assert standings(fleet) == {"r0": "failed"}
    assert attempt_count(job.run_dir) == 3


def test_cancelling_reaches_waiting_and_running_jobs_without_a_driver(bench: Bench):
    bench.cluster.script(cpus=1)
    for name in ("a", "b"):
        bench.job(name, **LONG)
    bench.submitted("a", "b").close()
    bench.working("a")
    assert slurm_cancel.cancel(bench.store, ["a", "b"]) == []
    bench.cluster.wait_idle(60)
    assert not bench.live("a")
    assert attempt_count(bench.store.trial("b")) == 0
    assert bench.cluster.states()["101_1"] == "CANCELLED"


def test_logs_and_places_name_the_node_and_the_reason(bench: Bench):
    bench.cluster.script(cpus=1)
    for name in ("a", "b"):
        bench.job(name, **LONG)
    launcher = bench.submitted("a", "b")
    bench.working("a")
    places = slurm_jobs.places(bench.store)
    assert (places["a"].where, places["a"].job) == ("fake1", "101_0")
    assert "Resources" in places["b"].where
    assert launcher.logs("a", 1)[0].startswith("step ")
    assert slurm_jobs.places(Store(bench.store.root / "elsewhere")) == {}


def test_a_command_job_runs_after_the_trials(bench: Bench, tmp_path: Path):
    from trb_lab.launch.slurm_submit import submit_command

    bench.job("r0", pause=0.2)
    launcher = bench.submitted("r0")
    said = tmp_path / "said.txt"
    job = submit_command(
        bench.store, profile(), "sweep", "report", ["-c", "print('report made')"], said, launcher.job_ids()
    )
    assert bench.cluster.states()[job] == "PENDING"
    bench.cluster.wait_idle(60)
    assert said.read_text() == "report made\n"
    assert state_of(bench.store.trial("r0")) == "completed"


def test_workers_of_one_trial_know_their_rank(bench: Bench, tmp_path: Path):
    bench.cluster.script(nodes=2)
    names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"]
    code = f"import os; print(*(os.environ[name] for name in {names}))"
    launcher = SlurmLauncher(
        bench.store,
        profile(nodes=2, tasks_per_node=2),
        "sweep",
        None,
        lambda job: [sys.executable, "-c", code],
    )
    job = bench.job("r0")
    launcher.submit(job)
    drain(launcher)  # that is, until the first of its tasks has ended
    wait_for(lambda: len(job.run_dir.log.read_text().splitlines()) == 4)
    lines = sorted(line.split() for line in job.run_dir.log.read_text().splitlines())
    assert [line[:2] for line in lines] == [[str(i), "4"] for i in range(4)]
    assert len({tuple(line[3:]) for line in lines}) == 1


def test_what_ended_is_said_of_each_job(bench: Bench):
    bench.job("r0", exit_before=2)
    status = drain(bench.submitted("r0"))["r0"]
    assert (status.phase, status.exit_code, status.end) == (Phase.ENDED, 2, End.EXITED)


def test_batch_records_are_written_before_the_submission(bench: Bench):
    bench.cluster.script(sbatch=["timeout"])
    bench.submitted("r0")
    (batch,) = BatchFiles(bench.store).open()
    assert (batch.job_id, batch.elements) == (None, [["trials/r0"]])
    assert read_json(batch.folder / "batch.json")["sweep"] == "sweep"


# --- a time limit that leads nowhere


class Scripted:
    """A launcher that says what a test wishes."""

    name = "slurm"
    slots = 1
    poll_seconds = 0.0
    outlives_driver = True
    settled: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.said: dict[str, JobStatus] = {}
        self.submitted: list[str] = []

    def submit(self, job: Job) -> None:
        self.submitted.append(job.run_id)
        self.said[job.run_id] = JobStatus(Phase.WAITING)

    def attach(self, job: Job) -> None:
        self.said[job.run_id] = JobStatus(Phase.RUNNING)

    def poll(self) -> Mapping[str, JobStatus]:
        return dict(self.said)

    def cancel(self, run_id: str, *, kill: bool = False) -> None:
        raise AssertionError("nobody cancels here")

    def logs(self, run_id: str, lines: int = 50) -> list[str]:
        return []

    def close(self) -> None: ...


def test_a_time_limit_without_a_new_checkpoint_is_a_failure(bench: Bench):
    job, launcher = bench.job("r0"), Scripted()
    fleet = Fleet(launcher, [Member(job, steps=3)])
    for number in (1, 2, 3):
        launcher.said["r0"] = JobStatus(Phase.RUNNING)
        fleet.tick()
        if number < 3:  # the third one saves nothing new
            (job.run_dir.checkpoints / f"step_{number:06d}").mkdir(parents=True)
        launcher.said["r0"] = JobStatus(Phase.ENDED, end=End.TIME_LIMIT)
        fleet.tick()
        assert standings(fleet) == {"r0": "waiting" if number < 3 else "failed"}
    assert len(launcher.submitted) == 3
    assert (last_error(job.run_dir) or {})["error_class"] == "time_limit"


def test_a_worker_whose_start_nobody_saw_is_not_called_stuck(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    job, launcher = bench.job("r0"), Scripted()
    (job.run_dir.checkpoints / "step_000001").mkdir(parents=True)
    with monkeypatch.context() as working:
        working.setattr(claim, "live_worker", lambda run_dir: {"pid": 1})
        fleet = Fleet(launcher, [Member(job, steps=3)])
        fleet.tick()
    launcher.said["r0"] = JobStatus(Phase.ENDED, end=End.TIME_LIMIT)
    fleet.tick()
    assert standings(fleet) == {"r0": "waiting"}
    assert launcher.submitted == ["r0"]


# --- the supervisor


@pytest.mark.parametrize("trouble", ["log", "wishes"])
def test_a_supervisor_goes_on_while_the_file_system_is_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trouble: str
):
    monkeypatch.setattr("trb_lab.launch.slurm_task.signal.signal", lambda *args: None)  # pytest has its own
    job = bench.job("r0")

    def away(*args: Any) -> Any:
        raise OSError(errno.ESTALE, "Stale file handle")

    if trouble == "log":
        monkeypatch.setattr(ElementLog, "append", away)
    else:
        exists = Path.exists
        monkeypatch.setattr(Path, "exists", lambda p: away() if p.name == "stop.json" else exists(p))
    (bench.store.slurm / "token").mkdir(parents=True)
    piece = Piece(fake_command(job), str(job.run_dir.log), "trials/r0")
    assert Supervisor(SlurmTask(str(bench.store.root), "token", 0, [piece])).run() == 0
    assert state_of(job.run_dir) == "completed"
    assert ("Not noted" in capsys.readouterr().err) is (trouble == "log")
