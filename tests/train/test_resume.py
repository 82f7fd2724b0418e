"""A run killed with -9 at any moment and run again equals one that was never killed, bit for bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.train.experiments import small_run
from trb_lab.experiment import run_experiment
from trb_lab.store.metrics import read_metrics
from trb_lab.store.run_dir import RunDir
from trb_lab.store.status import TrialState, attempt_count, attempts, state_of
from trb_lab.train import checkpoint


def final_bytes(run_dir: RunDir) -> dict[str, bytes]:
    folder = checkpoint.newest(run_dir).path
    names = (checkpoint.WEIGHTS, checkpoint.OPTIMIZER)
    return {"metrics": run_dir.metrics.read_bytes(), **{name: (folder / name).read_bytes() for name in names}}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run_dir = small_run(tmp_path_factory.mktemp("undisturbed"))
    result = run_experiment(run_dir)
    return final_bytes(run_dir), result


def worker(run_dir, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "trb_lab.cli", "run", "--run-dir", str(run_dir.path)],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def wait_for_lines(run_dir, count, process):
    while process.poll() is None and len(read_metrics(run_dir.metrics)) < count:
        time.sleep(0.01)


def test_a_finished_run_is_complete_and_left_alone(undisturbed, tmp_path):
    _, result = undisturbed
    assert result["state"] == "completed"
    assert result["steps"] == 6
    assert set(result["final"]["sets"]) == {"easy"}
    assert result["tokens"]["teacher_rollout"] > 0
    assert result["tokens"]["teacher_scoring"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("case", range(3))
def test_killed_twice_at_random_moments(undisturbed, tmp_path, case):
    """Killed after a random number of metric lines plus a random delay, twice; then left to finish."""
    expected, _ = undisturbed
    run_dir = small_run(tmp_path)
    rng = random.Random(case)
    for first in sorted(rng.sample(range(6), 2)):
        process = worker(run_dir)
        wait_for_lines(run_dir, first, process)
        time.sleep(rng.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = worker(run_dir)
    assert process.wait() == 0, process.stderr.read().decode()
    assert final_bytes(run_dir) == expected
    assert state_of(run_dir) is TrialState.COMPLETED


def test_crash_between_metrics_and_checkpoint_and_half_written_checkpoint(undisturbed, tmp_path, monkeypatch):
    """The process dies inside the second checkpoint: metrics lines after the first one are made again."""
    expected, _ = undisturbed
    run_dir = small_run(tmp_path)
    real = os.rename

    def dies(source, target):
        if "step_000004" in str(target):
            raise MemoryError("simulated")
        real(source, target)

    monkeypatch.setattr(os, "rename", dies)
    with pytest.raises(MemoryError):
        run_experiment(run_dir)
    monkeypatch.undo()
    assert state_of(run_dir) is TrialState.FAILED
    assert attempts(run_dir)[-1]["error_class"] == "oom"
    assert checkpoint.newest(run_dir).step == 2
    assert len(read_metrics(run_dir.metrics)) == 4
    run_experiment(run_dir)
    assert final_bytes(run_dir) == expected
    assert attempt_count(run_dir) == 2


def test_damaged_checkpoint_is_skipped(undisturbed, tmp_path):
    expected, _ = undisturbed
    run_dir = small_run(tmp_path, checkpoint={"every": 2, "keep": 3})
    run_experiment(run_dir)
    run_dir.result.unlink()
    (run_dir.checkpoints / "step_000006" / checkpoint.OPTIMIZER).write_bytes(b"torn")
    (run_dir.checkpoints / "step_000004" / checkpoint.STATE).write_text("{")
    assert checkpoint.newest(run_dir).step == 2
    run_experiment(run_dir)
    assert final_bytes(run_dir) == expected


def test_sigterm_saves_the_last_step_and_ends_as_interrupted(undisturbed, tmp_path):
    expected, _ = undisturbed
    run_dir = small_run(tmp_path, checkpoint={"every": 6})
    process = worker(run_dir)
    wait_for_lines(run_dir, 1, process)
    process.terminate()
    assert process.wait() == 130
    assert b"Traceback" not in process.stderr.read()
    assert state_of(run_dir) is TrialState.INTERRUPTED
    saved = checkpoint.newest(run_dir)
    assert saved.step == len(read_metrics(run_dir.metrics)) < 6
    run_experiment(run_dir)
    assert final_bytes(run_dir) == expected


def test_a_moved_run_directory_resumes(undisturbed, tmp_path):
    expected, _ = undisturbed
    run_dir = small_run(tmp_path / "here")
    process = worker(run_dir)
    wait_for_lines(run_dir, 3, process)
    process.kill()
    process.wait()
    moved = RunDir(tmp_path / "there" / run_dir.run_id)
    moved.path.parent.mkdir()
    shutil.move(run_dir.path, moved.path)
    run_experiment(moved)
    assert final_bytes(moved) == expected


def test_an_added_evaluation_set_is_scored_from_the_final_checkpoint(undisturbed, tmp_path):
    _, before = undisturbed
    run_dir = small_run(tmp_path)
    run_experiment(run_dir)
    config = json.loads(run_dir.config.read_text())
    hard = {"name": "hard", "dataset": {"kind": "arith", "split": "test", "level": "hard", "num_examples": 8}}
    config["spec"]["eval"]["sets"].append(hard)
    run_dir.config.write_text(json.dumps(config))
    result = run_experiment(run_dir)
    assert set(result["final"]["sets"]) == {"easy", "hard"}
    assert result["final"]["sets"]["easy"] == before["final"]["sets"]["easy"]
    scores = [entry["pass_at_1"] for entry in result["final"]["sets"].values()]
    assert result["final"]["mean_pass_at_1"] == pytest.approx(sum(scores) / 2)


def test_divergence_fails_with_its_reason(tmp_path):
    run_dir = small_run(tmp_path, optim={"lr": 1e30, "lr_warmup_steps": 0, "grad_clip": 1e30})
    with pytest.raises(Exception, match=r"step"):
        run_experiment(run_dir)
    assert attempts(run_dir)[-1]["error_class"] == "nan"
