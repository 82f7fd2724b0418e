"""What a fleet makes of its launcher's words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from trb_lab.launch.base import End, Job, JobStatus, Phase
from trb_lab.launch.follow import SAME_FAILURES, Fleet, Member
from trb_lab.store.run_dir import Store, write_json
from trb_lab.store.status import begin_attempt, end_attempt


class Told:
    """A launcher whose workers do what a test says they did."""

    name = "told"
    slots = 99
    poll_seconds = 0.0
    outlives_driver = False
    settled: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.said: dict[str, JobStatus] = {}

    def submit(self, job: Job) -> None:
        self.said[job.run_id] = JobStatus(Phase.WAITING)

    def attach(self, job: Job) -> None:
        self.said[job.run_id] = JobStatus(Phase.RUNNING)

    def poll(self) -> Mapping[str, JobStatus]:
        return dict(self.said)

    def cancel(self, run_id: str, *, kill: bool = False) -> None:
        self.said.pop(run_id, None)

    def logs(self, run_id: str, lines: int = 50) -> list[str]:
        return []

    def close(self) -> None: ...


class Bench:
    def __init__(self, store: Store) -> None:
        self.store, self.launcher = store, Told()
        self.fleet = Fleet(self.launcher, [])

    def add(self, name: str, until: int | None = None, steps: int = 6) -> Member:
        run_dir = self.store.trial(name)
        write_json(run_dir.config, {"run_id": name, "spec": {"steps": steps}})
        member = Member(Job(run_dir), steps=steps, until=until)
        self.fleet.add(member)
        return member

    def end(self, member: Member, state: str, steps: int = 0) -> None:
        """Its worker makes `steps` updates, and ends."""
        run_dir = member.job.run_dir
        self.launcher.said[member.run_id] = JobStatus(Phase.RUNNING)
        self.fleet.tick()
        number = begin_attempt(run_dir)
        run_dir.metrics.write_text("".join(f'{{"step": {step}}}\n' for step in range(steps)))
        failed = {"error": "boom at a step", "error_class": "code"} if state == "failed" else {}
        if state == "completed":
            write_json(run_dir.result, {"state": "completed", "final": {"sets": {}}})
        end_attempt(run_dir, number, state, **failed)
        self.launcher.said[member.run_id] = JobStatus(Phase.ENDED, int(bool(failed)), End.EXITED)
        self.fleet.tick()
        assert member.standing == state

    def fail_alike(self) -> None:
        for member in [self.add(f"bad{i}") for i in range(SAME_FAILURES)]:
            self.end(member, "failed")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Store(tmp_path / "runs"))


def test_the_first_trials_that_fail_alike_stop_the_rest(bench: Bench) -> None:
    waiting = bench.add("waiting")
    bench.fail_alike()
    assert bench.fleet.halted == "boom at a step"
    assert waiting.standing == "interrupted"


@pytest.mark.parametrize("state", ["completed", "paused"])
def test_nothing_is_halted_once_a_trial_has_come_to_its_stop(bench: Bench, state: str) -> None:
    waiting = bench.add("waiting")
    bench.end(bench.add("good", until=2 if state == "paused" else None), state, steps=2)
    bench.fail_alike()
    assert bench.fleet.halted is None
    assert waiting.standing == "waiting"


def test_a_paused_trial_that_went_on_still_counts(bench: Bench) -> None:
    bench.end(bench.add("good", until=2), "paused", steps=2)
    assert bench.add("good").standing == "waiting"  # promoted
    bench.fail_alike()
    assert bench.fleet.halted is None


def test_an_evaluation_shows_nothing_of_the_training(bench: Bench) -> None:
    bench.end(bench.add("evaluation", steps=0), "completed")
    bench.fail_alike()
    assert bench.fleet.halted is not None


def test_what_an_earlier_driver_saw_counts(bench: Bench) -> None:
    bench.fleet.succeeded_before = True
    bench.fail_alike()
    assert bench.fleet.halted is None
