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
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TextIO

from trb_lab.driver.action import NOTHING_TO_DO, Action
from trb_lab.driver.budget import Budget
from trb_lab.driver.cancelling import cancel_runs
from trb_lab.driver.changes import removed_live
from trb_lab.driver.cluster import Cluster, places_of
from trb_lab.driver.end import conclude
from trb_lab.driver.lease import driving, store_in_words
from trb_lab.driver.outlook import outlook_of
from trb_lab.driver.plan import Plan, plan_sweep, write_plan
from trb_lab.driver.plan_text import plan_json, plan_summary, plan_text
from trb_lab.driver.retry import classes_of
from trb_lab.driver.searches import Searches, require_samplers
from trb_lab.driver.view import LiveView, PlainView, View, duration
from trb_lab.errors import UsageError, did_you_mean
from trb_lab.failpoints import reach
from trb_lab.launch.base import Job, Launcher
from trb_lab.launch.follow import Fleet, Member
from trb_lab.launch.local import ProcessLauncher, visible_gpus
from trb_lab.launch.mirror import MirrorProcess
from trb_lab.store import locks
from trb_lab.store.run_dir import Store


def run_sweep(
    path: Path | str,
    store: Store,
    *,
    parallel: int | None = None,
    retry_failed: bool | Collection[str] = False,
    dry_run: bool = False,
    as_json: bool = False,
    only: Sequence[str] | None = None,
    launcher: Callable[[int | None], Launcher] = ProcessLauncher,
    cluster: Cluster | None = None,
    take_over: bool = False,
    budget: Budget | None = None,
    cancel_removed: bool = False,
) -> int:
    """Run what is missing of a sweep and report. Returns the exit code: 0, or 1 when a trial failed.

    `parallel` overrides the file's slots; `only` names arms that this run keeps to (the plan stays whole);
    `retry_failed` may name classes (retry.CLASSES). With `cluster` trials run there, and `launcher` is not used.
    With `as_json` stdout holds JSON alone: of the plan (`dry_run`), or of what became of it. Once a `budget` is spent
    searches start nothing more. `cancel_removed` cancels what the last plan had and this one has not.
    Raises UsageError for a wrong file, before anything was written; Locked when another driver is at it, unless
    `take_over`; and Lost when another one has taken over from this one.
    """
    places = places_of(store)
    plan = plan_sweep(path, store, retry_failed=retry_failed, places=places)
    chosen = _only(plan, only)
    members = _members(chosen, store)
    retry = classes_of(retry_failed)
    if chosen.searches and cluster is not None and cluster.detach:
        raise UsageError(
            "--detach leaves no driver, and a search needs one that asks for its next settings "
            f"(arms: {', '.join(chosen.searches)}). Take --driver slurm, which makes the driver a job."
        )
    if budget is not None and not chosen.searches:
        raise UsageError(
            f"--budget {budget.written}: it ends searches, and sweep '{plan.sweep.name}' has none."
        )
    gpus = cluster.profile.gpus if cluster is not None else len(visible_gpus())
    if budget is not None and budget.unit == "gpuh" and not gpus:
        raise UsageError(
            f"--budget {budget.written}: no GPU takes part, so none of it would be spent. Take cpuh or h."
        )
    require_samplers(chosen)
    names = _names(plan)
    searches = Searches(chosen, store, retry=retry, places=places, budget=budget, names=names)
    slots = (
        cluster.slots(parallel) if cluster is not None else launcher(parallel or plan.sweep.parallel).slots
    )
    outlook = outlook_of(chosen, store, places, searches=searches.all, slots=slots)
    asked = cluster.request_text(_wanted(chosen, members), parallel) if cluster is not None else ""
    if dry_run:
        preview = searches.preview(slots)
        asked = "\n".join(filter(None, [asked, searches.purse_text()]))
        if as_json:
            print(json.dumps(plan_json(chosen, outlook, preview=preview, limits=asked), allow_nan=False))
        else:
            print(plan_text(chosen, outlook, preview=preview, limits=asked))
        return 0
    options = [
        *(cluster.options if cluster is not None else []),
        *(["--budget", budget.written] if budget else []),
    ]
    again = shlex.join(["trb-lab", "sweep", str(path), *options])
    sweep = store.sweep(plan.sweep.name)
    on = cluster.name if cluster is not None else None
    with store_in_words(store):
        with driving(sweep, on=on, take_over=take_over) as lease:
            reach("driver.plan.before")
            write_plan(plan, store)
            reach("driver.plan.after")
            if cancel_removed:
                _cancel_removed(plan, store, sys.stderr if as_json else sys.stdout)
            if cluster is None or not cluster.driver_is_a_job:
                beginning = "\n".join(filter(None, [plan_summary(chosen, outlook), asked]))
                drive = _Drive(plan, chosen, members, searches, names, store, lease, as_json, again)
                return drive.run(cluster, launcher, parallel, beginning)
        # The lease is free again: the job takes it.
        return cluster.submit_driver(store, plan.sweep.name, as_json)


class _Drive:
    """One driver's way from the plan to the report, under its lease."""

    def __init__(
        self,
        plan: Plan,
        chosen: Plan,
        members: list[Member],
        searches: Searches,
        names: dict[str, str],
        store: Store,
        lease: locks.Lease,
        as_json: bool,
        again: str,
    ) -> None:
        self.plan = plan
        self.chosen = chosen
        self.members = members
        self.searches = searches
        self.names = names
        self.store = store
        self.lease = lease
        self.as_json = as_json
        self.again = again
        """The command that goes on from here."""
        self.out = sys.stderr if as_json else sys.stdout

    def run(
        self,
        cluster: Cluster | None,
        launcher: Callable[[int | None], Launcher],
        parallel: int | None,
        beginning: str,
    ) -> int:
        """`beginning` is said first: what there is to do."""
        name = self.plan.sweep.name
        if cluster is not None and cluster.detach and self.members:
            print(beginning, file=self.out)
            return cluster.detached(
                self.store, name, self.members, parallel, self.again, self.as_json, self.lease.check
            )
        mirror = MirrorProcess(self.store, self.store.sweep(name).driver_log)
        with _stop_requests() as requests, _view(self.names, self.as_json) as view:
            view.say(beginning)
            view.say(mirror.start())
            began = time.monotonic()
            if cluster is None:
                jobs = launcher(parallel or self.plan.sweep.parallel)
            else:
                jobs = cluster.launcher(self.store, name, parallel, self.lease.check)
            try:
                fleet = Fleet(jobs, [m for m in self.members if m.run_id not in jobs.settled])
                # Another driver may have decided more until it gave up the lease, or the cluster told how runs ended.
                searches = self.searches.as_of_now(anew=cluster is not None)
                searches.check = self.lease.check
                searches.begin(fleet)
                stopped_by = _follow(fleet, searches, view, requests, self.lease)
            finally:
                jobs.close()
        if stopped_by is not None:
            searches.finish()
            # The mirror shows what is there and ends by itself once this process has gone and its workers with it.
            if jobs.outlives_driver:
                mirror.leave()
            print(self._stopped_text(fleet), file=sys.stderr)
            return 128 + stopped_by
        self.lease.check()
        end = "Stopped" if fleet.halted is not None else "All trials have ended"
        print(f"{end} after {duration(time.monotonic() - began)}.", file=self.out)
        for problem in searches.finish():
            print(problem, file=self.out)
        code = conclude(self.plan, fleet, searches, self.store, self.as_json)
        print(mirror.finish(), file=self.out)
        return code

    def _stopped_text(self, fleet: Fleet) -> str:
        if not fleet.launcher.outlives_driver:
            return f"Stopped; nothing is lost. Go on with: {self.again}"
        counts = {s: sum(m.standing == s for m in fleet.members.values()) for s in ("running", "waiting")}
        return (
            f"{counts['running']} running and {counts['waiting']} waiting trials: what the cluster has goes on "
            f"without this driver. To follow again: {self.again}\n"
            f"To stop them: trb-lab cancel {self.plan.sweep.name}"
        )


def _cancel_removed(plan: Plan, store: Store, out: TextIO) -> None:
    """Cancel what the last plan had, this one has not, and still runs or waits."""
    removed = removed_live(plan, store, places_of(store))
    for run in removed:
        print(f"cancelling {run.run_id}: it is no longer planned", file=out)
    for problem in cancel_runs(store, removed):
        print(f"Not stopped: {problem}", file=out)


def _names(plan: Plan) -> dict[str, str]:
    """What each run id is called."""
    names = {row.run_id: row.name for row in reversed(plan.rows)}
    return names | {run_id: f"{r.role} (reference)" for run_id, r in plan.references.items()}


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


def _wanted(plan: Plan, members: Sequence[Member]) -> list[Job]:
    """Jobs that are to be started: nobody is at them yet."""
    actions = {run_id: trial.action for run_id, trial in plan.trials.items()}
    actions |= {run_id: reference.action for run_id, reference in plan.references.items()}
    return [m.job for m in members if actions[m.run_id] is not Action.ATTACH]


def _follow(
    fleet: Fleet, searches: Searches, view: View, requests: list[int], lease: locks.Lease
) -> int | None:
    """Follow until all have ended. Returns the signal that asked to stop, or None.

    The first request lets the workers save and end, the second kills them (they resume from a checkpoint). Jobs
    of a cluster are left to it.
    """
    handled = 0
    told = False
    while True:
        if len(requests) > handled:
            handled = len(requests)
            if fleet.launcher.outlives_driver:
                return requests[0]
            fleet.stop(kill=handled > 1)
            gently = "Stopping: the workers save and end. Once more ends them at once."
            view.say(gently if handled == 1 else "Killing the workers.")
        lease.check()
        events = fleet.tick()
        searches.tick(fleet)
        view.show(events, fleet)
        if fleet.halted is not None and not told:
            told = True
            view.say(
                f"Nothing more is started: every trial fails with the same error.\n{fleet.halted.rstrip()}"
            )
        if fleet.done and (searches.over or fleet.stopping or fleet.halted is not None):
            fleet.tick()  # what the last look told is written down: nothing is left open for another driver
            return requests[0] if requests else None
        _sleep(fleet.launcher.poll_seconds if handled == 0 else 0.2, requests, handled)


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
