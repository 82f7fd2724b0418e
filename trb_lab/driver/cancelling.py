"""Cancelling: nothing of it runs on or starts again by itself, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trb_lab.driver.cleanup import confirmed
from trb_lab.driver.cluster import places_of
from trb_lab.driver.overview import driver_jobs, find_run, sweep_named
from trb_lab.errors import LabError, UsageError, did_you_mean
from trb_lab.launch.base import JobStatus, Phase
from trb_lab.launch.claim import live_worker, send_signal
from trb_lab.store import locks
from trb_lab.store.plans import planned
from trb_lab.store.processes import on_this_host
from trb_lab.store.run_dir import RunDir, Store, SweepDir, write_json
from trb_lab.store.status import TrialState, state_of
from trb_lab.store.status import cancel as mark_cancelled

CANCEL_SECONDS = 120.0
"""How long `cancel` waits for workers to save and end."""
LOOK_SECONDS = 3.0
"""Between two questions to a cluster while it waits."""


@dataclass(frozen=True)
class _Target:
    """What is to be cancelled."""

    title: str
    runs: list[RunDir]
    sweep: SweepDir | None = None
    """Set where a whole sweep is meant: its driver ends too."""
    search: Path | None = None
    """Set where an arm with a search is meant: a mark at which a driver asks for nothing more."""


def cancel(store: Store, target: str, yes: bool = False) -> None:
    """Cancel a sweep, an arm (SWEEP/ARM) or a trial: workers save and end, and nothing of it starts again.

    Asks first, unless `yes`. Completed trials stay as they are. `sweep --retry-failed` takes cancelled ones
    up again. Raises UsageError for a target that is not there, LabError when a worker could not be stopped.
    """
    places = places_of(store)
    what = _target(store, target, places)
    states = {run.run_id: state_of(run) for run in what.runs}
    # A cancelled one may wait in a cluster's queue again, and a completed one be evaluated there.
    over = (TrialState.COMPLETED, TrialState.CANCELLED)
    unfinished = [r for r in what.runs if states[r.run_id] not in over or _is_held(places, r)]
    running = [r for r in unfinished if live_worker(r) or _phase(places, r) is Phase.RUNNING]
    queued = [r for r in unfinished if r not in running and _phase(places, r) is Phase.WAITING]
    jobs = driver_jobs(store, what.sweep) if what.sweep is not None else {}
    driven = what.sweep is not None and locks.is_held(what.sweep.driver_lock)  # it may be about to start more
    if not unfinished and not jobs and not driven and what.search is None:
        print(f"{what.title}: nothing to cancel, every trial is completed or cancelled.")
        return
    counts = [f"{len(running)} running"] + ([f"{len(queued)} in the cluster's queue"] if queued else [])
    others = len(unfinished) - len(running) - len(queued)
    print(f"{what.title}: {', '.join(counts)} and {others} other unfinished trials.")
    if not yes and not confirmed("Cancel them?"):
        print("Nothing was done.")
        return
    problems: list[str] = []
    if what.search is not None:
        write_json(what.search, {"time": time.time()})
    if what.sweep is not None:
        problems += _stop_driver(what.sweep, jobs)
        seen = set(what.runs)  # and its searches may have asked for more until then
        unfinished += [run for run in _target(store, target, places).runs if run not in seen]
    count, more = _cancel(store, unfinished)
    problems += more
    print(f"{count} trials cancelled. `trb-lab sweep FILE --retry-failed` takes them up again.")
    if problems:
        raise LabError("Not stopped:\n" + "\n".join(problems))


def cancel_runs(store: Store, runs: Sequence[RunDir]) -> list[str]:
    """Cancel runs without asking: what waits is taken back, workers save and end. A line for each that would not.

    Completed ones stay as they are. Returns when the workers have gone, after CANCEL_SECONDS at the latest.
    """
    return _cancel(store, list(runs))[1]


def _cancel(store: Store, runs: list[RunDir]) -> tuple[int, list[str]]:
    """How many were cancelled, and a line for each problem."""
    places = places_of(store)  # now: a driver may have submitted more since the last look
    # What waits comes first: a slot that a stopped worker leaves would be filled with it.
    count = _mark(runs, places)
    problems = _take_back(store, runs, places)
    problems += _stop_workers(store, runs)
    return count + _mark(runs, places_of(store)), problems


def _phase(places: Mapping[str, JobStatus], run: RunDir) -> Phase | None:
    place = places.get(run.run_id)
    return None if place is None else place.phase


def _is_held(places: Mapping[str, JobStatus], run: RunDir) -> bool:
    """Whether a cluster runs it, or is going to; one that does not answer may do so."""
    return _phase(places, run) in (Phase.WAITING, Phase.RUNNING)


def _mark(runs: list[RunDir], places: Mapping[str, JobStatus]) -> int:
    """Record as cancelled what nobody works on now; how many that were.

    A trial without a directory needs no mark: nothing of it has begun, and the next plan takes it as new.
    """
    count = 0
    for run in runs:
        over = (TrialState.COMPLETED, TrialState.CANCELLED, TrialState.RUNNING)
        busy = live_worker(run) or _phase(places, run) is Phase.RUNNING
        if run.path.exists() and not busy and state_of(run) not in over:
            mark_cancelled(run, "cancelled by hand")
            count += 1
    return count


def _take_back(store: Store, runs: list[RunDir], places: Mapping[str, JobStatus]) -> list[str]:
    """Take out of a cluster's queue what waits there, and ask what runs there to end. Lines for what could not."""
    held = {run.run_id for run in runs if _is_held(places, run)}
    if not held:
        return []
    from trb_lab.launch import slurm_cancel

    return slurm_cancel.cancel(store, held)


def _target(store: Store, name: str, places: Mapping[str, JobStatus]) -> _Target:
    sweep_name, slash, arm = name.partition("/")
    sweeps = [s.name for s in store.sweeps()]
    if sweep_name not in sweeps:
        if slash:
            sweep_named(store, sweep_name)
        run = find_run(store, name, also=sweeps)
        return _Target(run.run_id, [run])
    sweep = store.sweep(sweep_name)
    plan = planned(sweep) or {"trials": []}
    # An arm's search may not have asked for anything yet.
    arms = list(dict.fromkeys([*(t["arm"] for t in plan["trials"]), *plan.get("searches", {})]))
    if slash and arm not in arms:
        known = f"{did_you_mean(arm, arms)} Arms: {', '.join(arms)}."
        raise UsageError(f"Sweep '{sweep_name}' has no arm '{arm}'.{known}")
    chosen = [t["run_id"] for t in plan["trials"] if not slash or arm in (t["arm"], _search_of(t))]
    runs = [store.trial(run_id) for run_id in dict.fromkeys(chosen)]
    if slash:
        driven = arm in plan.get("searches", {}) and locks.is_held(sweep.driver_lock)
        return _Target(f"arm {name}", runs, search=sweep.search_cancelled(arm) if driven else None)
    # Evaluations of the references go on as jobs without the driver, unlike its workers on this machine.
    references = [store.reference(reference["run_id"]) for reference in plan.get("references", [])]
    runs += [run for run in references if _is_held(places, run)]
    return _Target(f"sweep {name}", runs, sweep)


def _search_of(row: Mapping[str, Any]) -> str | None:
    """The arm whose search asked for a row: it confirms with runs of the reference arm, too."""
    search = row.get("search")
    return search["arm"] if search is not None else None


def _stop_driver(sweep: SweepDir, jobs: Mapping[str, JobStatus]) -> list[str]:
    """Ask a live driver to end (it asks its workers in turn), also one that is a job. Returns when it has gone."""
    if jobs:
        from trb_lab.launch import slurm_commands

        try:
            slurm_commands.cancel(list(jobs))
        except slurm_commands.SlurmError as error:
            return [f"job {', '.join(jobs)} of the sweep itself: {error}"]
    if not locks.is_held(sweep.driver_lock):
        return []
    driver = locks.owner(sweep.driver_lock)
    if on_this_host(driver.get("host")):
        # It has just ended, or just begun: the wait tells.
        with contextlib.suppress(ProcessLookupError, KeyError):
            os.kill(int(driver["pid"]), signal.SIGTERM)
    elif not driver.get("job"):
        raise LabError(f"The driver of '{sweep.name}' runs on {driver.get('host')}: cancel the sweep there.")
    if not _gone_within(CANCEL_SECONDS, lambda: not locks.is_held(sweep.driver_lock)):
        who = f"The driver of '{sweep.name}' (process {driver.get('pid', '?')} on {driver.get('host', '?')})"
        raise LabError(f"{who} does not end; nothing was cancelled.")
    return []


def _stop_workers(store: Store, runs: list[RunDir]) -> list[str]:
    """Wait for workers to save and end, after asking those of this machine. A line for each that would not."""
    places = places_of(store)
    refused = {}
    for run in runs:
        if live_worker(run) and not _is_held(places, run):
            reason = send_signal(run, signal.SIGTERM)
            if reason is not None and live_worker(run):
                refused[run.run_id] = f"{run.run_id}: {reason}"
    asked = [run for run in runs if run.run_id not in refused]
    _gone_within(CANCEL_SECONDS, lambda: not any(live_worker(run) for run in asked))
    until = time.monotonic() + CANCEL_SECONDS
    while (held := _still_held(store, asked)) and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
    for run in asked:
        if run.run_id in held:
            refused[run.run_id] = f"{run.run_id}: {held[run.run_id]}"
        elif (worker := live_worker(run)) is not None:
            refused[run.run_id] = f"{run.run_id}: process {worker.get('pid')} does not end (kill -9 ends it)"
    return list(refused.values())


def _still_held(store: Store, runs: list[RunDir]) -> dict[str, str]:
    """What a cluster still has of these runs, and in which job."""
    places = places_of(store)
    found = {}
    for run in runs:
        if _is_held(places, run):
            place = places[run.run_id]
            found[run.run_id] = f"job {place.job or '?'} is {place.where or place.phase} (scancel ends it)"
    return found


def _gone_within(seconds: float, condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
