"""Which runs belong to which MLflow experiment, and the parent run that holds a sweep together."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import locks
from . import mlflow_rows as rows
from .mlflow_tracking import MetricRow, Tracking, local_uri
from .mlflow_trial import RUN_ID_TAG, Entry, Target, log_new_file, new_entry, stamp
from .run_dir import RunDir, Store, SweepDir, read_json
from .status import TrialState

AD_HOC = "runs"
"""Experiment of the trials that no sweep plans."""

NESTED_TAG = "mlflow.parentRunId"
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
    arms: dict[str, str] = field(default_factory=dict)
    """Run id -> `arm setting`."""


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


def sweep_group(store: Store, sweep: SweepDir, uri: str) -> Group:
    """The trials and references that a sweep's plan names."""
    plan = read_json(sweep.plan) or {}
    targets, arms = [], {}
    for trial in plan.get("trials", []):
        run_id, arm, setting = trial["run_id"], str(trial.get("arm", "")), str(trial.get("setting") or "")
        arms[run_id] = f"{arm} {setting}".strip()
        tags = {
            **_base_tags("trial", run_id, sweep.name),
            "arm": arm,
            "setting": setting,
            "seed": str(trial.get("seed", "")),
        }
        targets.append(Target(store.trial(run_id), run_id, f"{arms[run_id]} seed {trial.get('seed')}", tags))
    for reference in plan.get("references", []):
        run_id, role = reference["run_id"], str(reference.get("role", "reference"))
        tags = {**_base_tags("reference", run_id, sweep.name), "arm": role}
        targets.append(Target(store.reference(run_id), run_id, f"{role} (untrained)", tags))
    path = state_path(store, sweep.mlflow, uri)
    return Group(sweep.name, path, targets, sweep, str(plan.get("question", "")), arms)


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
    return {**_base_tags("sweep", PARENT_ID + group.name, group.name), "mlflow.note.content": group.question}


def parent_rows(
    group: Group, entries: Mapping[str, Entry], states: Mapping[str, TrialState]
) -> list[MetricRow]:
    """Counts by state, and the mean final pass@1 of each arm's setting over its finished seeds.

    Step and timestamp follow from the finished trials, so that a replay logs the same rows.
    """
    counts = Counter(states[run_id] for run_id in group.arms)
    finished = [e for r, e in entries.items() if r in group.arms and e.get("finished")]
    when = max((int(e["finished"]) for e in finished), default=0)
    step = sum(n for state, n in counts.items() if state not in (TrialState.NEW, TrialState.RUNNING))
    made = [MetricRow("trials/planned", float(len(group.arms)), when, step)]
    made += [MetricRow(f"trials/{state}", float(counts[state]), when, step) for state in TrialState]
    scores: dict[str, list[float]] = {}
    for run_id, arm in group.arms.items():
        score = entries.get(run_id, {}).get("mean_pass_at_1")
        if score is not None and states[run_id] is TrialState.COMPLETED:
            scores.setdefault(arm, []).append(float(score))
    for arm, values in scores.items():
        name = rows.metric_name(f"final/{arm}/mean_pass_at_1")
        made.append(MetricRow(name, sum(values) / len(values), when, len(values)))
    return made


def parent_status(group: Group, states: Mapping[str, TrialState]) -> str:
    """RUNNING only while a worker lives, or a driver that still has trials to start."""
    seen = {states[run_id] for run_id in group.arms}
    waiting = bool(seen & {TrialState.NEW, TrialState.INTERRUPTED})
    driven = group.sweep is not None and locks.is_held(group.sweep.driver_lock)
    if TrialState.RUNNING in seen or (waiting and driven):
        return "RUNNING"
    if seen <= {TrialState.COMPLETED}:
        return "FINISHED"
    return "FAILED" if TrialState.FAILED in seen else "KILLED"


def _report_files(sweep: SweepDir) -> list[tuple[Path, str]]:
    """(file, artifact folder) of everything the report made."""
    files = [p for p in sorted(sweep.report.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    return [(p, "/".join(("report", *p.parent.relative_to(sweep.report).parts))) for p in files]


def open_parent(tracking: Tracking, group: Group, experiment_id: str, known: Mapping[str, str]) -> Entry:
    """The sweep's parent run: found by its tag, or made."""
    tags = parent_tags(group)
    run = known.get(tags[RUN_ID_TAG])
    if run is None:
        began = stamp(group.sweep.plan) if group.sweep else None
        start = began[1] // 1_000_000 if began else int(1000 * time.time())
        run = tracking.create_run(experiment_id, group.name, tags, start)
    return new_entry(run)


def mirror_parent(
    tracking: Tracking,
    group: Group,
    entry: Entry,
    entries: Mapping[str, Entry],
    states: Mapping[str, TrialState],
) -> None:
    """Bring the parent run up to date: spec, counts, means, plan, report, status."""
    assert group.sweep is not None
    if entry.get("deleted"):
        return
    run = entry["mlflow_run_id"]
    plan_stamp = stamp(group.sweep.plan)
    if entry["artifacts"].get("plan.json") != plan_stamp:
        plan: dict[str, Any] = read_json(group.sweep.plan) or {}
        tracking.log_params(run, rows.params(plan.get("spec") or {}))
        tracking.set_tags(run, parent_tags(group))
    log_new_file(tracking, entry, group.sweep.plan)
    made = parent_rows(group, entries, states)
    summary = [[r.key, r.value, r.timestamp_ms, r.step] for r in made]
    if entry.get("metrics") != summary:
        tracking.log_metrics(run, made)
        done = sum(states[r] is TrialState.COMPLETED for r in group.arms)
        tracking.set_tags(run, {"trb.completed": f"{done} of {len(group.arms)}"})
        entry["metrics"] = summary
    for path, folder in _report_files(group.sweep):
        log_new_file(tracking, entry, path, folder)
    status = parent_status(group, states)
    if entry["state"] != status:
        ends = [int(e["finished"]) for e in entries.values() if e.get("finished")]
        tracking.set_status(run, status, max(ends, default=int(1000 * time.time())))
        entry["state"] = status
