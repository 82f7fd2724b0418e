"""A stop signal at any moment saves the last complete step; the run goes on from it as if nothing had been."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from trb_lab.evaluate.suite import Suite
from trb_lab.experiment import run_experiment
from trb_lab.rollout.blocks import BlockChooser
from trb_lab.rollout.torch_engine import TorchEngine
from trb_lab.store.metrics import read_metrics
from trb_lab.store.run_dir import RunDir, read_json
from trb_lab.store.status import TrialState, attempts, state_of
from trb_lab.train import checkpoint, sft, trainer
from trb_lab.train.optimizer import MasterAdamW
from trb_lab.worker import Interrupted, StopFlag, Stopped

from .forked import final_bytes, tiny_run

SFT = {"kind": "sft", "updates": 3, "samples_per_prompt": 1}
Saved = dict[str, dict[str, Any]]


def signalled(
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    nth: int,
    signals: Sequence[int],
    *,
    inside: bool,
) -> None:
    """The signals come at the nth call: before what it does, or (`inside`) at once after it."""
    real, calls = getattr(owner, name), []

    def call(*arguments: object, **options: object) -> object:
        calls.append(name)
        if len(calls) != nth:
            return real(*arguments, **options)
        if inside:
            result = real(*arguments, **options)
        for number in signals:
            os.kill(os.getpid(), number)
        return result if inside else real(*arguments, **options)

    monkeypatch.setattr(owner, name, call)


def states(run_dir: RunDir) -> Saved:
    """state.json of every checkpoint, without the sizes of its files."""
    return {
        folder.name: {k: v for k, v in read_json(folder / checkpoint.STATE).items() if k != "sizes"}
        for folder in run_dir.checkpoints.glob("s*_*")
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], Saved]:
    """What is left of the run at its end, and every checkpoint that it could have saved."""
    run_dir = tiny_run(tmp_path_factory.mktemp("undisturbed"), checkpoint={"every": 1, "keep": 9})
    run_experiment(run_dir)
    return final_bytes(run_dir), states(run_dir)


@pytest.mark.parametrize(
    ("owner", "name", "nth", "complete"),
    [
        (TorchEngine, "draft", 2, 0),
        (TorchEngine, "start", 2, 1),
        (BlockChooser, "observe", 3, 2),
        (trainer, "position_line", 2, 1),
        (TorchEngine, "score", 4, 3),
        (trainer, "distil", 2, 1),
        (MasterAdamW, "accumulate", 4, 3),
    ],
    ids=[
        "first rollout",
        "a rollout",
        "after a rollout",
        "position statistics",
        "scoring",
        "backward",
        "after a backward",
    ],
)
def test_in_the_middle_of_a_step(
    undisturbed: tuple[dict[str, bytes], Saved],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    nth: int,
    complete: int,
) -> None:
    expected, every_state = undisturbed
    run_dir = tiny_run(tmp_path, checkpoint={"every": 50})
    signalled(monkeypatch, owner, name, nth, [signal.SIGTERM], inside=True)
    with pytest.raises(Stopped, match=f"stopped after {complete} of 4 steps"):
        run_experiment(run_dir)
    monkeypatch.undo()
    assert state_of(run_dir) is TrialState.INTERRUPTED
    assert len(read_metrics(run_dir.metrics)) == complete
    # What is saved is the state of a run that would have saved after each step.
    names = [f"step_{complete:06d}"] if complete else []
    assert states(run_dir) == {name: every_state[name] for name in names}
    run_experiment(run_dir)
    assert final_bytes(run_dir) == expected


def test_in_an_evaluation(
    undisturbed: tuple[dict[str, bytes], Saved], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = undisturbed
    run_dir = tiny_run(tmp_path, checkpoint={"every": 50})
    signalled(monkeypatch, Suite, "_sample", 1, [signal.SIGTERM], inside=False)
    with pytest.raises(Stopped, match="while evaluating easy"):
        run_experiment(run_dir)
    monkeypatch.undo()
    saved = checkpoint.newest(run_dir)
    assert saved is not None and saved.pending is not None
    assert (saved.step, len(read_metrics(run_dir.metrics))) == (2, 1)
    run_experiment(run_dir)
    assert final_bytes(run_dir) == expected


def test_repeated_signals_do_not_disturb_the_saving(
    undisturbed: tuple[dict[str, bytes], Saved], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm sends TERM and CONT to every process of the job, and again."""
    expected, _ = undisturbed
    run_dir = tiny_run(tmp_path, checkpoint={"every": 50})
    repeated = [signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2, signal.SIGTERM]
    signalled(monkeypatch, trainer, "distil", 2, [signal.SIGTERM, signal.SIGCONT], inside=False)
    signalled(monkeypatch, checkpoint, "save_file", 2, repeated, inside=False)
    signalled(monkeypatch, checkpoint, "write_json", 1, repeated, inside=True)
    with pytest.raises(Stopped):
        run_experiment(run_dir)
    monkeypatch.undo()
    assert [event.get("state") for event in attempts(run_dir)] == [None, "interrupted"]
    assert list(states(run_dir)) == ["step_000001"]
    run_experiment(run_dir)
    assert final_bytes(run_dir) == expected


@pytest.mark.parametrize(
    ("owner", "name"),
    [(TorchEngine, "draft"), (sft, "imitate"), (MasterAdamW, "accumulate"), (sft, "learning_rate")],
    ids=["teacher samples", "before a backward", "after a backward", "an update's line"],
)
def test_in_supervised_updates(
    sft_run: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    run_dir = tiny_run(tmp_path, warmup=SFT, steps=3)
    # Samples that another run has made are not drawn again.
    monkeypatch.setenv("TRB_LAB_CACHE", str(tmp_path / "cache"))
    signalled(monkeypatch, owner, name, 2, [signal.SIGTERM], inside=False)
    with pytest.raises(Stopped, match=r"stopped after \d of 3 supervised updates"):
        run_experiment(run_dir)
    monkeypatch.undo()
    assert len(states(run_dir)) == min(1, len(read_metrics(run_dir.sft)))
    run_experiment(run_dir)
    assert final_bytes(run_dir) == sft_run


@pytest.fixture(scope="module")
def sft_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    run_dir = tiny_run(tmp_path_factory.mktemp("sft"), warmup=SFT, steps=3)
    run_experiment(run_dir)
    return final_bytes(run_dir)


def test_a_stop_right_after_a_resume_writes_no_second_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tiny_run(tmp_path, checkpoint={"every": 50})
    inodes = []
    for nth in (3, 1):
        signalled(monkeypatch, trainer, "distil", nth, [signal.SIGTERM], inside=False)
        with pytest.raises(Stopped):
            run_experiment(run_dir)
        monkeypatch.undo()
        inodes.append((run_dir.checkpoints / "step_000002").stat().st_ino)
    assert inodes[0] == inodes[1]


class TestStopFlag:
    @pytest.fixture
    def stop(self) -> Any:
        with StopFlag().installed() as flag:
            yield flag

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
    def test_interrupts_where_it_may(self, stop: StopFlag, number: int) -> None:
        def work() -> None:
            with stop.interruptible():
                os.kill(os.getpid(), number)
                raise AssertionError("goes on")

        with pytest.raises(Interrupted):
            work()
        assert stop()

    def test_elsewhere_it_is_only_raised(self, stop: StopFlag) -> None:
        with stop.interruptible():
            assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        with pytest.raises(Interrupted), stop.interruptible():
            raise AssertionError("begins")

    def test_a_second_signal_does_not_interrupt_what_the_first_one_set_off(self, stop: StopFlag) -> None:
        tidied: list[str] = []

        def work() -> None:
            with stop.interruptible():
                try:
                    os.kill(os.getpid(), signal.SIGTERM)
                finally:
                    os.kill(os.getpid(), signal.SIGTERM)
                    tidied.append("whole")

        with pytest.raises(Interrupted):
            work()
        assert tidied == ["whole"]

    def test_only_a_second_ctrl_c_ends_at_once(self, stop: StopFlag, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        sent: list[tuple[int, int]] = []
        handler: Callable[..., Any] = stop._handle
        monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
        handler(signal.SIGINT, None)
        assert sent == [(os.getpid(), signal.SIGINT)]
