"""What is there and what became of it: status and logs."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trb_lab.driver.cluster import places_of
from trb_lab.driver.lease import driver_text
from trb_lab.driver.search_status import (
    called,
    rest_line,
    search_json,
    search_line,
    searches_of,
    worth_a_look,
)
from trb_lab.driver.view import number, text_table
from trb_lab.errors import UsageError, did_you_mean
from trb_lab.launch.base import SILENT, JobStatus, Phase, last_lines
from trb_lab.launch.claim import live_worker
from trb_lab.launch.progress import ProgressReader
from trb_lab.store import locks
from trb_lab.store.run_dir import RunDir, Store, SweepDir, read_json
from trb_lab.store.status import TrialState, attempt_count, last_error, state_of

WAITING = "waiting"
"""The shown state of a run that a cluster holds and that has not begun (the files know no such state)."""
ASK_SECONDS = 5.0
"""Between two questions to a cluster while a log is followed."""


def show_status(store: Store, sweep: str | None = None, as_json: bool = False) -> None:
    """Print every sweep with its counts and every trial: state, attempts, step, score, place, why it failed.

    Of a search, text has the numbers and the last of the runs that are neither completed nor paused.
    Raises UsageError for a sweep that the store does not have.
    """
    sweeps = [sweep_named(store, sweep)] if sweep is not None else store.sweeps()
    places = places_of(store)
    found = [_sweep_status(store, s, places, whole=as_json) for s in sweeps]
    others = []
    if sweep is None:
        planned = {trial["run_id"] for s in found for trial in s["trials"]}
        others = [run_status(run, places) for run in store.trials() if run.run_id not in planned]
    silent = cluster_is_silent(places)
    if as_json:
        shown = {"store": str(store.root), "cluster_answers": not silent if places else None}
        print(json.dumps({**shown, "sweeps": found, "other_runs": others}, allow_nan=False))
        return
    if not found and not others:
        print(f"Nothing has run in {store.root} yet. Start with: trb-lab sweep sweeps/kl_budget.yaml")
    for s in found:
        counts = ", ".join(f"{count} {state}" for state, count in sorted(s["counts"].items()))
        driver = f"; driver: {driver_text(s['driver'])}" if s["driver"] else ""
        print(f"{s['name']}: {s['question']}\n{counts}{driver}")
        _print_trials(store, s, places)
    if others:
        print(f"Runs in no sweep:\n{_status_table(others)}")
    if silent:
        print("Slurm does not answer: a run that it had last counts as alive until it does.")


def cluster_is_silent(places: Mapping[str, JobStatus]) -> bool:
    """Whether the places are what was known last, because the cluster does not answer now."""
    if not places:
        return False
    return any(place.where == SILENT for place in places.values())


def sweep_named(store: Store, name: str) -> SweepDir:
    """The sweep of that name. Raises UsageError that suggests the nearest."""
    known = [s.name for s in store.sweeps()]
    if name not in known:
        listed = f"Sweeps there: {', '.join(known)}." if known else "It holds no sweep yet."
        raise UsageError(f"There is no sweep '{name}' in {store.root}.{did_you_mean(name, known)} {listed}")
    return store.sweep(name)


def _sweep_status(
    store: Store, sweep: SweepDir, places: Mapping[str, JobStatus], whole: bool
) -> dict[str, Any]:
    """`whole`: everything of each run, also of the thousands that a search may have; else only their states."""
    plan = read_json(sweep.plan)
    searches = searches_of(sweep, plan)
    trials = [_trial_status(store, row, places) for row in plan["trials"]]
    told = []
    for search in searches:
        rows = [_trial_status(store, row, places, whole) for row in search.rows]
        told.append(search_json(search, rows))
        trials += rows
    references = [
        {**run_status(store.reference(r["run_id"]), places), "arm": r["role"], "setting": "reference", "seed": None}
        for r in plan.get("references", [])
    ]  # fmt: skip
    states = {t["run_id"]: t["state"] for t in trials}  # rows may share a trial
    return {
        "name": plan["name"],
        "question": plan["question"],
        "counts": dict(Counter(states.values())),
        "driver": locks.owner(sweep.driver_lock) if locks.is_held(sweep.driver_lock) else None,
        "trials": trials,
        "references": references,
        "searches": told,
    }


def _trial_status(
    store: Store, row: Mapping[str, Any], places: Mapping[str, JobStatus], whole: bool = True
) -> dict[str, Any]:
    run = store.trial(row["run_id"])
    if whole:
        status = run_status(run, places)
    else:
        status = {"run_id": run.run_id, "state": str(shown_state(run, places.get(run.run_id)))}
    named = {key: row.get(key) for key in ("arm", "setting", "seed", "search")}
    return {**status, **named, "steps": row["spec"]["steps"]}


def _print_trials(store: Store, sweep: Mapping[str, Any], places: Mapping[str, JobStatus]) -> None:
    """The table of what is planned, then each search: its numbers, and a table of what moves."""
    planned = [row for row in sweep["trials"] if row["search"] is None] + sweep["references"]
    if planned:
        print(f"{_status_table(planned)}\n")
    of: dict[str, list[dict[str, Any]]] = {}
    for row in sweep["trials"]:
        if row["search"] is not None:
            of.setdefault(row["search"]["arm"], []).append(row)
    for search in sweep["searches"]:
        rows = of.get(search["arm"], [])
        listed = worth_a_look(rows)
        print(search_line(search))
        if listed:
            whole = [{**run_status(store.trial(row["run_id"]), places), **row} for row in listed]
            print(_status_table(whole))
        if rest := rest_line(sweep["name"], rows, len(listed)):
            print(rest)
        print()


def shown_state(run: RunDir, place: JobStatus | None) -> str:
    """The state from the files, and what a cluster adds: it has the run, begun or not."""
    if run.result.exists():
        return TrialState.COMPLETED
    state = TrialState.RUNNING if live_worker(run) else state_of(run)
    if state == TrialState.RUNNING or place is None or place.phase is Phase.ENDED:
        return state
    return WAITING if place.phase is Phase.WAITING else TrialState.RUNNING


def run_status(run: RunDir, places: Mapping[str, JobStatus]) -> dict[str, Any]:
    """Everything to be said of one run, from its files and from the cluster that has it."""
    place = places.get(run.run_id)
    state = shown_state(run, place)
    live = place is not None and place.phase is not Phase.ENDED
    config = read_json(run.config) or {}
    progress = ProgressReader(run).read()
    final = (read_json(run.result) or {}).get("final") or {}
    error = (last_error(run) or {}) if state not in (TrialState.RUNNING, TrialState.COMPLETED) else {}
    return {
        "run_id": run.run_id,
        "state": str(state),
        "attempts": attempt_count(run),
        "step": progress.done,
        "steps": (config.get("spec") or {}).get("steps"),
        "score": final.get("mean_pass_at_1", progress.pass_at_1),
        "job": (place.job or None) if place is not None else None,
        "where": place.where if place is not None and live else None,
        "error": error.get("error"),
        "error_class": error.get("error_class"),
    }


def _status_table(rows: list[dict[str, Any]]) -> str:
    """The job and its place have columns where a cluster has something to do with it."""
    clustered = any(row["job"] or row["where"] for row in rows)
    header = ["run id", "arm", "setting", "seed", "state", "attempts", "step", "pass@1"]
    return text_table(
        [*header, *(["job", "where"] if clustered else []), "why"],
        [
            [
                row["run_id"],
                row.get("arm") or "-",
                called(row) or "-",
                "-" if row.get("seed") is None else str(row["seed"]),
                row["state"],
                str(row["attempts"]),
                f"{row['step']}/{row['steps']}" if row["steps"] else "-",
                number(row["score"]),
                *([row["job"] or "-", row["where"] or "-"] if clustered else []),
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


def show_logs(store: Store, name: str, follow: bool = False, lines: int = 50) -> None:
    """Print the end of what a run's worker printed, or a sweep's driver where that is a job of its own.

    With `follow` goes on until no worker (no driver) is at it.
    """
    sweeps = [s.name for s in store.sweeps()]
    if name in sweeps:
        _show_driver_log(store, store.sweep(name), follow, lines)
        return
    run = find_run(store, name, also=sweeps)
    place = places_of(store).get(run.run_id)
    if not run.log.exists() and (not follow or place is not None):
        where = f" ({_place_text(place)})" if place is not None else ""
        print(f"{run.run_id} is {shown_state(run, place)}{where} and has printed nothing.")
    if not follow:
        for line in last_lines(run.log, lines):
            print(line)
        return
    held = _calm(lambda: _is_held(store, run))
    _follow_log(run.log, lines, lambda: live_worker(run) is not None or held())
    print(f"({run.run_id} is {shown_state(run, places_of(store).get(run.run_id))})")


def _is_held(store: Store, run: RunDir) -> bool:
    """Whether a cluster runs it, or is going to."""
    place = places_of(store).get(run.run_id)
    return place is not None and place.phase is not Phase.ENDED


def _place_text(place: JobStatus) -> str:
    return " ".join(filter(None, [f"job {place.job}" if place.job else "", place.where])) or "on a cluster"


def _show_driver_log(store: Store, sweep: SweepDir, follow: bool, lines: int) -> None:
    jobs = driver_jobs(store, sweep)
    if not sweep.driver_job_log.exists() and not (follow and jobs):
        at_it = locks.is_held(sweep.driver_lock)
        who = (
            f"{driver_text(locks.owner(sweep.driver_lock))} prints on its terminal" if at_it else "none runs"
        )
        waits = "".join(
            f"\nJob {job} of the sweep itself: {place.where or place.phase}." for job, place in jobs.items()
        )
        print(f"The driver of '{sweep.name}' has no log: {who}. Of a trial: trb-lab logs TRIAL{waits}")
        return
    for job, place in jobs.items():
        print(f"(job {job}: {place.where or place.phase})")
    if not follow:
        for line in last_lines(sweep.driver_job_log, lines):
            print(line)
        return
    queued = _calm(lambda: bool(driver_jobs(store, sweep)))
    _follow_log(sweep.driver_job_log, lines, lambda: locks.is_held(sweep.driver_lock) or queued())
    print(f"(no driver of '{sweep.name}' runs)")


def driver_jobs(store: Store, sweep: SweepDir) -> dict[str, JobStatus]:
    """Cluster jobs that serve the sweep itself and have not ended, by job id: its driver, its report."""
    if not store.slurm.is_dir():
        return {}
    from trb_lab.launch import slurm_jobs

    return {
        job: place
        for what in ("driver", "report")
        for job, place in slurm_jobs.command_jobs(store, sweep.name, what).items()
    }


def _calm(ask: Callable[[], bool]) -> Callable[[], bool]:
    """The question, asked at most once in some seconds: a cluster's controller serves others too."""
    last: list[tuple[float, bool]] = []

    def answer() -> bool:
        if not last or time.monotonic() - last[-1][0] > ASK_SECONDS:
            last[:] = [(time.monotonic(), ask())]
        return last[-1][1]

    return answer


def _follow_log(path: Path, lines: int, lives: Callable[[], bool]) -> None:
    """Print the end of a file and what is added to it, until nobody is left to add anything."""
    # Where to go on is noted first: what comes between is printed twice rather than lost.
    offset = path.stat().st_size if path.exists() else 0
    for line in last_lines(path, lines):
        print(line)
    while True:
        alive = lives()
        if path.exists() and path.stat().st_size > offset:
            with open(path, "rb") as f:
                f.seek(offset)
                new = f.read()
            offset += len(new)
            sys.stdout.write(new.decode("utf-8", errors="replace"))
            sys.stdout.flush()
        elif not alive:
            return
        time.sleep(0.5)
