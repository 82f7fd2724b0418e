"""A store of a finished sweep of any size, by the contract of docs/files.md, written without running anything.

Numbers are made up and look like those of a run: skill grows, KL and redraws fall with the anneal. The same arguments
give the same bytes. Nothing is synced to disk, and lines are filled into templates: a thousand runs take seconds.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trb_lab.spec import ExperimentSpec
from trb_lab.store.items import write_items
from trb_lab.store.run_dir import RunDir, Store
from trb_lab.store.samples import write_samples

SETS = {"easy": 0.25, "medium": 0.0, "hard": -0.2}
"""Evaluation set -> how far its scores lie from the suite's mean."""
BUDGETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
EVALUATE_EVERY = 20
STUDENT, TEACHER, TRAINED = 0.3, 0.9, 0.6
"""Scores of the models and of plain distillation's end."""
CREATED = 1.79e9
METRICS = (
    "rollout/reward", "rollout/length_mean", "rollout/truncated_share", "rollout/support_auroc",
    "train/reverse_kl", "policy/schedule", "policy/kl_mean", "policy/beta_mean", "policy/redraw_rate",
    "policy/teacher_entropy", "policy/teacher_logprob", "policy/student_logprob", "policy/kl_max",
    "policy/binding_share", "policy/redrawn_share", "policy/teacher_logprob_gap", "train/loss",
    "train/grad_norm", "train/lr", "train/logprob_gap", "rollout/tokens", "rollout/empty_share",
    "rollout/unboxed_share", "rollout/no_answer_share", "rollout/repetition_share", "rollout/grading_timeouts",
)  # fmt: skip
"""Values of a line besides `step`, those that a report reads first."""
PHASES = ("grading", "objective", "optimizer", "rollout", "scoring")


def write_synthetic_store(
    root: Path,
    *,
    runs: int = 1000,
    steps: int = 200,
    metrics: int = 30,
    seeds: int = 5,
    problems: int = 0,
    samples: bool = False,
    name: str = "synthetic",
) -> Store:
    """A completed sweep of `runs` trials: plain distillation, and TRB over a grid of KL budgets and warmup steps.

    runs: rounded up to a multiple of `seeds` (a setting has all its seeds). metrics: values a line besides `step` and
    evaluations; above the number of METRICS further ones are called `extra/000`, ... . problems: with item scores of
    so many problems a set, two samples each. samples: with rollouts of step 0.
    """
    store = Store(Path(root))
    trials = _trials(max(1, math.ceil(runs / seeds)), seeds, steps)
    references = [
        {"run_id": f"{role}-00000000a{i}", "role": role, "model": f"arith-{role}"}
        for i, role in enumerate(("teacher", "student"))
    ]
    _dump(store.sweep(name).plan, _plan(name, seeds, trials, references))
    for reference, level in zip(references, (TEACHER, STUDENT), strict=True):
        run = store.reference(reference["run_id"])
        _dump(run.config, {"run_id": run.run_id, "format": 1, "spec": {}, "identity": {}})
        _log_attempts(run)
        _dump(run.result, _result(run, {s: _share(level + shift) for s, shift in SETS.items()}, 0))
    names = sorted([*METRICS[:metrics], *(f"extra/{i:03d}" for i in range(metrics - len(METRICS)))])
    for trial in trials:
        _write_trial(store.trial(trial["run_id"]), trial, names, problems, samples)
    return store


def _trials(settings: int, seeds: int, steps: int) -> list[dict[str, Any]]:
    """Plan rows: the reference's seeds, then those of every grid point."""
    horizons = [max(1, steps // 40) * (i + 1) for i in range(math.ceil(settings / len(BUDGETS)))]
    grid = itertools.islice(itertools.product(horizons, BUDGETS), settings - 1)
    points: list[dict[str, Any]] = [{}, *({"warmup.kl_budget": b, "warmup.steps": n} for n, b in grid)]
    plain, blended = (_spec(kind, steps) for kind in ("opd", "trb"))
    rows = []
    for point in points:
        arm, base = ("trb", blended) if point else ("opd", plain)
        setting = " ".join(f"{key.removeprefix('warmup.')}={value:g}" for key, value in point.items())
        changed = {key.removeprefix("warmup."): value for key, value in point.items()}
        for seed in range(seeds):
            digest = hashlib.sha256(f"{setting} {seed} {steps}".encode()).hexdigest()[:10]
            rows.append(
                {
                    "run_id": f"{arm}-s{seed}-{digest}",
                    "arm": arm,
                    "setting": setting,
                    "seed": seed,
                    "overrides": {"warmup.kind": arm, **point},
                    "spec": {**base, "warmup": {**base["warmup"], **changed}, "seed": seed},
                    "eval_sets": {s: _fingerprint(s) for s in SETS},
                }
            )
    return rows


def _spec(kind: str, steps: int) -> dict[str, Any]:
    warmup = {"kind": kind, "kl_budget": 0.1, "steps": 1} if kind == "trb" else {"kind": kind}
    asked = {
        "name": "synthetic",
        "student": "arith-student",
        "teacher": "arith-teacher",
        "dataset": {"kind": "arith"},
        "warmup": warmup,
        "steps": steps,
        "eval": {"sets": [f"arith/{s}" for s in SETS], "every": EVALUATE_EVERY},
    }
    return ExperimentSpec.model_validate(asked).model_dump(mode="json")


def _plan(name: str, seeds: int, trials: Sequence[Any], references: Sequence[Any]) -> dict[str, Any]:
    spec = {
        "name": name,
        "question": "How much does a made-up sweep cost to read?",
        "base": "synthetic.yaml",
        "seeds": list(range(seeds)),
        "arms": {"opd": {"label": "vanilla OPD"}, "trb": {"label": "TRB"}},
        "report": {"reference": "opd", "references": True},
    }
    head = {"name": name, "question": spec["question"], "created": CREATED, "spec": spec}
    return {**head, "trials": trials, "references": references}


def _write_trial(
    run: RunDir, trial: Mapping[str, Any], names: Sequence[str], problems: int, samples: bool
) -> None:
    spec = trial["spec"]
    rng = np.random.default_rng(int(hashlib.sha256(run.run_id.encode()).hexdigest()[:8], 16))
    steps, scores = int(spec["steps"]), _scores(spec, rng)
    _dump(run.config, {"run_id": run.run_id, "format": 1, "spec": spec, "identity": {}})
    code = {
        "version": "0.1.0",
        "commit": "0" * 40,
        "dirty": False,
        "diff": None,
        "label": "0.1.0+g0000000000",
    }
    host = {"name": "nowhere", "cores": 2}
    _dump(run.provenance, {"attempt": 1, "time": CREATED, "code": code, "host": host, "seeds": {}})
    _dump(run.data, {"problems": 6000, "dropped": 0, "prompts_sha256": "0" * 64})
    _log_attempts(run)
    run.metrics.write_text(_metric_lines(spec, names, scores, rng))
    run.timing.write_text(_timing_lines(steps, scores, rng))
    final = {}
    for step, found in scores.items():
        if problems:
            found = {s: _write_items(run, step, s, share, problems, rng) for s, share in found.items()}
        final = found
    if samples:
        write_samples(run, 0, "rollout", _rollouts(trial["arm"]))
    _dump(run.result, _result(run, final, steps))


def _scores(spec: Mapping[str, Any], rng: np.random.Generator) -> dict[int, dict[str, float]]:
    """Step of an evaluation -> set -> score, the last step included."""
    steps, warmup = int(spec["steps"]), spec["warmup"]
    budget = warmup.get("kl_budget") or 0.0
    gain = 0.08 * math.exp(-(math.log10(budget / 0.05) ** 2)) if budget else 0.0
    end = TRAINED + gain + 0.015 * rng.normal()
    due = sorted({*range(EVALUATE_EVERY - 1, steps, EVALUATE_EVERY), steps - 1})
    skill = {k: STUDENT + (end - STUDENT) * (1 - math.exp(-3 * (k + 1) / steps)) for k in due}
    return {k: {s: _share(skill[k] + d + 0.01 * rng.normal()) for s, d in SETS.items()} for k in due}


def _metric_lines(
    spec: Mapping[str, Any],
    names: Sequence[str],
    scores: Mapping[int, Mapping[str, float]],
    rng: np.random.Generator,
) -> str:
    steps, warmup = int(spec["steps"]), spec["warmup"]
    horizon = warmup.get("steps") or 0
    time = np.arange(steps)
    left = np.clip(1 - time / horizon, 0, 1) if horizon else np.zeros(steps)
    schedule = (warmup.get("kl_budget") or 0.0) * left
    noise = rng.random((len(names), steps))
    table = {name: 0.1 * row if "share" in name else row for name, row in zip(names, noise, strict=True)} | {
        "rollout/length_mean": 40 + 10 * noise[0],
        "rollout/tokens": np.floor(2000 + 500 * noise[1 % len(names)]),
        "train/reverse_kl": 0.5 * np.exp(-time / steps) + 0.05 * noise[0],
        "policy/schedule": schedule,
        "policy/kl_mean": 0.55 * schedule,
        "policy/kl_max": schedule,
        "policy/redraw_rate": 0.6 * np.sqrt(schedule / 2),
        "policy/beta_mean": np.minimum(1.0, 3 * np.sqrt(schedule)),
    }
    template = ", ".join(f'"{name}": %r' for name in sorted([*names, "step"]))
    place = sorted([*names, "step"]).index("step")
    columns = [table[name].tolist() for name in names]
    columns.insert(place, list(range(steps)))
    lines = []
    for step, values in enumerate(zip(*columns, strict=True)):
        evaluated = _evaluation(scores[step]) + ", " if step in scores else ""
        lines.append("{" + evaluated + template % values + "}\n")
    return "".join(lines)


def _evaluation(scores: Mapping[str, float]) -> str:
    values = {"eval/mean/pass_at_1": math.fsum(scores.values()) / len(scores)}
    for name, share in scores.items():
        values |= {f"eval/{name}/{key}": value for key, value in _measured(share).items()}
    return json.dumps(values, sort_keys=True)[1:-1]


def _measured(share: float) -> dict[str, float]:
    """What is told of a set besides its counts."""
    stderr = math.sqrt(share * (1 - share) / 200)
    rest = dict.fromkeys(
        ("truncated_share", "repetition_share", "unboxed_share", "empty_share", "timeouts"), 0.0
    )
    return {"pass_at_1": share, "stderr": stderr, "length_mean": 45.0, "no_answer_share": 0.0, **rest}


def _timing_lines(steps: int, scores: Mapping[int, Any], rng: np.random.Generator) -> str:
    cost = ", ".join(
        f'"{phase}": {{"cpu_seconds": %r, "gpu_seconds": 0.0, "seconds": %r, "student_tokens": 2000, '
        f'"teacher_tokens": {2400 if phase == "rollout" else 0}}}'
        for phase in PHASES
    )
    seconds = ", ".join(f'"{phase}": %r' for phase in PHASES)
    rest = (
        '"step": %d, "time": %r, "tokens_per_second": %r, "work": {"block_tokens": 5, "draft_passes": 70, '
        '"drafted_tokens": 1935, "rounds": 14, "verified_tokens": 1935}'
    )
    lines, clock = [], CREATED
    for step, values in enumerate((0.02 + 0.2 * rng.random((steps, len(PHASES)))).tolist()):
        took = [*values, *([4.0] if step in scores else [])]
        total = math.fsum(took)
        clock += total
        evaluated = '"eval": 4.0, ' if step in scores else ""
        spent = cost % tuple(v for value in values for v in (value, value))
        lines.append(
            f'{{"attempt": 1, "cost": {{{spent}}}, "memory_bytes": 621985792, "seconds": {{{evaluated}'
            f'{seconds % tuple(values)}, "total": {total!r}}}, {rest % (step, clock, 2000 / total)}}}\n'
        )
    return "".join(lines)


def _write_items(
    run: RunDir, step: int, name: str, share: float, problems: int, rng: np.random.Generator
) -> float:
    """The set's score as these items have it."""
    correct = rng.random((problems, 2)) < share
    rows = [
        {
            "problem": f"{name}/{i}", "sample": k, "correct": bool(right), "reason": "correct" if right else "wrong",
            "answer": "1", "tokens": 40, "finished": True,
        }
        for i, pair in enumerate(correct)
        for k, right in enumerate(pair)
    ]  # fmt: skip
    write_items(run, step, name, rows)
    return float(correct.mean())


def _rollouts(arm: str) -> list[dict[str, Any]]:
    """Three rollouts; the same prompts for every arm."""
    rows = []
    for i in range(3):
        tokens = ["12", " + ", f"{i}", " = ", f"{12 + i}", "\n", "\\boxed{", f"{12 + i}", "}"]
        logprobs = dict.fromkeys(
            ("student_logprob", "teacher_logprob", "behavior_logprob"), [-0.3] * len(tokens)
        )
        rows.append(
            {
                "prompt": f"Compute 12 + {i}.",
                "response": "".join(tokens),
                "answer": str(12 + i),
                "gold": str(12 + i),
                "correct": True,
                "tokens": tokens,
                **logprobs,
                "redraw_probability": [0.0 if arm == "opd" else 0.1] * len(tokens),
                "redrawn": [False] * len(tokens),
            }
        )
    return rows


def _result(run: RunDir, scores: Mapping[str, float], steps: int) -> dict[str, Any]:
    counts = {"num_problems": 200, "num_dropped": 0, "num_samples": 2}
    sets = {s: {"fingerprint": _fingerprint(s), **_measured(share), **counts} for s, share in scores.items()}
    one = {
        "seconds": 0.12 * steps,
        "cpu_seconds": 0.12 * steps,
        "gpu_seconds": 0.0,
        "student_tokens": 2000 * steps,
        "teacher_tokens": 0,
    }
    phases = {p: {**one, "teacher_tokens": 2400 * steps if p == "rollout" else 0} for p in (*PHASES, "eval")}
    return {
        "run_id": run.run_id,
        "state": "completed",
        "steps": steps,
        "final": {"mean_pass_at_1": math.fsum(scores.values()) / len(scores), "sets": sets},
        "tokens": {"student": 2000 * steps, "teacher_rollout": 2000 * steps, "teacher_scoring": 0},
        "cost": {"phases": phases, "total": {k: v * len(phases) for k, v in one.items()}, "gpus": 0},
        "prompts_dropped": 0,
        "seconds_total": 0.6 * steps,
        "seconds_last_attempt": 0.6 * steps,
        "attempts": 1,
        "finished": CREATED + steps,
    }


def _log_attempts(run: RunDir) -> None:
    events = [
        {"attempt": 1, "event": "start", "host": "nowhere", "pid": 1, "time": CREATED},
        {"attempt": 1, "event": "end", "state": "completed", "time": CREATED + 1},
    ]
    run.attempts.write_text("".join(json.dumps(event) + "\n" for event in events))


def _dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def _fingerprint(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
