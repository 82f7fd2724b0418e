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
import torch

from tests.train.experiments import small_run
from trb_lab.errors import LabError
from trb_lab.evaluate.suite import Suite
from trb_lab.experiment import run_experiment
from trb_lab.store import locks
from trb_lab.store.metrics import read_metrics
from trb_lab.store.run_dir import RunDir
from trb_lab.store.status import TrialState, attempt_count, attempts, state_of
from trb_lab.train import checkpoint
from trb_lab.worker import StopFlag, Stopped


def final_bytes(run_dir: RunDir) -> dict[str, bytes]:
    folder = checkpoint.newest(run_dir).path
    names = (checkpoint.WEIGHTS, checkpoint.OPTIMIZER)
    lines = {"metrics": run_dir.metrics.read_bytes(), "positions": run_dir.positions.read_bytes()}
    return {**lines, **{name: (folder / name).read_bytes() for name in names}}


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


def test_a_set_that_changed_under_its_name_is_scored_again(tmp_path):
    run_dir = small_run(tmp_path)
    run_experiment(run_dir)
    harder = {
        "name": "easy",
        "dataset": {"kind": "arith", "split": "test", "level": "hard", "num_examples": 9},
    }
    again = small_run(tmp_path, eval={"sets": [harder], "samples": 1, "every": 3})
    assert again.path == run_dir.path  # sets are no part of the identity
    sets = run_experiment(again)["final"]["sets"]
    assert sets["easy"]["num_problems"] == 9
    kept = next(entry for name, entry in sets.items() if name.startswith("easy@"))
    assert kept["num_problems"] == 12
    # The first question finds its answer again: nothing is evaluated a third time.
    before = run_dir.result.read_bytes()
    run_experiment(small_run(tmp_path))
    assert run_dir.result.read_bytes() == before


def test_resources_of_the_second_command_count(tmp_path):
    run_dir = small_run(tmp_path)
    again = small_run(tmp_path, resources={"cpu_threads": 1, "device": "cpu", "micro_batch_tokens": 128})
    assert again.path == run_dir.path
    assert json.loads(again.config.read_text())["spec"]["resources"]["micro_batch_tokens"] == 128


def test_a_run_whose_spec_was_edited_by_hand_is_refused(tmp_path):
    run_dir = small_run(tmp_path)
    config = json.loads(run_dir.config.read_text())
    config["spec"]["optim"]["lr"] = 0.5
    run_dir.config.write_text(json.dumps(config))
    with pytest.raises(LabError, match=r"optim\.lr: 0\.001 -> 0\.5"):
        run_experiment(run_dir)
    assert attempts(run_dir)[-1]["error_class"] == "user"


def test_a_resume_takes_as_many_threads_as_before(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    taken = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    run_dir = small_run(tmp_path, resources={"device": "cpu"}, checkpoint={"every": 2, "keep": 3})
    run_experiment(run_dir)
    assert taken == []
    run_dir.result.unlink()
    shutil.rmtree(run_dir.checkpoints / "step_000006")
    run_experiment(run_dir)
    assert taken == [3]


def test_saving_behind_a_damaged_checkpoint_keeps_the_new_one(tmp_path):
    run_dir = small_run(tmp_path, checkpoint={"every": 2, "keep": 2})
    run_experiment(run_dir)
    run_dir.result.unlink()
    (run_dir.checkpoints / "step_000006" / checkpoint.OPTIMIZER).write_bytes(b"torn")
    leftover = run_dir.checkpoints / ".tmp-step_000005"
    leftover.mkdir()
    again = small_run(
        tmp_path, resources={"cpu_threads": 1, "device": "cpu"}, checkpoint={"every": 5, "keep": 1}
    )
    run_experiment(again)
    assert [p.name for p in sorted(run_dir.checkpoints.iterdir())] == ["step_000006"]
    assert checkpoint.newest(run_dir).step == 6


def test_a_support_larger_than_the_vocabulary_is_refused(tmp_path):
    run_dir = small_run(tmp_path, loss={"kind": "renormalised", "top_k": 500})
    with pytest.raises(LabError, match=r"loss\.top_k is 500 .* at most 177"):
        run_experiment(run_dir)


def test_problems_without_answers_count_neither_way(tmp_path):
    file = tmp_path / "data.jsonl"
    lines = [{"prompt": f"{i}+1", "answer": str(i + 1) if i % 2 else None} for i in range(16)]
    file.write_text("\n".join(map(json.dumps, lines)))
    run_dir = small_run(
        tmp_path, dataset={"kind": "jsonl", "path": str(file)}, steps=2, warmup={"kind": "opd"}
    )
    run_experiment(run_dir)
    assert all("rollout/reward" in line for line in read_metrics(run_dir.metrics))


def test_rollout_and_training_pass_agree_on_log_probs(undisturbed):
    metrics, _ = undisturbed
    gaps = [json.loads(line)["train/logprob_gap"] for line in metrics["metrics"].splitlines()]
    assert 0 <= max(gaps) < 1e-5


@pytest.mark.parametrize("at", [2, 5])
def test_stopped_inside_an_evaluation_goes_on_with_it(undisturbed, tmp_path, monkeypatch, at):
    """The update is made and saved; the evaluation is done again, and the step's line is written once."""
    expected, result = undisturbed
    run_dir = small_run(tmp_path, checkpoint={"every": 50})
    real = Suite.evaluate

    def stops(self, step, **options):
        if step == at:
            return real(self, step, **{**options, "stop": StopFlag(raised=True)})
        return real(self, step, **options)

    monkeypatch.setattr(Suite, "evaluate", stops)
    with pytest.raises(Stopped):
        run_experiment(run_dir)
    monkeypatch.undo()
    assert state_of(run_dir) is TrialState.INTERRUPTED
    saved = checkpoint.newest(run_dir)
    assert saved.step == at + 1 and saved.pending["step"] == at
    assert len(read_metrics(run_dir.metrics)) == at
    again = run_experiment(run_dir)
    assert final_bytes(run_dir) == expected
    assert again["final"] == result["final"]
    counted = [cost["total"]["student_tokens"] for cost in (again["cost"], result["cost"])]
    assert counted[0] == counted[1]
    assert [line["step"] for line in read_metrics(run_dir.timing)] == list(range(6))


def arith_set(name, count=4):
    return {
        "name": name,
        "dataset": {"kind": "arith", "split": "test", "level": name, "num_examples": count},
    }


def short_run(folder, *sets):
    return small_run(
        folder, steps=2, warmup={"kind": "opd"}, eval={"sets": list(sets), "samples": 1, "every": 2}
    )


def test_an_evaluation_that_was_cut_short_costs_once(tmp_path, monkeypatch):
    sets = arith_set("easy"), arith_set("hard")
    whole = run_experiment(short_run(tmp_path / "whole", *sets))
    run_dir, real = short_run(tmp_path / "cut", *sets), Suite._evaluate_set

    def stops_at_the_second(self, loaded, step, into, stop, fence):
        return real(self, loaded, step, into, StopFlag(loaded.name == "hard"), fence)

    monkeypatch.setattr(Suite, "_evaluate_set", stops_at_the_second)
    with pytest.raises(Stopped):
        run_experiment(run_dir)
    monkeypatch.undo()
    tokens = [r["cost"]["phases"]["eval"]["student_tokens"] for r in (run_experiment(run_dir), whole)]
    assert tokens[0] == tokens[1]


def test_a_set_added_between_the_last_step_and_the_result(tmp_path):
    run_dir = short_run(tmp_path, arith_set("easy"))
    before = run_experiment(run_dir)["final"]["sets"]
    run_dir.result.unlink()
    result = run_experiment(short_run(tmp_path, arith_set("easy"), arith_set("medium")))
    assert set(result["final"]["sets"]) == {"easy", "medium"}
    assert result["final"]["sets"]["easy"] == before["easy"]
    assert json.loads(run_dir.result.read_text()) == result


def test_sets_that_another_process_adds_meanwhile_stay(tmp_path, monkeypatch):
    run_dir = short_run(tmp_path, arith_set("easy"))
    run_experiment(run_dir)
    again, hold = short_run(tmp_path, arith_set("medium")), locks.hold

    def after_another(path, what, **options):
        result = json.loads(run_dir.result.read_text())
        result["final"]["sets"]["theirs"] = {"fingerprint": "0" * 16, "pass_at_1": 0.5}
        run_dir.result.write_text(json.dumps(result))
        return hold(path, what, **options)

    monkeypatch.setattr(locks, "hold", after_another)
    assert set(run_experiment(again)["final"]["sets"]) == {"easy", "medium", "theirs"}


def test_divergence_is_seen_before_an_evaluation(tmp_path, monkeypatch):
    diverged = {"lr": 1e30, "lr_warmup_steps": 0, "grad_clip": 1e30}
    evaluated = []
    monkeypatch.setattr(Suite, "evaluate", lambda self, step, **options: evaluated.append(step) or {})
    run_dir = small_run(tmp_path, optim=diverged, eval={"sets": [], "every": 1})
    with pytest.raises(LabError):
        run_experiment(run_dir)
    assert evaluated == [line["step"] for line in read_metrics(run_dir.metrics)]
