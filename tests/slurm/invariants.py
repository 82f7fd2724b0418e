"""What must be true of a sweep that has ended well, told from its files alone.

Each check returns its complaints, so that one look shows everything that is wrong with a store.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from trb_lab.store.run_dir import RunDir, Store, read_json
from trb_lab.store.status import attempts, state_of


def complaints(store: Store, sweep: str, weights: Mapping[str, str] | None = None) -> list[str]:
    """Everything that is wrong; `weights` are those of an undisturbed run, by run id (`final_weights`)."""
    runs = planned(store, sweep)
    found = []
    for run in runs:
        found += one_terminal_result(run) + one_worker_at_a_time(run) + every_step_once(run)
        if weights is not None and weights.get(run.run_id) != final_weights(run):
            found.append(f"{run.run_id}: its final weights are not those of an undisturbed run")
    return found + one_finished_mlflow_run_each(store, runs)


def planned(store: Store, sweep: str) -> list[RunDir]:
    """Run directories of a sweep's trials."""
    ids = dict.fromkeys(trial["run_id"] for trial in read_json(store.sweep(sweep).plan)["trials"])
    return [store.trial(run_id) for run_id in ids]


def one_terminal_result(run: RunDir) -> list[str]:
    found = []
    if state_of(run) != "completed":
        found.append(f"{run.run_id} is {state_of(run)}, not completed")
    events = attempts(run)
    ends = [i for i, event in enumerate(events) if event["event"] == "end" and event["state"] == "completed"]
    if len(ends) > 1:
        found.append(f"{run.run_id} was completed {len(ends)} times")
    if ends and events[ends[0] + 1 :]:
        found.append(f"{run.run_id}: something was logged after its completion: {events[ends[0] + 1 :]}")
    return found


def one_worker_at_a_time(run: RunDir) -> list[str]:
    """An attempt begins after the one before it has ended; one that died silently writes nothing after that."""
    found = []
    open_attempt: int | None = None
    starts: dict[int, float] = {}
    for event in attempts(run):
        number = int(event["attempt"])
        if event["event"] == "start":
            if number != len(starts) + 1:
                found.append(f"{run.run_id}: attempt {number} follows {len(starts)} others")
            starts[number], open_attempt = float(event["time"]), number
        elif open_attempt != number and event["state"] != "cancelled":  # that is noted after it has ended too
            found.append(f"{run.run_id}: attempt {number} ended while it was not the open one")
        else:
            open_attempt = None
    for line in _lines(run.timing):
        number, next_start = int(line["attempt"]), starts.get(int(line["attempt"]) + 1)
        if next_start is not None and line["time"] > next_start:
            found.append(
                f"{run.run_id}: attempt {number} made step {line['step']} after the next one had begun"
            )
    return found


def every_step_once(run: RunDir) -> list[str]:
    steps = [line["step"] for line in _lines(run.metrics)]
    wanted = list(range((read_json(run.config) or {})["spec"]["steps"]))
    return [] if steps == wanted else [f"{run.run_id}: the steps of metrics.jsonl are {steps}"]


def final_weights(run: RunDir) -> str | None:
    """A hash of the student in the newest checkpoint; None where there is none."""
    folders = sorted(run.checkpoints.glob("step_*"))
    if not folders:
        return None
    return hashlib.sha256((folders[-1] / "student.safetensors").read_bytes()).hexdigest()


def one_finished_mlflow_run_each(store: Store, runs: list[RunDir]) -> list[str]:
    """Read with plain SQL, not with the code under test."""
    if not store.mlflow_db.exists():
        return ["there is no MLflow store"]
    with closing(sqlite3.connect(store.mlflow_db)) as connection:
        of_trials = connection.execute(
            "SELECT t.value, r.status FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid WHERE t.key = 'trb.run_id'"
        ).fetchall()
        running = connection.execute("SELECT name FROM runs WHERE status = 'RUNNING'").fetchall()
    found = [f"MLflow shows {name} RUNNING" for (name,) in running]
    statuses: dict[str, list[str]] = {}
    for run_id, status in of_trials:
        statuses.setdefault(run_id, []).append(status)
    for run in runs:
        if statuses.get(run.run_id) != ["FINISHED"]:
            found.append(f"{run.run_id}: its MLflow runs are {statuses.get(run.run_id)}")
    return found


def batch_records(store: Store) -> int:
    """How often something was submitted to a cluster for this store."""
    return len(list(store.slurm.glob("*/batch.json")))


def _lines(path: Path) -> list[dict[str, Any]]:
    """A line that a death tore is nobody's step."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
