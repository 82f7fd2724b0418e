"""A worker that was suspended while another took its trial over and finished it changes nothing when it wakes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from trb_lab.evaluate.suite import Suite
from trb_lab.experiment import run_experiment
from trb_lab.rollout.torch_engine import TorchEngine
from trb_lab.store import locks
from trb_lab.store.run_dir import RunDir
from trb_lab.store.status import TrialState, attempts, state_of
from trb_lab.train import checkpoint, trainer

from .forked import final_bytes, tiny_run, wait_until_suspended, worker


def _suspend() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _suspended_before(owner: object, name: str, nth: int) -> None:
    """The process stops itself at the nth call, before anything of it is done."""
    real, calls = getattr(owner, name), []

    def call(*arguments: object, **options: object) -> object:
        calls.append(name)
        if len(calls) == nth:
            _suspend()
        return real(*arguments, **options)

    setattr(owner, name, call)


def in_a_rollout() -> None:
    _suspended_before(TorchEngine, "draft", 3)


def in_a_checkpoint() -> None:
    _suspended_before(checkpoint, "write_json", 1)


def in_an_evaluation() -> None:
    _suspended_before(Suite, "_sample", 1)


def before_samples() -> None:
    _suspended_before(trainer, "step_metrics", 1)


def contents(run_dir: RunDir) -> dict[str, tuple[bytes, int, int]]:
    """Bytes, inode and time of change of every file, hidden ones too."""
    files = sorted(p for p in run_dir.path.rglob("*") if p.is_file())
    return {str(p): (p.read_bytes(), p.stat().st_ino, p.stat().st_mtime_ns) for p in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    run_dir = tiny_run(tmp_path_factory.mktemp("undisturbed"))
    run_experiment(run_dir)
    return final_bytes(run_dir)


@pytest.mark.parametrize("where", [in_a_rollout, in_a_checkpoint, in_an_evaluation, before_samples])
def test_a_zombie_leaves_everything_as_it_is(
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: Callable[[], None],
) -> None:
    run_dir = tiny_run(tmp_path)
    zombie = worker(run_dir, where, TRB_LAB_JOB="7", TRB_LAB_INCARNATION="0")
    try:
        wait_until_suspended(zombie)
        monkeypatch.setenv("TRB_LAB_JOB", "7")
        monkeypatch.setenv("TRB_LAB_INCARNATION", "1")
        run_experiment(run_dir)
        assert final_bytes(run_dir) == undisturbed
        before = contents(run_dir)
        assert zombie.pid is not None
        os.kill(zombie.pid, signal.SIGCONT)
        zombie.join()
    finally:
        zombie.kill()
    assert zombie.exitcode == locks.Lost.exit_code == 3
    after = contents(run_dir)
    assert sorted(after) == sorted(before)
    assert [name for name in before if after[name] != before[name]] == []
    assert state_of(run_dir) is TrialState.COMPLETED
    assert [event["event"] for event in attempts(run_dir)] == ["start", "start", "end"]
    assert [event.get("job") for event in attempts(run_dir)] == ["7", "7", None]


@pytest.mark.parametrize(("job", "incarnation"), [("7", "1"), ("8", "2")])
def test_only_a_later_incarnation_of_the_same_job_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str, incarnation: str
) -> None:
    run_dir = tiny_run(tmp_path)
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.0)  # how long another owner is waited for
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.1)
    monkeypatch.setenv("TRB_LAB_JOB", job)
    monkeypatch.setenv("TRB_LAB_INCARNATION", incarnation)
    with locks.hold(run_dir.lock, "the run", note={"job": "7", "incarnation": 1}) as lease:
        with pytest.raises(locks.Locked):
            run_experiment(run_dir)
        lease.check()
