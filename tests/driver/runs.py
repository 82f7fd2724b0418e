"""Run directories by hand, with known times, for tests of what is told of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from trb_lab.spec import ExperimentSpec
from trb_lab.store.run_dir import RunDir, Store, write_json
from trb_lab.trial import plan_trial, set_fingerprint

HOST = "elsewhere"


def write_attempts(run: RunDir, events: Sequence[Mapping[str, Any]]) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    run.attempts.write_text("".join(json.dumps(event) + "\n" for event in events))


def start(attempt: int, time: float, pid: int = 1) -> dict[str, Any]:
    return {"attempt": attempt, "event": "start", "time": time, "pid": pid, "host": HOST}


def end(attempt: int, time: float, state: str = "completed", **more: Any) -> dict[str, Any]:
    return {"attempt": attempt, "event": "end", "time": time, "state": state, **more}


def write_provenance(run: RunDir, device: str = "cpu", threads: int = 1, names: Sequence[str] = ()) -> None:
    found = {
        "device": {"kind": device, "names": list(names)},
        "threads": threads,
        "host": {"cpu": "AMD EPYC"},
    }
    write_json(run.provenance, found)


def finished(
    store: Store,
    spec: ExperimentSpec,
    *,
    step: float = 1.0,
    evaluation: float = 0.0,
    sft: float = 0.0,
    startup: float = 0.0,
    gpus: int = 0,
    threads: int = 1,
    names: Sequence[str] = ("H100",),
) -> RunDir:
    """A completed run with so many seconds a step, an evaluation (all sets), of SFT, and before the first step."""
    planned = plan_trial(spec)
    run = store.trial(planned.run_id)
    dumped = spec.model_dump(mode="json")
    write_json(run.config, {"run_id": run.run_id, "spec": dumped, "identity": planned.identity})
    write_provenance(run, "cuda" if gpus else "cpu", threads, names if gpus else ())
    every = spec.eval.every
    evaluations = (-(-spec.steps // every) if every else 1) if spec.eval.sets else 0
    phases = {
        "rollout": {"seconds": 0.75 * step * spec.steps},
        "objective": {"seconds": 0.25 * step * spec.steps},
        **({"eval": {"seconds": evaluation * evaluations}} if evaluations else {}),
        **({"sft_samples": {"seconds": sft / 2}, "sft": {"seconds": sft / 2}} if sft else {}),
    }
    total = sum(phase["seconds"] for phase in phases.values())
    write_attempts(run, [start(1, 1000.0), end(1, 1000.0 + startup + total)])
    scores = {s.name: {"pass_at_1": 0.5, "fingerprint": set_fingerprint(s)} for s in spec.eval.sets}
    result = {
        "run_id": run.run_id, "steps": spec.steps, "seconds_total": total, "attempts": 1, "final": {"sets": scores},
    }  # fmt: skip
    write_json(
        run.result,
        {**result, "cost": {"phases": phases, "total": {"seconds": total}, "gpus": gpus}, "finished": 2000.0},
    )
    return run
