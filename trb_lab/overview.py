"""What is there and what became of it: status, logs, cancel. (`clean` is in cleanup.py.)"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trb_lab.cleanup import clean, confirmed
from trb_lab.errors import LabError, UsageError, did_you_mean
from trb_lab.launch.base import tail
from trb_lab.launch.claim import live_worker, send_signal
from trb_lab.launch.progress import ProgressReader
from trb_lab.store import locks
from trb_lab.store.processes import on_this_host
from trb_lab.store.run_dir import RunDir, Store, SweepDir, read_json
from trb_lab.store.status import TrialState, attempt_count, last_error, state_of
from trb_lab.store.status import cancel as mark_cancelled
from trb_lab.sweep_view import number, text_table

__all__ = ["cancel", "clean", "show_logs", "show_status"]

CANCEL_SECONDS = 120.0
"""How long `cancel` waits for workers to save and end."""


def show_status(store: Store, sweep: str | None = None, as_json: bool = False) -> None:
    """Print every sweep with its counts and every trial: state, attempts, step, score, why it failed.

    Raises UsageError for a sweep that the store does not have.
    """
    sweeps = [_sweep_named(store, sweep)] if sweep is not None else store.sweeps()
    found = [_sweep_status(store, s) for s in sweeps]
    planned = {trial["run_id"] for s in found for trial in s["trials"]}
    others = (
        [] if sweep is not None else [_run_status(run) for run in store.trials() if run.run_id not in planned]
    )
    if as_json:
        print(json.dumps({"store": str(store.root), "sweeps": found, "other_runs": others}, allow_nan=False))
        return
    if not found and not others:
        print(f"Nothing has run in {store.root} yet. Start with: trb-lab sweep sweeps/kl_budget.yaml")
    for s in found:
        counts = ", ".join(f"{count} {state}" for state, count in sorted(s["counts"].items()))
        driver = f"; driver: process {s['driver']['pid']} on {s['driver']['host']}" if s["driver"] else ""
        print(f"{s['name']}: {s['question']}\n{counts}{driver}")
        print(f"{_status_table(s['trials'] + s['references'])}\n")
    if others:
        print(f"Runs in no sweep:\n{_status_table(others)}")


def _sweep_named(store: Store, name: str) -> SweepDir:
    known = [s.name for s in store.sweeps()]
    if name not in known:
        listed = f"Sweeps there: {', '.join(known)}." if known else "It holds no sweep yet."
        raise UsageError(f"There is no sweep '{name}' in {store.root}.{did_you_mean(name, known)} {listed}")
    return store.sweep(name)


def _sweep_status(store: Store, sweep: SweepDir) -> dict[str, Any]:
    plan = read_json(sweep.plan)
    trials = [
        {**_run_status(store.trial(t["run_id"])), "arm": t["arm"], "setting": t["setting"], "seed": t["seed"],
         "steps": t["spec"]["steps"]}
        for t in plan["trials"]
    ]  # fmt: skip
    references = [
        {**_run_status(store.reference(r["run_id"])), "arm": r["role"], "setting": "reference", "seed": None}
        for r in plan.get("references", [])
    ]
    states = {t["run_id"]: t["state"] for t in trials}  # rows may share a trial
    return {
        "name": plan["name"],
        "question": plan["question"],
        "counts": dict(Counter(states.values())),
        "driver": locks.owner(sweep.driver_lock) if locks.is_held(sweep.driver_lock) else None,
        "trials": trials,
        "references": references,
    }


def _run_status(run: RunDir) -> dict[str, Any]:
    """Everything to be said of one run, from its files."""
    config = read_json(run.config) or {}
    state = TrialState.RUNNING if live_worker(run) and not run.result.exists() else state_of(run)
    progress = ProgressReader(run).read()
    final = (read_json(run.result) or {}).get("final") or {}
    error = last_error(run) or {}
    return {
        "run_id": run.run_id,
        "state": str(state),
        "attempts": attempt_count(run),
        "step": progress.done,
        "steps": (config.get("spec") or {}).get("steps"),
        "score": final.get("mean_pass_at_1", progress.pass_at_1),
        "error": error.get("error"),
        "error_class": error.get("error_class"),
    }


def _status_table(rows: list[dict[str, Any]]) -> str:
    header = ["run id", "arm", "setting", "seed", "state", "attempts", "step", "pass@1", "why"]
    return text_table(
        header,
        [
            [
                row["run_id"],
                row.get("arm") or "-",
                row.get("setting") or "-",
                "-" if row.get("seed") is None else str(row["seed"]),
                row["state"],
                str(row["attempts"]),
                f"{row['step']}/{row['steps']}" if row["steps"] else "-",
                number(row["score"]),
                ": ".join(filter(None, [row["error_class"], row["error"]])),
            ]
            for row in rows
        ],
    )


def find_run(store: Store, name: str, also: Sequence[str] = ()) -> RunDir:
    """The trial or reference of that id, or whose id alone begins so.

    Raises UsageError that suggests the nearest id, or name in `also`.
    """
    references = [RunDir(path) for path in sorted((store.root / "references").glob("*"))]
    runs = {run.run_id: run for run in [*store.trials(), *references]}
    if name in runs:
        return runs[name]
    matches = [run_id for run_id in runs if run_id.startswith(name)]
    if len(matches) == 1:
        return runs[matches[0]]
    if matches:
        shown = ", ".join(matches[:8]) + (", ..." if len(matches) > 8 else "")
        raise UsageError(f"'{name}' fits {len(matches)} runs: {shown}. Give more of the id.")
    raise UsageError(
        f"There is no {'sweep or ' if also else ''}run '{name}' in {store.root}."
        f"{did_you_mean(name, [*runs, *also])} `trb-lab status` lists them."
    )


def show_logs(store: Store, trial: str, follow: bool = False, lines: int = 50) -> None:
    """Print the end of what a run's worker printed; with `follow` go on until no worker is at it."""
    run = find_run(store, trial)
    if not run.log.exists() and not follow:
        print(f"{run.run_id} is {state_of(run)} and has printed nothing.")
        return
    # Where to go on is noted first: what comes between is printed twice rather than lost.
    offset = run.log.stat().st_size if run.log.exists() else 0
    for line in tail(run, lines):
        print(line)
    while follow:
        live = live_worker(run) is not None
        if run.log.exists() and run.log.stat().st_size > offset:
            with open(run.log, "rb") as f:
                f.seek(offset)
                new = f.read()
            offset += len(new)
            sys.stdout.write(new.decode("utf-8", errors="replace"))
            sys.stdout.flush()
        elif not live:
            print(f"({run.run_id} is {state_of(run)})")
            return
        time.sleep(0.5)


@dataclass(frozen=True)
class _Target:
    """What is to be cancelled."""

    title: str
    runs: list[RunDir]
    sweep: SweepDir | None = None
    """Set where a whole sweep is meant: its driver ends too."""


def cancel(store: Store, target: str, yes: bool = False) -> None:
    """Cancel a sweep, an arm (SWEEP/ARM) or a trial: workers save and end, and nothing of it starts again.

    Asks first, unless `yes`. Completed trials stay as they are. `sweep --retry-failed` takes cancelled ones
    up again. Raises UsageError for a target that is not there, LabError when a worker could not be stopped.
    """
    what = _target(store, target)
    states = {run.run_id: state_of(run) for run in what.runs}
    over = (TrialState.COMPLETED, TrialState.CANCELLED)
    unfinished = [run for run in what.runs if states[run.run_id] not in over]
    running = [run for run in unfinished if live_worker(run)]
    if not unfinished:
        print(f"{what.title}: nothing to cancel, every trial is completed or cancelled.")
        return
    others = len(unfinished) - len(running)
    print(f"{what.title}: {len(running)} running and {others} other unfinished trials.")
    if not yes and not confirmed("Cancel them?"):
        print("Nothing was done.")
        return
    if what.sweep is not None:
        _stop_driver(what.sweep)
    # What waits comes first: a slot that a stopped worker leaves would be filled with it.
    count = _mark(unfinished)
    stuck = _stop_workers(unfinished)
    count += _mark(unfinished)
    print(f"{count} trials cancelled. `trb-lab sweep FILE --retry-failed` takes them up again.")
    if stuck:
        raise LabError("Still running:\n" + "\n".join(stuck))


def _mark(runs: list[RunDir]) -> int:
    """Record as cancelled what nobody works on now; how many that were.

    A trial without a directory needs no mark: nothing of it has begun, and the next plan takes it as new.
    """
    count = 0
    for run in runs:
        over = (TrialState.COMPLETED, TrialState.CANCELLED, TrialState.RUNNING)
        if run.path.exists() and not live_worker(run) and state_of(run) not in over:
            mark_cancelled(run, "cancelled by hand")
            count += 1
    return count


def _target(store: Store, name: str) -> _Target:
    sweep_name, slash, arm = name.partition("/")
    sweeps = [s.name for s in store.sweeps()]
    if sweep_name not in sweeps:
        if slash:
            _sweep_named(store, sweep_name)
        run = find_run(store, name, also=sweeps)
        return _Target(run.run_id, [run])
    sweep = store.sweep(sweep_name)
    planned = read_json(sweep.plan)["trials"]
    arms = list(dict.fromkeys(t["arm"] for t in planned))
    if slash and arm not in arms:
        known = f"{did_you_mean(arm, arms)} Arms: {', '.join(arms)}."
        raise UsageError(f"Sweep '{sweep_name}' has no arm '{arm}'.{known}")
    chosen = [t["run_id"] for t in planned if not slash or t["arm"] == arm]
    runs = [store.trial(run_id) for run_id in dict.fromkeys(chosen)]
    return _Target(f"{'arm' if slash else 'sweep'} {name}", runs, None if slash else sweep)


def _stop_driver(sweep: SweepDir) -> None:
    """Ask a live driver to end; it asks its workers in turn. Returns when it has gone."""
    if not locks.is_held(sweep.driver_lock):
        return
    driver = locks.owner(sweep.driver_lock)
    if not on_this_host(driver.get("host")):
        raise LabError(f"The driver of '{sweep.name}' runs on {driver.get('host')}: cancel the sweep there.")
    with contextlib.suppress(
        ProcessLookupError, KeyError
    ):  # it has just ended, or just begun: the wait tells
        os.kill(int(driver["pid"]), signal.SIGTERM)
    if not _gone_within(CANCEL_SECONDS, lambda: not locks.is_held(sweep.driver_lock)):
        who = f"The driver of '{sweep.name}' (process {driver.get('pid', '?')})"
        raise LabError(f"{who} does not end; nothing was cancelled.")


def _stop_workers(runs: list[RunDir]) -> list[str]:
    """Ask live workers to save and end. Returns a line for each that would not."""
    refused = {}
    for run in runs:
        if live_worker(run) and (reason := send_signal(run, signal.SIGTERM)) is not None and live_worker(run):
            refused[run.run_id] = f"{run.run_id}: {reason}"
    asked = [run for run in runs if run.run_id not in refused]
    _gone_within(CANCEL_SECONDS, lambda: not any(live_worker(run) for run in asked))
    for run in asked:
        if (worker := live_worker(run)) is not None:
            refused[run.run_id] = f"{run.run_id}: process {worker.get('pid')} does not end (kill -9 ends it)"
    return list(refused.values())


def _gone_within(seconds: float, condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
