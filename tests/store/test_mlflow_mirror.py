"""The mirror against a real sqlite store: what arrives, that nothing is doubled, that nothing is lost."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from trb_lab.errors import MissingExtra, UsageError
from trb_lab.store import locks, mlflow_tracking
from trb_lab.store.mlflow_mirror import sync_store
from trb_lab.store.mlflow_pass import GroupPass
from trb_lab.store.mlflow_rows import metric_name, metric_rows, samples_views, time_of, timing_rows
from trb_lab.store.run_dir import Store
from trb_lab.store.samples import write_samples
from trb_lab.store.status import begin_attempt, cancel, end_attempt

from .fakes import (
    START,
    checkpoint,
    completed_run,
    finish,
    make_run,
    read_state,
    timing_line,
    train,
)
from .mlflow_db import counts, query, run_of, steps, two_arm_sweep

pytest.importorskip("mlflow")


def test_a_finished_sweep_arrives_whole_and_once(mirrored: Store) -> None:
    two_arm_sweep(mirrored)
    run = completed_run(mirrored, "a-s0", score=0.5)
    write_samples(run, 4, "rollout", [{"prompt": "1+<b>1", "response": "2", "tokens": ["2"]}])
    completed_run(mirrored, "b-s1", seed=1, score=0.25)
    report = mirrored.sweep("budgets").report
    (report / "figures").mkdir(parents=True)
    (report / "report.html").write_text("<p>")
    (report / "figures" / "curve.png").write_bytes(b"png")

    status = sync_store(mirrored)
    assert (status.ok, status.runs, status.running) == (True, 2, 0), status
    before = counts(mirrored)
    trial, parent = run_of(mirrored, "a-s0"), run_of(mirrored, "sweep:budgets")
    assert trial["tags"]["mlflow.parentRunId"] == parent["id"]
    assert (trial["name"], trial["status"]) == ("trb kl_budget=0.05 seed 0", "FINISHED")
    assert trial["tags"]["code_version"] == "0.1.0+gabc"
    tags = {k: trial["tags"][k] for k in ("arm", "setting", "seed", "attempt", "state", "host")}
    assert list(tags.values()) == ["trb", "kl_budget=0.05", "0", "1", "completed", "box"]
    assert trial["params"]["warmup.kl_budget"] == "0.05"
    assert trial["params"]["warmup.kind"] == "trb"
    # Evaluations after the update of step k stand at k + 1, the rest at k, at the time of its timing line.
    assert steps(trial, "train/loss") == list(range(10))
    assert steps(trial, "eval/easy/pass_at_1") == [5, 10]
    assert steps(trial, "system/seconds/rollout") == list(range(10))
    assert ("train/loss", 3, 0.25, int(1000 * (START + 3))) in trial["metrics"]
    assert ("final/mean_pass_at_1", 10, 0.5, int(1000 * (START + 5000))) in trial["metrics"]
    sample = "samples.parquet/step_000004-rollout.parquet"
    for name in ("config.json", "metrics.jsonl", "result.json", "log.txt", sample):
        assert (trial["artifacts"] / name).exists(), name
    assert "1+&lt;b&gt;1" in (trial["artifacts"] / "samples" / "step_000004-rollout.html").read_text()
    assert (trial["artifacts"] / "config.json").is_relative_to(mirrored.mlflow_artifacts)

    # One trial has not begun, and no driver lives.
    assert (parent["name"], parent["status"]) == ("budgets", "KILLED")
    assert parent["tags"]["trb.completed"] == "2 of 3"
    finals = {key: value for key, _, value, _ in parent["metrics"] if key.startswith("final/")}
    assert finals == {"final/trb kl_budget 0.05/mean_pass_at_1": 0.5, "final/opd/mean_pass_at_1": 0.25}
    assert (parent["artifacts"] / "report" / "figures" / "curve.png").exists()

    assert sync_store(mirrored).values_sent == 0
    assert counts(mirrored) == before
    # Nothing noted (the file is lost): everything is found again by tag, and sent to the same rows.
    mirrored.sweep("budgets").mlflow.unlink()
    assert sync_store(mirrored).ok
    assert counts(mirrored) == before
    completed_run(mirrored, "c-s2", seed=2, score=0.75)
    assert sync_store(mirrored).ok
    assert run_of(mirrored, "sweep:budgets")["status"] == "FINISHED"


def test_a_run_is_shown_up_to_its_checkpoint_while_it_lives(mirrored: Store) -> None:
    run = make_run(mirrored, "a-s0")
    with locks.hold(run.lock, "the run"):
        begin_attempt(run)
        checkpoint(run, 4, train(run, 0, 4))
        train(run, 4, 6)
        assert sync_store(mirrored).running == 1
        shown = run_of(mirrored, "a-s0")
        assert (shown["status"], shown["tags"]["state"]) == ("RUNNING", "running")
        assert steps(shown, "train/loss") == [0, 1, 2, 3]
        assert steps(shown, "system/seconds/total") == list(range(6))
    # The worker was killed: dead, not running, and what follows the checkpoint is not shown.
    assert sync_store(mirrored).ok
    shown = run_of(mirrored, "a-s0")
    assert (shown["status"], shown["tags"]["state"]) == ("KILLED", "interrupted")
    assert "died without a word" in shown["tags"]["error"]
    assert steps(shown, "train/loss") == [0, 1, 2, 3]

    # A second attempt resumes at the checkpoint and goes wrong at step 8: a retry may take its lines back.
    number = begin_attempt(run)
    with open(run.metrics, "r+b") as f:
        f.truncate(read_state(run.checkpoints / "step_000004" / "state.json")["metrics_offset"])
    train(run, 4, 8, attempt=2)
    end_attempt(run, number, "failed", error="loss is nan", error_class="nan")
    assert sync_store(mirrored).ok
    shown = run_of(mirrored, "a-s0")
    assert (shown["status"], shown["tags"]["attempt"]) == ("FAILED", "2")
    assert shown["tags"]["error"] == "loss is nan"
    assert steps(shown, "train/loss") == [0, 1, 2, 3]
    assert shown["tags"]["error_class"] == "nan"

    # A third attempt redoes steps 4..7 and completes: every step is there once, the error is gone. Clocks
    # are those of the first time that a step was made.
    number = begin_attempt(run)
    with open(run.metrics, "r+b") as f:
        f.truncate(read_state(run.checkpoints / "step_000004" / "state.json")["metrics_offset"])
    train(run, 4, 10, attempt=3)
    finish(run, number, 10)
    assert sync_store(mirrored).ok
    shown = run_of(mirrored, "a-s0")
    assert (shown["status"], shown["tags"]["attempt"], shown["tags"]["error"]) == ("FINISHED", "3", "")
    assert steps(shown, "train/loss") == list(range(10))
    assert steps(shown, "system/seconds/total") == list(range(10))
    assert query(mirrored, "SELECT name FROM experiments WHERE experiment_id > 0") == [("runs",)]


def test_cancelled_and_new_trials(mirrored: Store) -> None:
    two_arm_sweep(mirrored)
    cancel(make_run(mirrored, "a-s0"))
    make_run(mirrored, "b-s1")
    assert sync_store(mirrored, sweep="budgets").runs == 1
    assert run_of(mirrored, "a-s0")["status"] == "KILLED"
    with locks.hold(mirrored.sweep("budgets").driver_lock, "the sweep"):
        assert sync_store(mirrored).ok
        assert run_of(mirrored, "sweep:budgets")["status"] == "RUNNING"
    with pytest.raises(UsageError, match="Did you mean 'budgets'"):
        sync_store(mirrored, sweep="budget")


def test_a_crash_between_create_and_persist_makes_no_second_run(
    mirrored: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_arm_sweep(mirrored)
    completed_run(mirrored, "a-s0")

    def die(self: GroupPass) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(GroupPass, "_save", die)
        with pytest.raises(KeyboardInterrupt):
            sync_store(mirrored)
    assert not mirrored.sweep("budgets").mlflow.exists()
    assert counts(mirrored)["runs"] == 2
    assert sync_store(mirrored).ok
    assert counts(mirrored)["runs"] == 2
    assert run_of(mirrored, "a-s0")["status"] == "FINISHED"
    noted = read_state(mirrored.sweep("budgets").mlflow)["runs"]["a-s0"]["mlflow_run_id"]
    assert noted == run_of(mirrored, "a-s0")["id"]


def test_runs_deleted_in_mlflow(mirrored: Store) -> None:
    from mlflow.tracking import MlflowClient

    run = make_run(mirrored, "a-s0")
    number = begin_attempt(run)
    train(run, 0, 2)
    assert sync_store(mirrored).ok
    MlflowClient(mlflow_tracking.local_uri(mirrored)).delete_run(run_of(mirrored, "a-s0")["id"])
    end_attempt(run, number, "failed", error="x")
    completed_run(mirrored, "b-s1", seed=1)
    assert sync_store(mirrored).ok  # one that a person deleted stays deleted, and holds up no other
    assert run_of(mirrored, "b-s1")["status"] == "FINISHED"
    assert counts(mirrored)["runs"] == 2


def test_a_moved_store_and_a_lost_database(mirrored: Store, empty_database: Path) -> None:
    completed_run(mirrored, "a-s0")
    assert sync_store(mirrored).ok
    with closing(sqlite3.connect(mirrored.mlflow_db)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    moved = Store(mirrored.root.with_name("moved"))
    shutil.move(mirrored.root, moved.root)
    before = counts(moved)
    completed_run(moved, "b-s1", seed=1)
    assert sync_store(moved).ok
    assert (run_of(moved, "a-s0")["artifacts"] / "result.json").exists()
    assert run_of(moved, "b-s1")["artifacts"].is_relative_to(moved.mlflow_artifacts)
    assert counts(moved)["runs"] == before["runs"] + 1

    other = Store(moved.root.with_name("lost"))
    shutil.copytree(moved.root, other.root)
    for leftover in other.root.glob("mlflow.db*"):
        leftover.unlink()
    shutil.copy(empty_database, other.mlflow_db)
    assert sync_store(other).ok
    assert counts(other)["runs"] == 2
    assert run_of(other, "a-s0")["status"] == "FINISHED"


def test_missing_mlflow_says_what_to_install(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"trb-lab\[driver\]"):
        sync_store(store)


def test_rows() -> None:
    line = {"step": 4, "train/loss": 1, "eval/easy/pass_at_1": 0.5, "note": "x", "flag": True}
    rows = metric_rows(line, 7)
    assert [(r.key, r.step) for r in rows] == [("train/loss", 4), ("eval/easy/pass_at_1", 5)]
    assert [time_of({2: 20, 5: 50}, step, 1) for step in (0, 2, 4, 9)] == [1, 20, 20, 50]
    assert metric_name("final/trb kl_budget=0.05 (x)") == "final/trb kl_budget 0.05 -x-"
    assert timing_line(0)["seconds"]["total"] == 1.0


def test_a_torn_sample_file_waits(mirrored: Store) -> None:
    run = completed_run(mirrored, "a-s0")
    run.samples.mkdir()
    torn = run.samples / "step_000001-rollout.parquet"
    torn.write_bytes(b"PAR1")
    assert sync_store(mirrored).ok
    torn.unlink()
    write_samples(run, 1, "rollout", [{"prompt": "p", "response": "x" * 9000}] * 100)
    page = samples_views(torn)[".html"]
    assert page.count("<tr>") == 61
    assert "60 of 100 rows" in page
    assert sync_store(mirrored).ok
    shown = run_of(mirrored, "a-s0")
    assert (shown["artifacts"] / "samples" / "step_000001-rollout.html").exists()
    listed = [{"path": "samples/step_000001-rollout.json", "type": "table"}]
    assert json.loads(shown["tags"]["mlflow.loggedArtifacts"]) == listed


def test_samples_are_a_table_as_mlflow_reads_it(mirrored: Store) -> None:
    import pandas as pd

    run = completed_run(mirrored, "a-s0")
    rows = [{"prompt": f"{i}+1", "response": f"r{i}", "row": i, "correct": i == 1} for i in range(3)]
    write_samples(run, 1, "rollout", rows)
    assert sync_store(mirrored).ok
    path = run_of(mirrored, "a-s0")["artifacts"] / "samples" / "step_000001-rollout.json"
    table = pd.read_json(path, orient="split")  # as MlflowClient.load_table does
    assert list(table.columns[:2]) == ["prompt", "response"]
    assert table[["prompt", "response", "row", "correct"]].to_dict("records") == rows


def test_costs_that_a_phase_never_has_get_no_chart() -> None:
    costs = {"cpu_seconds": 1.0, "gpu_seconds": 0.0, "seconds": 2.0, "student_tokens": 0, "teacher_tokens": 0}
    line = {"step": 3, "time": 5.0, "cost": {"grading": costs, "rollout": costs}, "seconds": {"grading": 0.0}}
    assert [row.key for row in timing_rows(line)] == [
        "system/cost/grading/cpu_seconds",
        "system/cost/rollout/cpu_seconds",
        "system/cost/rollout/student_tokens",
        "system/cost/rollout/teacher_tokens",
        "system/seconds/grading",
    ]
