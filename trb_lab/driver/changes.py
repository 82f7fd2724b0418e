"""What differs from the last plan of a sweep: trials that are others now, and runs that it no longer asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trb_lab.driver.action import Action
from trb_lab.driver.overview import shown_state
from trb_lab.driver.plan import Plan, PlannedSearch, Row
from trb_lab.driver.search_context import searched_blocks
from trb_lab.launch.base import JobStatus, Phase
from trb_lab.spec import ExperimentSpec
from trb_lab.store.identity import EXCLUDED, OMITTED_AT_VALUE, differences, flatten
from trb_lab.store.plans import planned
from trb_lab.store.run_dir import RunDir, Store, read_json
from trb_lab.store.search_log import decisions
from trb_lab.trial import plan_trial

NO_TRACE = "contents of the models' or data files"
"""What has changed where two specs say the same and the earlier run left no record."""
NOT_BEGUN = "not begun"
_LIVE = ("running", "waiting")
_FIELDS_SHOWN = 6
_GROUPS_SHOWN = 10
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class Changed:
    """Rows whose trial is another one than in the last plan, all for the same reasons."""

    fields: tuple[str, ...]
    """Lines `dotted.key: old -> new`."""
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class LeftSearch:
    """An arm's search that has begun anew, because what its trials have in common is another now."""

    arm: str
    candidates: int
    """Settings that belong to the earlier base."""
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Removed:
    """A run that the plan no longer holds."""

    run_dir: RunDir
    name: str
    """Arm, setting and seed; empty where the plan that had it is gone."""
    state: str
    """As `trb-lab status` shows it."""
    also_in: str | None
    """Another sweep that plans it."""


@dataclass(frozen=True)
class Changes:
    """A plan against the last one."""

    trials: tuple[Changed, ...] = ()
    searches: tuple[LeftSearch, ...] = ()
    removed: tuple[Removed, ...] = ()

    @property
    def live(self) -> list[Removed]:
        """Removed ones that run, or wait in a cluster's queue, for this sweep alone."""
        return [r for r in self.removed if r.state in _LIVE and r.also_in is None]


def changes_of(plan: Plan, store: Store, places: Mapping[str, JobStatus] | None = None) -> Changes:
    """Compare a plan with the last one, which is still on disk or in `plan.previous`. Changes nothing."""
    return Changes(_changed(plan, store), _left_searches(plan, store), _removed(plan, store, places or {}))


def removed_live(plan: Plan, store: Store, places: Mapping[str, JobStatus]) -> list[RunDir]:
    """Runs of no plan that run or wait in a cluster's queue: what --cancel-removed cancels.

    One that another sweep of the store plans is left to it.
    """
    return [removed.run_dir for removed in Changes(removed=_removed(plan, store, places)).live]


def changes_text(changes: Changes) -> str:
    """What has changed and why; empty where nothing has."""
    lines = []
    for group in changes.trials[:_GROUPS_SHOWN]:
        lines.append(f"{_how_many(group.rows)} because of: {_shown(group.fields)}")
    if more := changes.trials[_GROUPS_SHOWN:]:
        count = len({row.run_id for group in more for row in group.rows})
        lines.append(f"{count} more trials are others than in the last plan, for {len(more)} other reasons.")
    for search in changes.searches:
        lines.append(
            f"{search.arm}: {search.candidates} earlier candidates of the search belong to another base and are left "
            f"alone. What differs: {_shown(search.fields)}"
        )
    return "\n".join([*lines, *filter(None, [removed_text(changes.removed)])])


def removed_text(removed: Sequence[Removed]) -> str:
    """How many runs are no longer planned, and what they are doing."""
    if not removed:
        return ""
    shown = ", ".join(r.run_dir.run_id for r in removed[:_NAMES_SHOWN])
    more = ", ..." if len(removed) > _NAMES_SHOWN else ""
    states = Counter("in the cluster's queue" if r.state == "waiting" else r.state for r in removed)
    told = ", ".join(f"{count} {state}" for state, count in states.most_common())
    lines = [f"{len(removed)} no longer planned (kept): {shown}{more}", f"  {told}. Nothing is done to them"]
    live = Changes(removed=tuple(removed)).live
    lines[-1] += "; --cancel-removed cancels those that run or wait." if live else "."
    for r in live[:_NAMES_SHOWN]:
        lines.append(f"  {r.state}: {r.run_dir.run_id}" + (f" ({r.name})" if r.name else ""))
    for sweep, count in Counter(r.also_in for r in removed if r.state in _LIVE and r.also_in).items():
        lines.append(f"  {count} of those that run or wait are planned by sweep '{sweep}' and left to it.")
    return "\n".join(lines)


def changes_json(changes: Changes) -> dict[str, Any]:
    """All of it, whole."""
    return {
        "changed": [
            {"fields": list(group.fields), "run_ids": list(dict.fromkeys(row.run_id for row in group.rows))}
            for group in changes.trials
        ],
        "left_searches": [
            {"arm": s.arm, "candidates": s.candidates, "fields": list(s.fields)} for s in changes.searches
        ],
        "removed": [
            {"run_id": r.run_dir.run_id, "name": r.name, "state": r.state, "also_in": r.also_in}
            for r in changes.removed
        ],
    }


def _how_many(rows: Sequence[Row]) -> str:
    actions = Counter({row.run_id: row.action for row in rows}.values())
    count = actions.total()
    trials = f"{count} trial{'' if count == 1 else 's'}"
    if set(actions) == {Action.NEW}:
        return f"{trials} {'is' if count == 1 else 'are'} new"
    parts = ", ".join(f"{n} {action}" for action, n in actions.items())
    return f"{trials} ({parts}) {'is another' if count == 1 else 'are others'} than in the last plan"


def _shown(fields: Sequence[str]) -> str:
    more = f"; and {len(fields) - _FIELDS_SHOWN} more" if len(fields) > _FIELDS_SHOWN else ""
    return "; ".join(fields[:_FIELDS_SHOWN]) + more


def _changed(plan: Plan, store: Store) -> tuple[Changed, ...]:
    before = {
        (row["arm"], row["setting"], row["seed"]): row
        for row in plan.previous.get("trials", [])
        if "search" not in row
    }
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in plan.rows:
        old = before.get((row.draft.arm, row.draft.setting, row.draft.seed))
        if old is not None and old["run_id"] != row.run_id:
            found.setdefault(_differences(old, row.draft.spec, store), []).append(row)
    return tuple(
        sorted(
            (Changed(fields, tuple(rows)) for fields, rows in found.items()),
            key=lambda group: len(group.rows),
            reverse=True,
        )
    )


def _left_searches(plan: Plan, store: Store) -> tuple[LeftSearch, ...]:
    found = []
    for name, search in plan.searches.items():
        context = (plan.previous.get("searches", {}).get(name) or {}).get("context")
        if context is None or context == search.context:
            continue
        log = store.sweep(plan.sweep.name).search_log(name)
        proposals = [d for d in decisions(log, context) if d.event == "proposal" and d.rows]
        if proposals:
            fields = _what_differs(plan, search, proposals[0].rows[0], store)
            found.append(LeftSearch(name, len({d.number for d in proposals}), fields))
    return tuple(found)


def _what_differs(plan: Plan, search: PlannedSearch, row: Mapping[str, Any], store: Store) -> tuple[str, ...]:
    """What the trials of a search have in common, then and now."""
    arms = (plan.previous.get("spec") or {}).get("arms") or {}
    then = set((((arms.get(search.arm.name) or {}).get("search") or {}).get("space")) or {})
    now = set(search.arm.spec.space)
    varying = [*searched_blocks(search.arm), *(key.removesuffix(".kind") for key in then), "seed"]
    fields = [f"search.space: {key} is searched now" for key in sorted(now - then) if then]
    fields += [f"search.space: {key} is no longer searched" for key in sorted(then - now)]
    rest = _differences(row, search.arm.example, store, varying)
    if rest == (NO_TRACE,):
        rest = () if fields else ("what is written beside the searched keys, or the models' or data files",)
    return (*fields, *rest)


def _differences(
    old: Mapping[str, Any], spec: ExperimentSpec, store: Store, varying: Sequence[str] = ()
) -> tuple[str, ...]:
    """Lines for each field of the identity in which an earlier row and a trial differ, but for `varying` ones."""
    new = plan_trial(spec).identity
    config = read_json(store.trial(old["run_id"]).config) or {}
    before: dict[str, Any]
    if identity := config.get("identity"):
        before, after = dict(identity), dict(new)
    else:
        before, after = {"spec": _hashed(old["spec"])}, {"spec": _hashed(new["spec"])}
    keys = [f"spec.{key}" for key in varying]
    lines = differences(_without(flatten(before), keys), _without(flatten(after), keys))
    return tuple(lines) or (NO_TRACE,)


def _hashed(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What of a dumped spec belongs to the identity, as dotted keys."""
    flat = _without(flatten(dict(spec)), EXCLUDED)
    return {k: v for k, v in flat.items() if not (k in OMITTED_AT_VALUE and OMITTED_AT_VALUE[k] == v)}


def _without(flat: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    keys = list(keys)
    return {k: v for k, v in flat.items() if not any(k == key or k.startswith(f"{key}.") for key in keys)}


def _removed(plan: Plan, store: Store, places: Mapping[str, JobStatus]) -> tuple[Removed, ...]:
    names = {
        row["run_id"]: " ".join(filter(None, [row["arm"], row["setting"], f"seed={row['seed']}"]))
        for row in plan.previous.get("trials", [])
    }
    states = {run_id: _state(store.trial(run_id), places.get(run_id)) for run_id in plan.no_longer_planned}
    elsewhere = _planned_elsewhere(plan, store, {run_id for run_id, s in states.items() if s in _LIVE})
    return tuple(
        Removed(store.trial(run_id), names.get(run_id, ""), state, elsewhere.get(run_id))
        for run_id, state in states.items()
    )


def _state(run: RunDir, place: JobStatus | None) -> str:
    if not run.path.exists() and (place is None or place.phase is Phase.ENDED):
        return NOT_BEGUN
    state = str(shown_state(run, place))
    return NOT_BEGUN if state == "new" else state


def _planned_elsewhere(plan: Plan, store: Store, runs: set[str]) -> dict[str, str]:
    """Which other sweep plans a run."""
    found: dict[str, str] = {}
    for sweep in store.sweeps() if runs else ():
        if sweep.name != plan.sweep.name:
            ids = {row["run_id"] for row in (planned(sweep) or {}).get("trials", [])}
            found |= dict.fromkeys(ids & runs, sweep.name)
    return found
