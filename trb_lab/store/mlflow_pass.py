"""One pass over a store: every wanted experiment, its parent run, its runs, under the mirror lock.

What has been sent is kept in mlflow.json beside the plan; what was sent and not noted there is found again
by tag, or sent again: MLflow stores equal rows once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trb_lab.errors import MissingExtra, UsageError, did_you_mean
from trb_lab.failpoints import reach

from . import locks
from .mlflow_diagnostics import DiagnosticsPass
from .mlflow_notes import NOTE_TAG, PAGE, run_address, sweep_links
from .mlflow_plan import PlanReader
from .mlflow_sweep import NESTED_TAG, Group, ad_hoc_group, mirror_parent, open_parent, sweep_group
from .mlflow_tracking import Tracking, connect, default_uri, one_line, require_mlflow
from .mlflow_trial import RUN_ID_TAG, Entry, Target, mirror_trial, new_entry, start_ms
from .run_dir import Store, read_json, write_atomic
from .status import TrialState, state_of

SAVE_SECONDS = 2.0
"""How often a long pass notes what it has sent."""
SAVE_SHARE = 30.0
"""Or after so many times what the last note took: that of a sweep of thousands of runs is long."""


@dataclass
class SyncStatus:
    """What a sync came to. `ok`: everything that the files hold is in MLflow."""

    tracking_uri: str
    ok: bool = True
    reason: str | None = None
    """Why not, in one line: `busy: ...`, `unreachable: ...`, or the first problem."""
    runs: int = 0
    """MLflow runs looked after (parents not counted)."""
    running: int = 0
    """Trials among them that are running: there is more to come."""
    values_sent: int = 0
    problems: list[str] = field(default_factory=list)
    """Runs that the tracking store refused, one line each."""


class Unreachable(Exception):
    """The tracking store does not answer; nothing is wrong with what was sent."""


class Mirror:
    """Passes over a store, one tracking URI. Between passes it holds a connection, and what it has read of plans."""

    def __init__(self, store: Store, tracking_uri: str | None = None, sweep: str | None = None) -> None:
        require_mlflow("the MLflow mirror")
        names = [s.name for s in store.sweeps()]
        if sweep is not None and sweep not in names:
            raise UsageError(
                f"no sweep '{sweep}' in {store.root} (there are: {', '.join(names) or 'none'})."
                + did_you_mean(sweep, names)
            )
        self.store = store
        self.uri = default_uri(store, tracking_uri)
        self.sweep = sweep
        self._tracking: Tracking | None = None
        self._plans: dict[str, PlanReader] = {}
        self._groups: dict[str, Group] = {}
        self._ad_hoc: dict[str, Target] = {}

    def sync_once(self) -> SyncStatus:
        """One pass. Raises nothing for what a tracking store does; MissingExtra and broken files raise."""
        status = SyncStatus(self.uri)
        try:
            with locks.hold(self.store.mirror_lock, "the MLflow mirror"):
                self._pass(status)
        except locks.Locked as error:
            status.ok, status.reason = False, f"busy: {error}"
        except Unreachable as error:
            self._tracking = None  # a fresh connection next time
            status.ok, status.reason = False, f"unreachable: {error}"
        except OSError as error:  # the store's own disk: mlflow.json could not be written
            status.ok, status.reason = False, f"disk: {one_line(error)}"
        if status.problems and status.ok:
            status.ok, status.reason = False, status.problems[0]
        return status

    def _pass(self, status: SyncStatus) -> None:
        if self._tracking is None:
            try:
                self._tracking = connect(self.store, self.uri)
                if not self._tracking.answers():
                    raise Unreachable(f"no answer from {self.uri}")
            except (MissingExtra, Unreachable):
                raise
            except Exception as error:
                raise Unreachable(one_line(error)) from error
        for group in self._wanted_groups():
            if group.targets:
                GroupPass(self._tracking, group, status).run()
        if self.sweep is None:
            DiagnosticsPass(self._tracking, self.store, status).run()

    def _wanted_groups(self) -> list[Group]:
        groups = []
        planned: set[str] = set()
        for sweep in self.store.sweeps():
            plan = self._plans.setdefault(sweep.name, PlanReader(sweep))
            if plan.read() or sweep.name not in self._groups:
                self._groups[sweep.name] = sweep_group(self.store, sweep, plan.planned(), self.uri)
            group = self._groups[sweep.name]
            planned.update(group.trials)
            if self.sweep in (None, sweep.name):
                groups.append(group)
        if self.sweep is None:
            groups.append(ad_hoc_group(self.store, planned, self.uri, self._ad_hoc))
        return groups


class GroupPass:
    """One pass over one experiment: its state file, its parent run, its runs."""

    def __init__(self, tracking: Tracking, group: Group, status: SyncStatus) -> None:
        self.tracking = tracking
        self.group = group
        self.status = status
        self._known: dict[str, str] | None = None
        self._saved_at, self._pause = time.monotonic(), SAVE_SECONDS
        kept = read_json(group.state_path) or {}
        self.parent: Entry | None = kept.get("parent")
        self.entries: dict[str, Entry] = kept.get("runs", {})
        self.experiment_id: str = kept.get("experiment_id", "")
        self.experiment_created: int = kept.get("experiment_created", 0)
        self._saved = self._as_text()
        self.has_report = group.sweep is not None and (group.sweep.report / PAGE).exists()

    def run(self) -> None:
        states: dict[str, TrialState] = {}
        self._guard("experiment", self._open_experiment)
        if not self.experiment_id:
            return
        try:
            if self.group.sweep is not None:
                self._guard(f"sweep {self.group.name}", self._open_parent)
            for target in self.group.targets:
                states[target.run_id] = self._one(target)
                if time.monotonic() - self._saved_at > self._pause:
                    self._save()
            if self.parent is not None and self.group.sweep is not None:
                parent = self.parent
                self._guard(
                    f"sweep {self.group.name}",
                    lambda: mirror_parent(
                        self.tracking, self.group, self.experiment_id, parent, self.entries, states
                    ),
                )
        finally:
            self._save()  # also when the server dies half-way: what was sent is sent

    def _one(self, target: Target) -> TrialState:
        seen: list[TrialState] = []

        def work() -> None:
            entry = self.entries.get(target.run_id)
            shown = self._with_note(target)
            state, sent = mirror_trial(self.tracking, shown, entry, self._open_run)
            self.status.values_sent += sent
            seen.append(state)

        self._guard(target.run_id, work)
        state = seen[0] if seen else state_of(target.run_dir)
        self.status.runs += state is not TrialState.NEW
        self.status.running += state is TrialState.RUNNING
        return state

    def _with_note(self, target: Target) -> Target:
        """The target with its description, which says where the sweep's report is."""
        if self.parent is None or not target.note:
            return target
        parent = run_address(self.experiment_id, self.parent["mlflow_run_id"])
        note = f"{sweep_links(self.group.name, parent, self.has_report)}\n\n{target.note}"
        return replace(target, tags={**target.tags, NOTE_TAG: note})

    def _guard(self, what: str, work: Callable[[], None]) -> None:
        """Do the work; tell a dead server (Unreachable) from a refused run (noted, and on with the next)."""
        try:
            work()
        except (Unreachable, MissingExtra):
            raise
        except Exception as error:
            if not self.tracking.answers():
                raise Unreachable(one_line(error)) from error
            if not self._mend(what):
                self.status.problems.append(f"{what}: {one_line(error)}")

    def _mend(self, what: str) -> bool:
        """After a refusal: leave a run alone that somebody deleted in MLflow, forget one that is gone."""
        is_parent = what.startswith("sweep ")
        entry = self.parent if is_parent else self.entries.get(what)
        if entry is None:
            return False
        try:
            fate = self.tracking.fate(entry["mlflow_run_id"])
        except Exception as error:
            raise Unreachable(one_line(error)) from error
        if fate == "deleted":
            entry["deleted"] = True
            return True
        if fate == "gone":
            # The next pass makes it again; until then this one is not complete.
            if is_parent:
                self.parent = None
            else:
                self.entries.pop(what, None)
            self.status.problems.append(f"{what}: gone from MLflow, made again at the next pass")
            return True
        return False

    def _open_experiment(self) -> None:
        found = self.tracking.experiment(self.group.name)
        if found != (self.experiment_id, self.experiment_created):
            # Another database than last time: its ids mean nothing here. Runs are found by tag, or made.
            self.experiment_id, self.experiment_created = found
            self.parent, self.entries = None, {}

    def _known_runs(self) -> dict[str, str]:
        """Runs that a mirror made before it died without noting them. Looked up once a pass, when needed."""
        if self._known is None:
            self._known = self.tracking.runs_by_tag(self.experiment_id, RUN_ID_TAG)
        return self._known

    def _open_parent(self) -> None:
        if self.parent is None:
            self.parent = open_parent(self.tracking, self.group, self.experiment_id, self._known_runs())

    def _open_run(self, target: Target, tags: Mapping[str, str]) -> Entry:
        run = self._known_runs().get(target.run_id)
        made = run is None
        if run is None:
            own = {k: v for k, v in tags.items() if v}
            if self.parent is not None:
                own[NESTED_TAG] = self.parent["mlflow_run_id"]
            run = self.tracking.create_run(self.experiment_id, target.name, own, start_ms(target.run_dir))
        entry = self.entries[target.run_id] = new_entry(run)
        if made:
            entry.update(fresh=True, tags=dict(tags))
        return entry

    def _state(self) -> dict[str, Any]:
        return {
            "tracking_uri": self.tracking.uri,
            "experiment_id": self.experiment_id,
            "experiment_created": self.experiment_created,
            "parent_run_id": self.parent["mlflow_run_id"] if self.parent is not None else None,
            "parent": self.parent,
            "runs": self.entries,
        }

    def _as_text(self) -> str:
        """JSON with a run a line: written often, and long where a sweep is."""
        state = self._state()
        runs = state.pop("runs")
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in runs.items())
        return json.dumps(state, indent=1)[:-2] + f',\n "runs": {{\n{lines}\n }}\n}}\n'

    def _save(self) -> None:
        began = time.monotonic()
        now = self._as_text()
        if now != self._saved:
            reach("driver.mirror.before")  # what was sent is not noted yet: it is sent again
            write_atomic(self.group.state_path, now)
            reach("driver.mirror.after")
            self._saved = now
        self._saved_at = time.monotonic()
        self._pause = max(SAVE_SECONDS, SAVE_SHARE * (self._saved_at - began))
