"""A worker that trains nothing: it keeps every promise of docs/files.md and lasts as long as a test wants.

Behaviour comes from the JSON file $FAKE_WORKER, `{"<start of a run id>": {...}, "": {...}}`, read at each
start; the longest match counts. Keys: steps (else the spec's), pause (seconds a step), fail_at, kill_at
(steps), kills (how often kill_at strikes), exit_before (exit code before anything is logged), late (seconds
before it takes the lock), checkpoint_every (else every step), stubborn (heeds no request to stop), function (its
scores are those of tests/known_function.py, evaluated as often as the spec says), diverge_at (a step at which an alarm
ends it), stop_at (a step before which somebody asks it to stop; `stops`: how often).

Its "weights" are a chain of hashes over the steps, saved and read back through checkpoints: a step that was lost,
made twice or taken from another trial changes what they end as.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from trb_lab.errors import LabError
from trb_lab.failpoints import reach
from trb_lab.store.metrics import MetricsWriter
from trb_lab.store.pauses import pause_after
from trb_lab.store.run_dir import RunDir, read_json, write_json
from trb_lab.store.status import attempt_count, end_attempt
from trb_lab.worker import Attempt, Paused, RunLost, Stopped, attempt_at, lease_of, write_result


def behaviour(run_id: str) -> dict[str, float]:
    path = os.environ.get("FAKE_WORKER")
    known = json.loads(Path(path).read_text()) if path and Path(path).exists() else {}
    matches = sorted((key for key in known if run_id.startswith(key)), key=len)
    return known[matches[-1]] if matches else {}


def work(run_dir: RunDir) -> int:
    how = behaviour(run_dir.run_id)
    time.sleep(how.get("late", 0))
    if "exit_before" in how:
        print("could not begin: no such model", flush=True)
        return int(how["exit_before"])
    config = read_json(run_dir.config)
    if run_dir.result.exists():
        with lease_of(run_dir) as lease:
            finish(run_dir, config, lease.check)
        return 0
    with attempt_at(run_dir) as attempt:
        if how.get("stubborn"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        train(run_dir, config, attempt, how)
        finish(run_dir, config, attempt.fence)
    return 0


def train(run_dir: RunDir, config: dict, attempt: Attempt, how: dict[str, float]) -> None:
    steps = int(how.get("steps", config.get("spec", {}).get("steps", 0)))
    done, weights, offset = newest(run_dir)
    pause_if_due(run_dir, done, steps)
    with (
        MetricsWriter(run_dir.metrics, attempt.fence) as metrics,
        MetricsWriter(run_dir.timing, attempt.fence) as timing,
    ):
        metrics.truncate(offset)
        for step in range(done, steps):
            if how.get("stop_at") == step and attempt_count(run_dir) <= how.get("stops", 1):
                os.kill(os.getpid(), signal.SIGTERM)
            if attempt.stop():
                save(run_dir, attempt, step, weights, metrics)
                raise Stopped("stopped; the same command goes on from here")
            if how.get("fail_at") == step:
                fail(run_dir, attempt)
            if how.get("kill_at") == step and attempt_count(run_dir) <= how.get("kills", 1):
                os.kill(os.getpid(), signal.SIGKILL)
            print(f"step {step}", flush=True)
            weights = hashlib.sha256(f"{run_dir.run_id} {step} {weights}".encode()).hexdigest()
            values = {"step": step, "rollout/reward": 0.5, "train/reverse_kl": int(weights[:8], 16) / 2**32}
            if how.get("function"):
                values |= evaluation(config["spec"], step)
            metrics.write(values)
            if how.get("diverge_at") == step:
                raise RunLost("kl_blow_up", "the KL is out of hand")
            note(run_dir, step)
            reach("worker.metrics.after")
            seconds = {"total": how.get("pause", 0.001)}
            timing.write({"step": step, "time": time.time(), "attempt": attempt.number, "seconds": seconds})
            if (step + 1) % int(how.get("checkpoint_every", 1)) == 0 or step + 1 == steps:
                save(run_dir, attempt, step + 1, weights, metrics)
            time.sleep(how.get("pause", 0.001))
            if is_pause_due(run_dir, step + 1, steps):
                save(run_dir, attempt, step + 1, weights, metrics)
            pause_if_due(run_dir, step + 1, steps)


def is_pause_due(run_dir: RunDir, done: int, steps: int) -> bool:
    after = pause_after(run_dir)
    return after is not None and after <= done < steps


def pause_if_due(run_dir: RunDir, done: int, steps: int) -> None:
    if is_pause_due(run_dir, done, steps):
        raise Paused("paused, as its search asked")


def evaluation(spec: dict, step: int) -> dict[str, float]:
    """What a step's evaluation says, where one is due."""
    from tests.known_function import score_after

    every = spec["eval"]["every"]
    if step + 1 != spec["steps"] and (every is None or (step + 1) % every):
        return {}
    return {f"eval/{s['name']}/pass_at_1": score_after(spec, step + 1) for s in spec["eval"]["sets"]}


def fail(run_dir: RunDir, attempt: Attempt) -> None:
    """As an error in the code would, but without a traceback."""
    attempt.fence()
    end_attempt(run_dir, attempt.number, "failed", error="boom at a step", error_class="code")
    sys.stdout.flush()
    os._exit(1)


def save(run_dir: RunDir, attempt: Attempt, done: int, weights: str, metrics: MetricsWriter) -> None:
    final = run_dir.checkpoints / f"step_{done:06d}"
    if (final / "state.json").exists():
        return
    part = run_dir.checkpoints / f".{final.name}.{os.getpid()}.tmp"
    part.mkdir(parents=True)
    (part / "student.safetensors").write_text(weights)
    reach("worker.checkpoint.inside")
    (part / "state.json").write_text(json.dumps({"done": done, "offset": metrics.offset}))
    attempt.fence()
    shutil.rmtree(final, ignore_errors=True)
    os.replace(part, final)
    reach("worker.checkpoint.after")
    attempt.fence()
    kept = sorted(path for path in run_dir.checkpoints.glob("step_*") if path <= final)[-2:]
    for old in set(run_dir.checkpoints.glob("step_*")) - set(kept):
        shutil.rmtree(old)


def newest(run_dir: RunDir) -> tuple[int, str, int]:
    """Steps made, weights, and the length of metrics.jsonl then."""
    for left in run_dir.checkpoints.glob(".step_*"):
        shutil.rmtree(left)
    for path in sorted(run_dir.checkpoints.glob("step_*"), reverse=True):
        state = read_json(path / "state.json")
        if state is None:
            continue  # half written
        return int(state["done"]), (path / "student.safetensors").read_text(), int(state["offset"])
    return 0, "", 0


def finish(run_dir: RunDir, config: dict, fence) -> None:
    from trb_lab.spec.dataset import EvalSet  # late: a real worker listens to signals before it imports much
    from trb_lab.trial import set_fingerprint

    sets = (config.get("spec") or config).get("eval", {}).get("sets", [])
    prints = {s["name"]: set_fingerprint(EvalSet.model_validate(s)) for s in sets}
    score = 0.5
    if behaviour(run_dir.run_id).get("function") and "warmup" in (config.get("spec") or {}):
        from tests.known_function import final_score

        score = final_score(config["spec"])
    scores = {name: {"pass_at_1": score, "fingerprint": print_} for name, print_ in prints.items()}
    final = {"mean_pass_at_1": score, "sets": scores}
    steps = (config.get("spec") or {}).get("steps", 0)
    result = {"run_id": run_dir.run_id, "state": "completed", "steps": steps, "final": final}
    result["finished"] = time.time()
    if behaviour(run_dir.run_id).get("function"):
        horizon = ((config.get("spec") or {}).get("warmup") or {}).get("steps", 0)
        result["cost"] = {
            "total": {"seconds": 10.0 + horizon, "student_tokens": 1000 * horizon},
            "phases": {},
        }
    if run_dir.result.exists():
        write_json(run_dir.result, result)
    else:
        write_result(run_dir, result, fence)


def chain(run_id: str, steps: int) -> list[str]:
    """The weights after each step of an undisturbed run."""
    found = [""]
    for step in range(steps):
        found.append(hashlib.sha256(f"{run_id} {step} {found[-1]}".encode()).hexdigest())
    return found[1:]


def note(run_dir: RunDir, step: int) -> None:
    """For tests that count who worked when: a line in $FAKE_WORKER_AUDIT/<run id>."""
    folder = os.environ.get("FAKE_WORKER_AUDIT")
    if folder is not None:
        with open(Path(folder) / run_dir.run_id, "a") as f:
            f.write(f"{os.getpid()} {step}\n")


def main(path: Path) -> None:
    try:
        sys.exit(work(RunDir(path)))
    except LabError as error:
        print(error, flush=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
