"""A worker that trains nothing: it keeps every promise of docs/files.md and lasts as long as a test wants.

Behaviour comes from the JSON file $FAKE_WORKER, `{"<start of a run id>": {...}, "": {...}}`, read at each
start; the longest match counts. Keys: steps (else the spec's), pause (seconds a step), fail_at, kill_at
(steps), kills (how often kill_at strikes), exit_before (exit code before anything is logged), late (seconds
before it takes the lock).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from trb_lab.store import locks
from trb_lab.store.metrics import MetricsWriter
from trb_lab.store.run_dir import RunDir, read_json, write_json
from trb_lab.store.status import attempt_count, begin_attempt, end_attempt


def behaviour(run_id: str) -> dict[str, float]:
    path = os.environ.get("FAKE_WORKER")
    known = json.loads(Path(path).read_text()) if path else {}
    matches = sorted((key for key in known if run_id.startswith(key)), key=len)
    return known[matches[-1]] if matches else {}


def work(run_dir: RunDir) -> int:
    how = behaviour(run_dir.run_id)
    time.sleep(how.get("late", 0))
    if "exit_before" in how:
        print("could not begin: no such model", flush=True)
        return int(how["exit_before"])
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    with locks.hold(run_dir.lock, run_dir.run_id):
        config = read_json(run_dir.config)
        if run_dir.result.exists():
            finish(run_dir, config)
            return 0
        attempt = begin_attempt(run_dir)
        steps = int(how.get("steps", config.get("spec", {}).get("steps", 0)))
        # Fake checkpoints at every step: go on after the last whole line.
        with MetricsWriter(run_dir.metrics) as metrics, MetricsWriter(run_dir.timing) as timing:
            done = len(run_dir.metrics.read_text().splitlines())
            for step in range(done, steps):
                if stop:
                    end_attempt(run_dir, attempt, "interrupted")
                    return 0
                if how.get("fail_at") == step:
                    end_attempt(run_dir, attempt, "failed", error="boom at a step", error_class="code")
                    return 1
                if how.get("kill_at") == step and attempt_count(run_dir) <= how.get("kills", 1):
                    os.kill(os.getpid(), signal.SIGKILL)
                print(f"step {step}", flush=True)
                metrics.write({"step": step, "rollout/reward": 0.5, "train/reverse_kl": 0.1})
                seconds = {"total": how.get("pause", 0.001)}
                timing.write({"step": step, "time": time.time(), "attempt": attempt, "seconds": seconds})
                time.sleep(how.get("pause", 0.001))
        finish(run_dir, config)
        end_attempt(run_dir, attempt, "completed")
    return 0


def finish(run_dir: RunDir, config: dict) -> None:
    from trb_lab.spec.dataset import EvalSet  # late: a real worker listens to signals before it imports much
    from trb_lab.trial import set_fingerprint

    sets = (config.get("spec") or config).get("eval", {}).get("sets", [])
    prints = {s["name"]: set_fingerprint(EvalSet.model_validate(s)) for s in sets}
    scores = {name: {"pass_at_1": 0.5, "fingerprint": print_} for name, print_ in prints.items()}
    final = {"mean_pass_at_1": 0.5, "sets": scores}
    steps = (config.get("spec") or {}).get("steps", 0)
    result = {"run_id": run_dir.run_id, "state": "completed", "steps": steps, "final": final}
    write_json(run_dir.result, result)


if __name__ == "__main__":
    sys.exit(work(RunDir(Path(sys.argv[1]))))
