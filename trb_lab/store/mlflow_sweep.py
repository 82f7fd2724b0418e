"""Which runs belong to which MLflow experiment, and the parent run that holds a sweep together."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import locks
from . import mlflow_rows as rows
from .mlflow_notes import (
    NOTE_TAG,
    experiment_note,
    reference_note,
    run_address,
    sweep_note,
    trial_note,
)
from .mlflow_tracking import MetricRow, Tracking, local_uri
from .mlflow_trial import RUN_ID_TAG, Entry, Target, log_new_file, log_records, new_entry, stamp
from .mlflow_views import view_links, view_tags
from .records import sweep_records
from .run_dir import RunDir, Store, SweepDir, read_json
from .status import TrialState

AD_HOC = "runs"
"""Experiment of the trials that no sweep plans."""

NESTED_TAG = "mlflow.parentRunId"
SEARCH_TAGS = {"trb.search": "arm", "trb.search_number": "number", "trb.search_role": "role"}
"""Tag of a run that a search asked for -> key of its row's `search`."""
SEARCH_SECONDS = 60.0
"""How often a search's files are logged while it goes on."""
NAME_CHARACTERS = 200
"""Of a run's arms in its name: MLflow's column for names is 250 wide."""
DIAGNOSTICS = "diagnostics"
"""Experiment of what `trb-lab diagnose` found."""
DIAGNOSTIC_ID = "diagnostic:"
"""Value of RUN_ID_TAG of a diagnostic's run, before its name."""
PARENT_ID = "sweep:"
"""Value of RUN_ID_TAG of a parent run, before the sweep's name: no trial is called so."""


@dataclass
class Group:
    """The runs of one MLflow experiment."""

    name: str
    state_path: Path
    targets: list[Target]
    sweep: SweepDir | None = None
    question: str = ""
    rows: list[tuple[str, str]] = field(default_factory=list)
    """(run id, what the row's score is averaged under) of each row of the plan. Rows may share a trial.

    A search's runs are averaged under nothing: it has thousands of settings, and the best of them is flattered. The
    runs that confirm it are.
    """
    searches: list[str] = field(default_factory=list)
    """Arms with a search."""

    @property
    def trials(self) -> list[str]:
        """Run ids of the plan's trials, each once."""
        return list(dict.fromkeys(run_id for run_id, _ in self.rows))


def state_path(store: Store, folder_file: Path, uri: str) -> Path:
    """mlflow.json for the store's own database, `mlflow-<8 hex>.json` for another tracking URI.

    Each URI has its own file, so that a local dashboard and a remote server can both be fed.
    """
    if uri == local_uri(store):
        return folder_file
    return folder_file.with_name(f"mlflow-{hashlib.sha256(uri.encode()).hexdigest()[:8]}.json")


def _base_tags(role: str, run_id: str, sweep: str | None) -> dict[str, str]:
    source = {"mlflow.source.name": "trb-lab", "mlflow.source.type": "LOCAL"}
    tags = {"trb.role": role, RUN_ID_TAG: run_id, **source}
    return {**tags, "trb.sweep": sweep} if sweep is not None else tags


def _label(trial: Mapping[str, Any]) -> str:
    return f"{trial.get('arm', '')} {trial.get('setting') or ''}".strip()


def _mean_label(trial: Mapping[str, Any]) -> str:
    search = trial.get("search")
    if search is None:
        return _label(trial)
    # Fresh seeds: a mean of their own, also where the reference arm has others already.
    label = _label(trial).replace("#", "")
    return f"{label[:NAME_CHARACTERS]} confirm" if search["role"] == "confirm" else ""


def _joined(values: Iterable[Any]) -> str:
    """The values that say something, each once: `a, b`."""
    return ", ".join(dict.fromkeys(str(v) for v in values if v not in (None, "")))


def _trial_target(store: Store, sweep: SweepDir, run_id: str, sharing: Sequence[Mapping[str, Any]]) -> Target:
    """One MLflow run for all the plan rows that share a trial, named after each of them."""
    own = {key: _joined(trial.get(key) for trial in sharing) for key in ("arm", "setting", "seed")}
    name = f"{_joined(map(_label, sharing))[:NAME_CHARACTERS]} seed {own['seed']}"
    tags = {**_base_tags("trial", run_id, sweep.name), **own}
    searches = [trial["search"] for trial in sharing if trial.get("search")]
    for tag, key in SEARCH_TAGS.items() if searches else ():
        tags[tag] = _joined(search[key] for search in searches)
    return Target(store.trial(run_id), run_id, name, tags, trial_note(run_id, sharing))


def sweep_group(store: Store, sweep: SweepDir, plan: Mapping[str, Any], uri: str) -> Group:
    """The trials and references that a sweep's plan (plans.planned) names."""
    planned = plan.get("trials", [])
    named = [(trial["run_id"], _mean_label(trial)) for trial in planned]
    sharing: dict[str, list[Mapping[str, Any]]] = {}
    for trial in planned:
        sharing.setdefault(trial["run_id"], []).append(trial)
    targets = [_trial_target(store, sweep, run_id, trials) for run_id, trials in sharing.items()]
    for reference in plan.get("references", []):
        run_id, role = reference["run_id"], str(reference.get("role", "reference"))
        tags = {**_base_tags("reference", run_id, sweep.name), "arm": role}
        note = reference_note(role, str(reference.get("model", "")))
        targets.append(Target(store.reference(run_id), run_id, f"{role} (untrained)", tags, note))
    path = state_path(store, sweep.mlflow, uri)
    searches = list(plan.get("searches", {}))
    return Group(sweep.name, path, targets, sweep, str(plan.get("question", "")), named, searches)


def _ad_hoc_target(run_dir: RunDir) -> Target:
    spec = (read_json(run_dir.config) or {}).get("spec") or {}
    seed, kind = str(spec.get("seed")), str((spec.get("warmup") or {}).get("kind", ""))
    tags = {**_base_tags("trial", run_dir.run_id, None), "arm": kind, "setting": "", "seed": seed}
    return Target(run_dir, run_dir.run_id, f"{spec.get('name', '')} {kind} seed {seed}", tags)


def ad_hoc_group(store: Store, planned: set[str], uri: str, known: dict[str, Target]) -> Group:
    """The trials that no sweep plans. `known` keeps those read before: a config never changes."""
    targets = []
    for run_dir in store.trials():
        if run_dir.run_id not in planned:
            if run_dir.run_id not in known:
                known[run_dir.run_id] = _ad_hoc_target(run_dir)
            targets.append(known[run_dir.run_id])
    return Group(AD_HOC, state_path(store, store.root / "mlflow.json", uri), targets)


def parent_tags(group: Group) -> dict[str, str]:
    return {**_base_tags("sweep", PARENT_ID + group.name, group.name), NOTE_TAG: group.question}


def parent_counts(group: Group, states: Mapping[str, TrialState]) -> dict[str, str]:
    """Tags with the number of trials in each state: `trb.running` and so on.

    Tags and not metrics: counts fall as well as rise, and a tag always shows what was set last.
    """
    counts = Counter(states[run_id] for run_id in group.trials)
    tags = {f"trb.{state}": str(counts[state]) for state in TrialState}
    return {**tags, "trb.completed": f"{counts[TrialState.COMPLETED]} of {len(group.trials)}"}


def arm_means(
    group: Group, entries: Mapping[str, Entry], states: Mapping[str, TrialState]
) -> dict[str, tuple[float, int]]:
    """Metric name -> (mean final pass@1 over the finished rows of an arm's setting, time of the last one)."""
    scores: dict[str, list[tuple[float, int]]] = {}
    for run_id, label in group.rows:
        entry = entries.get(run_id, {})
        score = entry.get("mean_pass_at_1")
        if label and score is not None and states[run_id] is TrialState.COMPLETED:
            name = rows.metric_name(f"final/{label}/mean_pass_at_1")
            scores.setdefault(name, []).append((float(score), int(entry.get("finished") or 0)))
    return {
        name: (sum(score for score, _ in found) / len(found), max(when for _, when in found))
        for name, found in scores.items()
    }


def _log_means(tracking: Tracking, entry: Entry, means: Mapping[str, tuple[float, int]]) -> None:
    """Log the means that changed, each a step past the one that MLflow shows, so that it is shown instead.

    MLflow is asked for that step, because a lost mlflow.json, two seeds that end together, or a plan with
    fewer seeds than before would make a step or a time of our own repeat or fall.
    """
    known, run = entry.setdefault("means", {}), entry["mlflow_run_id"]
    made = []
    for name, (value, when) in means.items():
        if known.get(name) == value:
            continue
        shown = tracking.latest_metric(run, name)
        if shown is None or shown[1] != value:
            made.append(MetricRow(name, value, when, 0 if shown is None else shown[0] + 1))
    tracking.log_metrics(run, made)
    entry["means"] = {name: value for name, (value, _) in means.items()}


def parent_status(group: Group, states: Mapping[str, TrialState]) -> str:
    """RUNNING only while a worker lives, or a driver that still has trials to start.

    Paused trials count for nothing: most are left so, and a search that ends has ended with them.
    """
    seen = {states[run_id] for run_id in group.trials} - {TrialState.PAUSED}
    waiting = bool(seen & {TrialState.NEW, TrialState.INTERRUPTED})
    if TrialState.RUNNING in seen or (waiting and _is_driven(group)):
        return "RUNNING"
    if seen <= {TrialState.COMPLETED}:
        return "FINISHED"
    return "FAILED" if TrialState.FAILED in seen else "KILLED"


def _is_driven(group: Group) -> bool:
    return group.sweep is not None and locks.is_held(group.sweep.driver_lock)


def _log_records(tracking: Tracking, group: Group, entry: Entry, status: str) -> None:
    """The plan, what the searches decided, came to, and look like to Optuna.

    These may be tens of megabytes that change with every run: while a driver is at work they are sent now and then.
    """
    assert group.sweep is not None
    since = time.time() - entry.get("searches_logged", 0.0)
    if group.searches and status == "RUNNING" and 0 <= since < SEARCH_SECONDS and _is_driven(group):
        return
    known = dict(entry["artifacts"])
    for arm in group.searches:
        log_new_file(tracking, entry, group.sweep.search_study(arm), "search")
    log_records(tracking, entry, group.sweep.path, sweep_records(group.sweep), known)
    if entry["artifacts"] != known:
        entry["searches_logged"] = time.time()


def _report_files(sweep: SweepDir) -> list[tuple[Path, str]]:
    """(file, artifact folder) of everything the report made."""
    files = [p for p in sorted(sweep.report.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    return [(p, "/".join(("report", *p.parent.relative_to(sweep.report).parts))) for p in files]


def _began_ms(sweep: SweepDir) -> int:
    """When the sweep was planned first: what its plan says, since a plan that is written again has a new time."""
    created = float((read_json(sweep.plan) or {}).get("created") or 0.0)
    written = stamp(sweep.plan)
    return int(1000 * created) if created else written[1] // 1_000_000 if written else int(1000 * time.time())


def open_parent(tracking: Tracking, group: Group, experiment_id: str, known: Mapping[str, str]) -> Entry:
    """The sweep's parent run: found by its tag, or made."""
    tags = parent_tags(group)
    run = known.get(tags[RUN_ID_TAG])
    if run is None:
        start = _began_ms(group.sweep) if group.sweep else int(1000 * time.time())
        run = tracking.create_run(experiment_id, group.name, tags, start)
    return new_entry(run)


def _first_seed(group: Group) -> str:
    return next((t.tags["seed"] for t in group.targets if t.tags["trb.role"] == "trial"), "0")


def _describe(tracking: Tracking, experiment_id: str, entry: Entry, tags: Mapping[str, str]) -> None:
    """Set the experiment's description and views, where they are not those that were set last."""
    if entry.get("experiment_tags") != tags:
        for tag, text in tags.items():
            tracking.describe(experiment_id, tag, text)
        entry["experiment_tags"] = dict(tags)


def mirror_parent(
    tracking: Tracking,
    group: Group,
    experiment_id: str,
    entry: Entry,
    entries: Mapping[str, Entry],
    states: Mapping[str, TrialState],
) -> None:
    """Bring the parent run up to date: spec, counts, means, plan, report, searches, status."""
    assert group.sweep is not None
    if entry.get("deleted"):
        return
    run = entry["mlflow_run_id"]
    plan_stamp = stamp(group.sweep.plan)
    if entry["artifacts"].get(group.sweep.plan.name) != plan_stamp:
        plan: dict[str, Any] = read_json(group.sweep.plan) or {}
        tracking.log_params(run, rows.params(plan.get("spec") or {}))
        tracking.set_tags(run, parent_tags(group))
    for path, folder in _report_files(group.sweep):
        log_new_file(tracking, entry, path, folder)
    tags = parent_counts(group, states)
    views, address = view_links(experiment_id), run_address(experiment_id, run)
    tags[NOTE_TAG] = sweep_note(group.question, group.sweep.report, address, views)
    described = {NOTE_TAG: experiment_note(group.question, views), **view_tags(_first_seed(group))}
    _describe(tracking, experiment_id, entry, described)
    changed = {key: value for key, value in tags.items() if entry["tags"].get(key) != value}
    if changed:
        tracking.set_tags(run, changed)
        entry["tags"].update(changed)
    _log_means(tracking, entry, arm_means(group, entries, states))
    status = parent_status(group, states)
    _log_records(tracking, group, entry, status)
    if entry["state"] != status:
        ends = [int(e["ended"]) for e in entries.values() if e.get("ended")]
        tracking.set_status(run, status, max(ends, default=int(1000 * time.time())))
        entry["state"] = status
