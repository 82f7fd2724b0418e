"""The driver of a sweep: plan, show, act, follow, report. Safe to run again at any time.

    plan     every trial built, validated and compared with what the store holds
    act      a worker for each trial that is new, interrupted or to be retried; attach to those that live
    follow   until every trial has ended; killed workers start again
    report   tables and figures from the run directories

The driver keeps nothing that the files do not say, so it may be killed at any moment: the workers go on, and
the next driver attaches to them. It needs neither torch nor MLflow; the mirror is a process of its own.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from trb_lab.errors import LabError, UsageError, did_you_mean
from trb_lab.launch.base import Job, Launcher
from trb_lab.launch.follow import Fleet, Member
from trb_lab.launch.local import ProcessLauncher
from trb_lab.launch.mirror import MirrorProcess
from trb_lab.store import locks
from trb_lab.store.run_dir import RunDir, Store
from trb_lab.store.status import TrialState, last_error, state_of
from trb_lab.sweep_plan import NOTHING_TO_DO, Plan, Row, plan_sweep, write_plan
from trb_lab.sweep_view import LiveView, PlainView, View, duration, plan_json, plan_summary, plan_text

POLL_SECONDS = 1.0


def run_sweep(
    path: Path | str,
    store: Store,
    *,
    parallel: int | None = None,
    retry_failed: bool = False,
    dry_run: bool = False,
    as_json: bool = False,
    only: Sequence[str] | None = None,
    launcher: Callable[[int | None], Launcher] = ProcessLauncher,
) -> int:
    """Run what is missing of a sweep and report. Returns the exit code: 0, or 1 when a trial failed.

    `parallel` overrides the file's slots; `only` names arms that this run keeps to (the plan stays whole).
    With `as_json` stdout holds JSON alone: of the plan (`dry_run`), or of what became of it.
    Raises UsageError for a wrong file, before anything was written, and Locked when another driver is at it.
    """
    plan = plan_sweep(path, store, retry_failed=retry_failed)
    chosen = _only(plan, only)
    if dry_run:
        print(json.dumps(plan_json(chosen), allow_nan=False) if as_json else plan_text(chosen))
        return 0
    with locks.hold(store.sweep(plan.sweep.name).driver_lock, f"sweep '{plan.sweep.name}'"):
        write_plan(plan, store)
        names = {row.run_id: row.name for row in reversed(plan.rows)}
        names |= {run_id: f"{r.role} (reference)" for run_id, r in plan.references.items()}
        mirror = MirrorProcess(store, store.sweep(plan.sweep.name).driver_log)
        with _stop_requests() as requests, _view(names, as_json) as view:
            view.say(plan_summary(chosen))
            view.say(mirror.start())
            began = time.monotonic()
            fleet = Fleet(launcher(parallel or plan.sweep.parallel), _members(chosen, store))
            stopped_by = _follow(fleet, view, requests)
        if stopped_by is not None:
            # The mirror shows what is there and ends by itself once this process has gone.
            again = shlex.join(["trb-lab", "sweep", str(path)])
            print(f"Stopped; nothing is lost. Go on with: {again}", file=sys.stderr)
            return 128 + stopped_by
        out = sys.stderr if as_json else sys.stdout
        print(f"All trials have ended after {duration(time.monotonic() - began)}.", file=out)
        code = _conclude(plan, fleet, store, as_json)
        print(mirror.finish(), file=out)
        return code


def _only(plan: Plan, arms: Sequence[str] | None) -> Plan:
    """The plan with the trials of these arms. Raises UsageError for an arm that the sweep does not have."""
    if not arms:
        return plan
    for arm in arms:
        if arm not in plan.sweep.arms:
            known = ", ".join(plan.sweep.arms)
            raise UsageError(
                f"--only {arm}: sweep '{plan.sweep.name}' has no such arm. Arms: {known}."
                f"{did_you_mean(arm, plan.sweep.arms)}"
            )
    return plan.limited_to(arms)


def _members(plan: Plan, store: Store) -> list[Member]:
    """What is to be run or followed: references first (they are short), then trials seed by seed."""
    references = [
        Member(
            Job(reference.run_dir, "eval", reference.spec.resources, reference.prepare),
            eval_sets=reference.eval_sets,
        )
        for reference in plan.references.values()
        if reference.action not in NOTHING_TO_DO
    ]
    trials = [
        Member(
            Job(trial.run_dir, "run", trial.spec.resources, partial(trial.prepare, store)),
            steps=trial.spec.steps,
            eval_sets=trial.eval_sets,
        )
        for trial in plan.trials.values()
        if trial.action not in NOTHING_TO_DO
    ]
    return references + trials


def _follow(fleet: Fleet, view: View, requests: list[int]) -> int | None:
    """Follow until all have ended. Returns the signal that asked to stop, or None.

    The first request lets the workers save and end, the second kills them (they resume from a checkpoint).
    """
    handled = 0
    while True:
        if len(requests) > handled:
            handled = len(requests)
            fleet.stop(kill=handled > 1)
            gently = "Stopping: the workers save and end. Once more ends them at once."
            view.say(gently if handled == 1 else "Killing the workers.")
        view.show(fleet.tick(), fleet)
        if fleet.done:
            return requests[0] if requests else None
        _sleep(POLL_SECONDS if handled == 0 else 0.2, requests, handled)


def _sleep(seconds: float, requests: list[int], handled: int) -> None:
    """Sleep, but wake soon after a request to stop (a signal handler does not end time.sleep)."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and len(requests) == handled:
        time.sleep(min(left, 0.1))


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Signals that ask to stop, in the order they came: noted only, so that none hits between two steps."""
    requests: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        requests.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _view(names: dict[str, str], as_json: bool) -> Iterator[View]:
    on_terminal = sys.stdout.isatty() and not as_json
    view: View = LiveView(names) if on_terminal else PlainView(names, sys.stderr if as_json else sys.stdout)
    try:
        yield view
    finally:
        view.close()


def _conclude(plan: Plan, fleet: Fleet, store: Store, as_json: bool) -> int:
    """Make the report and tell how it went. Returns the exit code."""
    outcome = [_outcome(row, fleet, store) for row in plan.rows]
    references = [
        {"run_id": run_id, "name": f"{r.role} (reference)", **_standing(run_id, r.run_dir, fleet)}
        for run_id, r in plan.references.items()
    ]
    failed = [row for row in [*outcome, *references] if row["state"] == "failed"]
    # Stopped by somebody else; one that was cancelled is as its owner wants it.
    interrupted = [m for m in fleet.members.values() if m.standing == "interrupted"]
    unfinished = [m.run_id for m in interrupted if state_of(m.job.run_dir) != TrialState.CANCELLED]
    paths: dict[str, str] = {}
    problem = None
    try:
        paths = _report(store, plan.sweep.name)
    except Exception as error:  # whatever it is, the runs are done and the rest must still be told
        kind = "" if isinstance(error, LabError) else f"{type(error).__name__}: "
        problem = f"No report: {kind}{error}"
    if as_json:
        counts = dict(Counter(row["state"] for row in outcome))
        print(json.dumps({"counts": counts, "trials": outcome, "report": paths, "problem": problem}))
    else:
        print(_closing(paths, failed, unfinished, problem))
    return 1 if failed or unfinished or problem else 0


def _report(store: Store, name: str) -> dict[str, str]:
    """Build the report; its files by what they are."""
    from trb_lab.report import build_report

    return {what: str(path) for what, path in build_report(store, name).items()}


def _outcome(row: Row, fleet: Fleet, store: Store) -> dict[str, Any]:
    return {"run_id": row.run_id, "name": row.name, **_standing(row.run_id, store.trial(row.run_id), fleet)}


def _standing(run_id: str, run_dir: RunDir, fleet: Fleet) -> dict[str, Any]:
    """How a run stands at the end. The fleet knows of failures that leave a completed trial completed."""
    member, error = fleet.members.get(run_id), last_error(run_dir) or {}
    if member is not None:
        return {
            "state": str(member.standing),
            "error": member.error,
            "error_class": error.get("error_class") if member.error else None,
        }
    return {"state": str(state_of(run_dir)), **{key: error.get(key) for key in ("error", "error_class")}}


def _closing(
    paths: dict[str, str], failed: list[dict[str, Any]], unfinished: list[str], problem: str | None
) -> str:
    """The report's table, what failed and why, and where things are."""
    lines = []
    if "table" in paths:
        lines += ["", Path(paths["table"]).read_text(encoding="utf-8").strip(), ""]
    for row in failed:
        kind = f" ({row['error_class']})" if row["error_class"] else ""
        lines.append(f"failed{kind}: {row['name']} ({row['run_id']}): {row['error']}")
    if failed:
        lines.append("See `trb-lab logs TRIAL`; `trb-lab sweep ... --retry-failed` runs failed trials again.")
    if unfinished:
        lines.append(
            f"{len(unfinished)} trials are not finished (stopped from outside); the same command goes on."
        )
    lines += [f"{name}: {path}" for name, path in paths.items()]
    return "\n".join([*lines, problem] if problem else lines)
