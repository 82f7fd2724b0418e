"""Real worker processes that start at once: forked from a server that has imported everything before."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.train.experiments import small_run
from trb_lab.store.run_dir import RunDir
from trb_lab.train import checkpoint

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["trb_lab.experiment", "transformers.models.qwen3.modeling_qwen3"])


def tiny_run(folder: Path, **changes: Any) -> RunDir:
    """Four quick steps, two of them with the teacher; an evaluation and a checkpoint after each second one."""
    settings: dict[str, Any] = {
        "warmup": {"kind": "trb", "kl_budget": 0.1, "steps": 2},
        "rollout": {
            "prompts_per_step": 4,
            "samples_per_prompt": 1,
            "max_prompt_tokens": 64,
            "max_new_tokens": 24,
        },
        "eval": {"sets": [arith_set("easy", 4)], "samples": 1, "every": 2},
        "checkpoint": {"every": 2, "keep": 2},
        "steps": 4,
    }
    return small_run(folder, **{**settings, **changes})


def arith_set(level: str, count: int) -> dict[str, Any]:
    dataset = {"kind": "arith", "split": "test", "level": level, "num_examples": count}
    return {"name": level, "dataset": dataset}


def final_bytes(run_dir: RunDir) -> dict[str, bytes]:
    """What must not depend on how often a run was stopped."""
    saved = checkpoint.newest(run_dir)
    assert saved is not None
    files = [run_dir.metrics, run_dir.positions, run_dir.sft]
    files += [saved.path / checkpoint.WEIGHTS, saved.path / checkpoint.OPTIMIZER]
    return {file.name: file.read_bytes() for file in files if file.exists()}


def _work(path: str, environment: dict[str, str], change: Callable[[], None] | None) -> None:
    os.environ.update(environment)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    if change is not None:
        change()
    from trb_lab.cli import main

    sys.exit(main(["run", "--run-dir", path]))


def worker(run_dir: RunDir, change: Callable[[], None] | None = None, **environment: str) -> BaseProcess:
    """A started worker; `change`, a function of a module, is called in it first."""
    process = _context.Process(target=_work, args=(str(run_dir.path), environment, change))
    process.start()
    return process


def wait_until_suspended(process: BaseProcess) -> None:
    while process.is_alive():
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "T":
            return
        time.sleep(0.01)
    raise AssertionError(f"the worker ended with {process.exitcode}")
