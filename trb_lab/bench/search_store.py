"""A store in which a search has come a long way: its log, and run directories as workers and pauses leave them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from trb_lab.driver.plan import plan_row, plan_sweep, write_plan
from trb_lab.store.run_dir import RunDir, Store
from trb_lab.trial import plan_trial

STEPS = 18
SAID = (
    "rollout/reward",
    "train/reverse_kl",
    "train/loss",
    "train/grad_norm",
    "policy/kl_mean",
    "policy/kl_max",
)
"""Some of what a real run says of each step."""

_BASE = f"""
name: base
student: arith-student
teacher: arith-teacher
dataset: {{kind: arith}}
steps: {STEPS}
eval: {{sets: [arith/easy], every: 2}}
"""

_SWEEP = """
name: bench
question: how long does it take?
base: base.yaml
seeds: [0]
arms:
  trb:
    overrides: {warmup: {kind: trb}}
    search:
      trials: 1000000
      sampler: tpe
      space:
        warmup.kl_budget: {kind: float, low: 0.001, high: 1.0, log: true}
        warmup.steps: {kind: int, low: 1, high: 18}
        warmup.anneal: {kind: choice, values: [linear, cosine]}
        optim.lr: {kind: float, low: 1.0e-6, high: 1.0e-4, log: true}
      pruning: {kind: asha, first: 2, factor: 3}
      confirm: null
report: {references: false}
"""


def write_sweep(folder: Path) -> Path:
    """The sweep's file, and its base."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base.yaml").write_text(_BASE)
    path = folder / "sweep.yaml"
    path.write_text(_SWEEP)
    return path


def fill(path: Path, store: Store, candidates: int) -> None:
    """Settings drawn at random, trained as far as successive halving takes them: one in nine to the end."""
    rng = random.Random(0)
    plan = plan_sweep(path, store)
    write_plan(plan, store)
    search = plan.searches["trb"]
    draft = search.arm.draft(
        0, {"warmup.kl_budget": 0.1, "warmup.steps": 10, "warmup.anneal": "linear", "optim.lr": 1e-5}, 0
    )
    template = json.dumps(
        {**plan_row(draft, "RUN"), "search": {"arm": "trb", "number": "NUMBER", "role": "select"}}
    )
    planned = plan_trial(draft.spec)
    (set_name, fingerprint), *_ = plan_row(draft, "RUN")["eval_sets"].items()
    log = store.sweep("bench").search_log("trb")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as lines:
        for number in range(candidates):
            value = rng.random()
            params = {
                "warmup.kl_budget": 10 ** rng.uniform(-3, 0),
                "warmup.steps": rng.randint(1, STEPS),
                "warmup.anneal": rng.choice(["linear", "cosine"]),
                "optim.lr": 10 ** rng.uniform(-6, -4),
            }
            run = store.trial(f"trb-s0-{number:010x}")
            row = {**json.loads(template.replace('"NUMBER"', str(number))), "run_id": run.run_id}
            row["setting"] = search.arm.setting(number, params)
            decision = {
                "event": "proposal", "context": search.context, "rows": [row], "time": 1.7e9 + number,
                "number": number, "origin": "ask", "params": params,
            }  # fmt: skip
            lines.write(json.dumps(decision) + "\n")
            # The best ninth is complete, the best third has passed the first stop: nobody waits to go on.
            done = STEPS if value > 8 / 9 else 6 if value > 2 / 3 else 2
            _write_run(run, planned.identity, row, value, done, set_name, fingerprint)


def _write_run(
    run: RunDir, identity: Any, row: dict[str, Any], value: float, done: int, set_name: str, fingerprint: str
) -> None:
    run.path.mkdir(parents=True)
    run.config.write_text(json.dumps({"run_id": run.run_id, "spec": row["spec"], "identity": identity}))
    said = [{"step": step, **dict.fromkeys(SAID, 0.123456789 + step)} for step in range(done)]
    for line in said[1::2]:
        line[f"eval/{set_name}/pass_at_1"] = value * (1 + float(line["step"])) / STEPS
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in said))
    seconds = {"rollout": 1.0, "objective": 1.0, "total": 2.0}
    timing = [{"step": step, "time": 1.7e9, "attempt": 1, "seconds": seconds} for step in range(done)]
    run.timing.write_text("".join(json.dumps(line) + "\n" for line in timing))
    state = "completed" if done == STEPS else "paused"
    started = {"attempt": 1, "event": "start", "time": 1.7e9, "pid": 1, "host": "somewhere"}
    ended = {"attempt": 1, "event": "end", "time": 1.7e9, "state": state}
    run.attempts.write_text(json.dumps(started) + "\n" + json.dumps(ended) + "\n")
    if done < STEPS:
        run.pause.write_text(json.dumps({"after_steps": done}))
        return
    sets = {set_name: {"pass_at_1": value, "fingerprint": fingerprint}}
    result = {"run_id": run.run_id, "steps": STEPS, "final": {"mean_pass_at_1": value, "sets": sets}}
    run.result.write_text(json.dumps(result))
