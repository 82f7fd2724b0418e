"""A small store with plausible numbers, written by the contract of docs/files.md without running anything."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trb_lab.spec import ExperimentSpec
from trb_lab.store.items import write_items
from trb_lab.store.run_dir import RunDir, Store, write_json

SETS = {"easy": 0.10, "medium": 0.0, "hard": -0.15}
STUDENT, TEACHER = 0.20, 0.95
QUESTION = "Which KL budget, and for how long?"

ARMS: dict[str, dict[str, Any]] = {
    "opd": {"label": "vanilla OPD"},
    "trb": {"label": "TRB", "grid": {"warmup.kl_budget": [0.005, 0.02, 0.1], "warmup.steps": [10, 20]}},
    "teacher_forced": {"label": "teacher-forced"},
}

TEN_ARMS: dict[str, dict[str, Any]] = {
    "opd": {"label": "Vanilla OPD"},
    "trb": {"label": "TRB", "grid": {"warmup.kl_budget": [0.005, 0.02, 0.1], "warmup.steps": [10, 20]}},
    "fixed_epsilon": {"label": "Fixed-eps", "grid": {"warmup.kl_budget": [0.005, 0.02, 0.1]}},
    "teacher_forced": {"label": "Teacher-forced"},
    "mixture": {"label": "Mixture"},
    "temperature": {"label": "Temperature warmup", "grid": {"warmup.temperature": [0.8, 0.95]}},
    "sft": {"label": "SFT warmup"},
    "skd": {"label": "SKD", "grid": {"warmup.top_k": [15, 25]}},
    "veto": {"label": "Veto"},
    "saki": {"label": "SAKI", "grid": {"warmup.kl_budget": [0.02]}},
}
"""Every kind of arm, as the comparison with the paper's baselines has them."""
WITH_STEPS = ("trb", "teacher_forced", "mixture", "temperature", "saki")
"""Kinds whose warmup has `steps`, and which the plans here give 20 of."""


def planned_trials(arms: dict[str, dict[str, Any]], seeds: list[int], steps: int) -> list[dict[str, Any]]:
    """The trials of the plan, in its order."""
    trials = []
    for arm, body in arms.items():
        kind = body.get("kind", arm)
        grid = body.get("grid", {})
        points: list[dict[str, Any]] = [{}]
        for key, values in grid.items():
            points = [{**p, key: v} for p in points for v in values]
        for point in points:
            for seed in seeds:
                warmup: dict[str, Any] = {"kind": kind, "steps": 20} if kind in WITH_STEPS else {"kind": kind}
                warmup |= {k.removeprefix("warmup."): v for k, v in point.items()}
                spec = ExperimentSpec.model_validate(
                    {
                        "name": "arith",
                        "student": "arith-student",
                        "teacher": "arith-teacher",
                        "dataset": {"kind": "arith"},
                        "warmup": warmup,
                        "steps": steps,
                        "seed": seed,
                        "eval": {"sets": [f"arith/{s}" for s in SETS], "every": 10},
                    }
                ).model_dump(mode="json")
                name = " ".join(f"{k.removeprefix('warmup.')}={v}" for k, v in point.items())
                run_id = f"{kind}-s{seed}-{hash_text(arm + name + str(seed)):010x}"
                trials.append(
                    {
                        "run_id": run_id,
                        "arm": arm,
                        "setting": name,
                        "seed": seed,
                        "overrides": {"warmup.kind": kind, **point},
                        "spec": spec,
                    }
                )
    return trials


def hash_text(text: str) -> int:
    """A stable small hash (Python's own changes from process to process)."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:10], 16)


def write_store(
    root: Path,
    *,
    name: str = "kl_budget",
    question: str = QUESTION,
    arms: dict | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 60,
    failed: tuple[int, ...] = (5,),
    missing: tuple[int, ...] = (8,),
    effects: dict[str, float] | None = None,
    items: bool = False,
) -> Store:
    """A sweep whose trials are completed but for the indices in `failed` and `missing`; returns its store.

    effects: arm -> what it adds to the final score of every seed. items: with item scores, which the scores are then
    means of, and with cost ledgers.
    """
    store = Store(root)
    arms = arms or ARMS
    trials = planned_trials(arms, list(seeds), steps)
    references = [
        {"run_id": f"{role}-00000000a{i}", "role": role, "model": f"arith-{role}"}
        for i, role in enumerate(("teacher", "student"))
    ]
    spec = {
        "name": name,
        "question": question,
        "base": "arith.yaml",
        "seeds": list(seeds),
        "arms": arms,
        "report": {"reference": None, "references": True},
    }
    plan = {
        "name": name,
        "question": question,
        "created": 0,
        "spec": spec,
        "trials": trials,
        "references": references,
    }
    write_json(store.sweep(name).plan, plan)
    for reference, level in zip(references, (TEACHER, STUDENT), strict=True):
        write_result(store.reference(reference["run_id"]), {s: level + 0.3 * d for s, d in SETS.items()}, 0)
    for index, trial in enumerate(trials):
        if index in missing:
            continue
        run = store.trial(trial["run_id"])
        bonus = (effects or {}).get(trial["arm"], 0.0)
        write_trial(run, trial, bonus, stop_at=steps // 3 if index in failed else None)
        if items and index not in failed:
            write_items_and_costs(run, trial)
        if index in failed:
            log_attempt(
                run,
                {
                    "state": "failed",
                    "error_class": "nan",
                    "error": "train/loss is nan at step 20 <b>",
                    "traceback": "Traceback: ...",
                },
            )
    return store


def write_trial(run: RunDir, trial: dict[str, Any], bonus: float = 0.0, stop_at: int | None = None) -> None:
    """Metrics, timing, samples, provenance, and, unless it stops early, the result."""
    spec = trial["spec"]
    rng = np.random.default_rng(hash_text(trial["run_id"]) % (1 << 32))
    warmup, steps = spec["warmup"], spec["steps"]
    seed_luck = 0.015 * np.random.default_rng(trial["seed"]).normal() + 0.008 * rng.normal()
    final = 0.60 + bonus + seed_luck
    lines, timing = [], []
    for step in range(stop_at or steps):
        lines.append(_metrics(step, steps, warmup, final, rng))
        timing.append(
            {
                "step": step,
                "time": 1e9 + step,
                "attempt": 1,
                "tokens_per_second": 9000,
                "seconds": {
                    "rollout": 0.3,
                    "objective": 0.2,
                    "eval": 0.0 if step % 10 != 9 else 4.0,
                    "total": (0.5 if step >= (warmup.get("steps") or 0) else 0.9)
                    + 0.01 * rng.random()
                    + (0.0 if step % 10 != 9 else 4.0),
                },
            }
        )
    run.path.mkdir(parents=True, exist_ok=True)
    write_json(run.config, {"run_id": run.run_id, "format": 1, "spec": spec, "identity": {}})
    write_json(
        run.provenance, {"code": {"version": "0.1.0", "commit": "e4144b8a", "label": "0.1.0+ge4144b8a"}}
    )
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run.timing.write_text("".join(json.dumps(line) + "\n" for line in timing))
    log_attempt(run, None)
    write_samples(run, warmup["kind"])
    if stop_at is None:
        write_result(run, {s: min(1.0, final + d + 0.01 * rng.normal()) for s, d in SETS.items()}, steps)


def _metrics(step: int, steps: int, warmup: dict, final: float, rng: np.random.Generator) -> dict[str, float]:
    horizon = warmup.get("steps") or 0
    left = max(0.0, 1 - step / horizon) if horizon else float(warmup["kind"] == "fixed_epsilon")
    initial = {"teacher_forced": 1.0, "mixture": warmup.get("weight", 0)}
    schedule = initial.get(warmup["kind"], warmup.get("kl_budget", 0.0)) * left
    redraw = 0.12 * schedule if warmup["kind"] == "mixture" else 0.6 * math.sqrt(schedule / 2)
    redraw = 0.0 if warmup["kind"] == "teacher_forced" else redraw
    skill = STUDENT + (final - STUDENT) * (1 - math.exp(-3 * (step + 1) / steps)) / (1 - math.exp(-3))
    help_now = 2.0 * redraw if warmup["kind"] != "teacher_forced" else (TEACHER - skill) * schedule
    line = {
        "step": step,
        "train/loss": 0.5 * math.exp(-step / steps),
        "train/reverse_kl": 0.3,
        "train/grad_norm": 1.0,
        "train/lr": 1e-3,
        "rollout/reward": float(np.clip(skill + help_now + 0.04 * rng.normal(), 0, 1)),
        "rollout/length_mean": 60 - 12 * skill - 30 * redraw + rng.normal(),
        "rollout/truncated_share": 0.02,
        "rollout/tokens": 4000,
        "policy/schedule": schedule,
        "policy/beta_mean": min(1.0, 3.2 * math.sqrt(schedule)),
        "policy/kl_mean": 0.55 * schedule,
        "policy/kl_max": schedule,
        "policy/redraw_rate": redraw,
        "policy/teacher_entropy": 0.42 - 0.9 * redraw - 0.15 * skill + 0.008 * rng.normal(),
    }
    if warmup["kind"] == "opd":
        line = {k: v for k, v in line.items() if k not in ("policy/beta_mean", "policy/redraw_rate")}
    if step % 10 == 9 or step == steps - 1:
        for name, shift in SETS.items():
            line[f"eval/{name}/pass_at_1"] = skill + shift
        line["eval/mean/pass_at_1"] = skill + sum(SETS.values()) / len(SETS) + 0.006 * rng.normal()
    return line


def write_result(run: RunDir, sets: dict[str, float], steps: int) -> None:
    """result.json with 200 problems a set."""
    entries = {
        s: {
            "pass_at_1": p,
            "stderr": math.sqrt(max(p * (1 - p), 0) / 200),
            "num_problems": 200,
            "num_samples": 4,
            "truncated_share": 0.01,
            "length_mean": 50.0,
            "repetition_share": 0.0,
            "no_answer_share": 0.02,
            "timeouts": 0,
        }
        for s, p in sets.items()
    }
    final = {"mean_pass_at_1": sum(sets.values()) / len(sets), "sets": entries}
    write_json(
        run.result,
        {
            "run_id": run.run_id,
            "state": "completed",
            "steps": steps,
            "final": final,
            "tokens": {},
            "seconds_total": 31.0,
            "attempts": 1,
            "finished": 1.7e9,
        },
    )


def log_attempt(run: RunDir, end: dict[str, Any] | None) -> None:
    """The start of attempt 1, and its end where given (a result.json needs none)."""
    run.path.mkdir(parents=True, exist_ok=True)
    events = [{"attempt": 1, "event": "start", "time": 1.0, "pid": 1, "host": "h"}]
    if end:
        events.append({"attempt": 1, "event": "end", "time": 2.0, **end})
    run.attempts.write_text("".join(json.dumps(e) + "\n" for e in events))


def write_samples(run: RunDir, kind: str) -> None:
    """Three rollouts of step 0, the same prompts for every arm."""
    rows = []
    for row in range(3):
        pieces = [
            "12",
            " + ",
            "7",
            " = ",
            "19",
            "\n",
            "19",
            " - ",
            f"{row}",
            " = ",
            f"{19 - row}",
            "\n",
            "\\boxed{",
            f"{19 - row}",
            "}",
        ]
        wrong = kind == "opd" and row < 2
        if wrong:
            pieces[4] = "18"
        redraw = [0.0 if kind == "opd" else 0.02] * len(pieces)
        if kind != "opd":
            redraw[4], redraw[10] = 0.62, 0.18
        rows.append(
            {
                "step": 0,
                "source": "rollout",
                "row": row,
                "prompt": f"Compute 12 + 7 - {row}. <script>alert(1)</script>",
                "response": "".join(pieces),
                "answer": str(19 - row),
                "gold": str(19 - row),
                "correct": not wrong,
                "tokens": pieces,
                "student_logprob": [-0.5] * len(pieces),
                "teacher_logprob": [-0.2] * len(pieces),
                "behavior_logprob": [-0.3] * len(pieces),
                "redraw_probability": redraw,
            }
        )
    run.samples.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(run.samples / "step_000000.parquet")


PROBLEMS, SAMPLES = 40, 2


def item_rows(step: int, name: str, level: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Item scores of one evaluation; problems differ in how hard they are, the same for every run."""
    rows = []
    for i in range(PROBLEMS):
        ease = 0.25 * math.sin(2.4 * i + len(name))
        for sample in range(SAMPLES):
            correct = bool(rng.random() < level + ease)
            rows.append(
                {
                    "step": step,
                    "set": name,
                    "problem": f"{name}/{i}",
                    "sample": sample,
                    "correct": correct,
                    "reason": "correct" if correct else "wrong",
                    "answer": "1",
                    "tokens": 40,
                    "finished": True,
                }
            )
    return rows


def write_item_file(run: RunDir, rows: list[dict[str, Any]]) -> None:
    """One file of the run's item scores, as a run writes it."""
    rest = [{k: v for k, v in row.items() if k not in ("step", "set")} for row in rows]
    write_items(run, rows[0]["step"], rows[0]["set"], rest)


def write_items_and_costs(run: RunDir, trial: dict[str, Any]) -> None:
    """Item scores at each evaluation, scores that are their means, and a ledger in the result and the timings."""
    rng = np.random.default_rng(hash_text("items" + trial["run_id"]) % (1 << 32))
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    last: dict[str, float] = {}
    for line in lines:
        if "eval/mean/pass_at_1" in line:
            for name in SETS:
                rows = item_rows(line["step"], name, line[f"eval/{name}/pass_at_1"], rng)
                write_item_file(run, rows)
                last[name] = sum(r["correct"] for r in rows) / len(rows)
                line[f"eval/{name}/pass_at_1"] = last[name]
            line["eval/mean/pass_at_1"] = sum(last.values()) / len(last)
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_result(run, last, len(lines))
    kind, horizon = (
        trial["spec"]["warmup"]["kind"],
        ExperimentSpec.model_validate(trial["spec"]).horizon_steps,
    )
    result = json.loads(run.result.read_text())
    result["cost"] = ledger(len(lines), horizon if kind not in ("opd", "veto", "temperature") else 0, kind)
    write_json(run.result, result)


def ledger(steps: int, with_teacher: int, kind: str) -> dict[str, Any]:
    """A cost ledger: rollouts with the teacher cost more; SFT has its samples and updates."""

    def phase(seconds: float, student: int, teacher: int) -> dict[str, float]:
        tokens = {"student_tokens": student, "teacher_tokens": teacher}
        return {"seconds": seconds, "cpu_seconds": seconds, "gpu_seconds": 0.0, **tokens}

    phases = {
        "rollout": phase(0.3 * steps + 0.4 * with_teacher, 4000 * steps, 4500 * with_teacher),
        "scoring": phase(0.05 * (steps - with_teacher), 0, 4000 * (steps - with_teacher)),
        "optimizer": phase(0.2 * steps, 4000 * steps, 0),
        "eval": phase(1000.0, 10**9, 0),
    }
    if kind == "sft":
        phases |= {"sft_samples": phase(30.0, 0, 400_000), "sft": phase(5.0, 400_000, 0)}
    total = {k: sum(p[k] for p in phases.values()) for k in phases["rollout"]}
    return {"phases": phases, "total": total, "gpus": 0}
