"""Run directories with made-up numbers, as a worker would leave them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trb_lab.spec import ExperimentSpec
from trb_lab.store.metrics import MetricsWriter
from trb_lab.store.run_dir import RunDir, Store, write_json
from trb_lab.store.status import begin_attempt, end_attempt

START = 1_700_000_000.0


def spec(**changes: Any) -> ExperimentSpec:
    base: dict[str, Any] = {
        "name": "fake",
        "student": "arith-student",
        "teacher": "arith-teacher",
        "dataset": {"kind": "arith"},
        "warmup": {"kind": "trb", "kl_budget": 0.05, "steps": 5},
        "steps": 10,
    }
    return ExperimentSpec.model_validate({**base, **changes})


def metric_line(step: int) -> dict[str, Any]:
    line: dict[str, Any] = {"step": step, "train/loss": 1.0 / (step + 1), "rollout/reward": 0.1 * step}
    if step % 5 == 4:
        line |= {"eval/easy/pass_at_1": 0.02 * step, "eval/mean/pass_at_1": 0.02 * step}
    return line


def timing_line(step: int, attempt: int = 1) -> dict[str, Any]:
    when = START + step + 1000 * (attempt - 1)
    return {
        "step": step,
        "time": when,
        "attempt": attempt,
        "seconds": {"rollout": 0.5, "total": 1.0},
        "tokens_per_second": 100.0,
        "memory_bytes": 1000,
    }


def make_run(store: Store, run_id: str, seed: int = 0) -> RunDir:
    run = store.trial(run_id)
    config = {"run_id": run_id, "format": 1, "spec": spec(seed=seed).model_dump(mode="json"), "identity": {}}
    write_json(run.config, config)
    write_json(run.provenance, {"attempt": 1, "code": {"label": "0.1.0+gabc"}, "host": {"name": "box"}})
    return run


def train(run: RunDir, first: int, last: int, attempt: int = 1) -> int:
    """Lines for steps first..last-1; returns the metrics offset."""
    with MetricsWriter(run.metrics) as metrics, MetricsWriter(run.timing) as timing:
        for step in range(first, last):
            metrics.write(metric_line(step))
            timing.write(timing_line(step, attempt))
        return metrics.offset


def checkpoint(run: RunDir, step: int, offset: int) -> None:
    write_json(run.checkpoints / f"step_{step:06d}" / "state.json", {"step": step, "metrics_offset": offset})


def finish(run: RunDir, attempt: int, steps: int, score: float = 0.5) -> None:
    entry = {"pass_at_1": score, "stderr": 0.01, "num_problems": 100}
    write_json(
        run.result,
        {
            "run_id": run.run_id,
            "state": "completed",
            "steps": steps,
            "final": {"mean_pass_at_1": score, "sets": {"easy": entry}},
            "seconds_total": 10.0,
            "attempts": attempt,
            "finished": START + 5000,
        },
    )
    end_attempt(run, attempt, "completed")


def completed_run(store: Store, run_id: str, seed: int = 0, steps: int = 10, score: float = 0.5) -> RunDir:
    run = make_run(store, run_id, seed)
    attempt = begin_attempt(run)
    checkpoint(run, steps, train(run, 0, steps))
    run.log.write_text("hello\n")
    finish(run, attempt, steps, score)
    return run


def add_set(run: RunDir, name: str, score: float, finished: float) -> None:
    """What an evaluation of a completed run on one more set leaves."""
    result = read_state(run.result)
    sets = result["final"]["sets"]
    sets[name] = {"pass_at_1": score, "stderr": 0.01, "num_problems": 100}
    result["final"]["mean_pass_at_1"] = sum(entry["pass_at_1"] for entry in sets.values()) / len(sets)
    write_json(run.result, result | {"finished": finished})


def write_plan(
    store: Store,
    name: str,
    run_ids: dict[str, tuple[str, str, int]],
    also: Sequence[tuple[str, tuple[str, str, int]]] = (),
) -> None:
    """`run_ids`: run id -> (arm, setting, seed); `also`: rows that share a trial with one of them."""
    trials = [
        {"run_id": r, "arm": arm, "setting": setting, "seed": seed, "overrides": {}}
        for r, (arm, setting, seed) in [*run_ids.items(), *also]
    ]
    sweep = {"seeds": [0, 1], "base": "b.yaml"}
    write_json(store.sweep(name).plan, {"name": name, "question": "which?", "spec": sweep, "trials": trials})


def read_state(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))
