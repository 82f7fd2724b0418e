"""Dry elements: no process runs; when their time has come their runs are completed by a few writes.

For tests of scale. The runs of an element are found through batch.json beside its output files, as any driver
finds them. `{"dry": {"advances": 3, "steps": 2, "fail": [starts of run ids], "fingerprints": {set: its print}}}`.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

Element = dict[str, Any]


def finish(how: dict[str, Any], element: Element) -> tuple[str, str, bool]:
    """State, exit code and whether to requeue, after the element's runs were completed."""
    folder = Path(element["output"]).parent
    batch = json.loads((folder / "batch.json").read_text())
    store = folder.parent.parent
    failed = False
    for run in batch["elements"][element["task"] or 0]:
        path = store / run
        fails = any(path.name.startswith(prefix) for prefix in how.get("fail", ()))
        complete(path, how, fails)
        failed |= fails
    return ("FAILED", "1:0", False) if failed else ("COMPLETED", "0:0", False)


def complete(path: Path, how: dict[str, Any], fails: bool) -> None:
    """Write what a worker leaves: attempts, metrics, result."""
    now, steps = time.time(), int(how.get("steps", 1))
    config = json.loads((path / "config.json").read_text())
    attempts = path / "attempts.jsonl"
    number = attempts.read_text().count('"start"') + 1 if attempts.exists() else 1
    start = {"attempt": number, "event": "start", "time": now, "pid": os.getpid(), "host": "fake1"}
    end: dict[str, Any] = {"attempt": number, "event": "end", "time": now, "state": "completed"}
    if fails:
        end |= {"state": "failed", "error_class": "code", "error": "RuntimeError: scripted"}
    else:
        lines = [json.dumps({"step": k, "train/reverse_kl": 0.1}) for k in range(steps)]
        (path / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
        sets = (config.get("spec") or config).get("eval", {}).get("sets", [])
        scores = {
            s["name"]: {"pass_at_1": 0.5, "fingerprint": how.get("fingerprints", {}).get(s["name"], "")}
            for s in sets
        }
        result = {"run_id": path.name, "state": "completed", "steps": steps}
        part = path / "result.json.part"
        part.write_text(json.dumps({**result, "final": {"mean_pass_at_1": 0.5, "sets": scores}}))
        os.replace(part, path / "result.json")
    with open(attempts, "a") as f:
        f.write(json.dumps(start) + "\n" + json.dumps(end) + "\n")
