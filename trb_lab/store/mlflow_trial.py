"""One run directory into one MLflow run. Every step may be repeated: what is there is found, not doubled."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import mlflow_rows as rows
from .metrics import iter_lines
from .mlflow_stream import MetricStream
from .mlflow_tracking import MetricRow, Tracking
from .records import run_records
from .run_dir import RunDir, read_json
from .status import TrialState, attempt_count, attempts, last_error, state_of

MLFLOW_STATUS = {
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETED: "FINISHED",
    TrialState.FAILED: "FAILED",
    TrialState.INTERRUPTED: "KILLED",
    TrialState.PAUSED: "SCHEDULED",  # nothing went wrong, and it has not come to its end: it may go on
    TrialState.CANCELLED: "KILLED",
}

RUN_ID_TAG = "trb.run_id"
LIST_NAME = "records.json"
"""Artifact of an ended run: record -> SHA-256, written after them."""
TABLES_TAG = "mlflow.loggedArtifacts"
"""Which artifacts of a run MLflow shows as tables, beside those of other runs."""
SHOWN_TABLES = 60
"""How many that tag names: it holds 5000 characters."""
SHOWN_AS = 3
"""Goes up when runs are shown in another way: those that were shown before are looked at once more."""

Entry = dict[str, Any]
"""What the mirror knows of one MLflow run: an item of `runs` in mlflow.json."""


@dataclass(frozen=True)
class Target:
    """A run directory, and how it is called in the experiment it is shown in."""

    run_dir: RunDir
    run_id: str
    name: str
    tags: Mapping[str, str]
    note: str = ""
    """Its description, in Markdown."""


def stamp(path: Path) -> list[int] | None:
    """[size, mtime in ns] of a file, or None."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _signature(run_dir: RunDir, state: TrialState) -> list[Any]:
    """Changes whenever an ended run has something new to show."""
    small = (run_dir.attempts, run_dir.result, run_dir.provenance)
    growing = (run_dir.metrics, run_dir.timing, run_dir.log, run_dir.samples, run_dir.items)
    return [SHOWN_AS, str(state), *map(stamp, (*small, *growing))]


def _is_shown(entry: Entry, signature: list[Any], target: Target) -> bool:
    """Whether nothing has changed since the run was shown: its files, and what its plan says of it."""
    same_tags = all(entry["tags"].get(key, "") == value for key, value in target.tags.items())
    return same_tags and entry.get("done") == signature


def checkpoint_offset(run_dir: RunDir) -> int:
    """Bytes of metrics.jsonl that the newest complete checkpoint vouches for."""
    for folder in sorted(run_dir.checkpoints.glob("step_*"), reverse=True):
        try:
            return int(read_json(folder / "state.json")["metrics_offset"])
        except (TypeError, KeyError, ValueError):
            continue  # no state.json: an older writer, or a folder that is just being removed
    return 0


def start_ms(run_dir: RunDir) -> int:
    """Time of the first attempt."""
    events = attempts(run_dir)
    return int(1000 * events[0].get("time", 0.0)) if events else int(1000 * time.time())


def end_ms(run_dir: RunDir, result: Mapping[str, Any] | None) -> int:
    """When the run ended: its last attempt's end, its result's time, or the last sign of life.

    The attempt comes first: a result's time moves on when an evaluation set is added days later.
    """
    events = attempts(run_dir)
    if events and events[-1]["event"] == "end" and events[-1].get("time"):
        return int(1000 * events[-1]["time"])
    if result is not None and result.get("finished"):
        return int(1000 * result["finished"])
    signs = [s[1] // 1_000_000 for p in (run_dir.timing, run_dir.log) if (s := stamp(p)) is not None]
    return max([start_ms(run_dir), *signs])


def trial_tags(run_dir: RunDir, state: TrialState) -> dict[str, str]:
    """Tags that follow from the files: attempt, state, code version, host, error."""
    provenance = read_json(run_dir.provenance) or {}
    code = provenance.get("code") or {}
    error = last_error(run_dir)
    tags = {
        "state": str(state),
        "attempt": str(attempt_count(run_dir)),
        "code_version": str(code.get("label", "")),
        "host": str((provenance.get("host") or {}).get("name", "")),
        "error": error["error"][: rows.ERROR_CHARACTERS] if error else "",
        "error_class": str(error["error_class"] or "") if error else "",
    }
    if code.get("commit"):
        tags["mlflow.source.git.commit"] = str(code["commit"])
    return tags


def _log_params_and_tags(tracking: Tracking, target: Target, entry: Entry, tags: Mapping[str, str]) -> None:
    run = entry["mlflow_run_id"]
    if not entry.get("params_logged"):
        config = read_json(target.run_dir.config) or {}
        tracking.log_params(run, rows.params(config.get("spec") or {}), fresh=entry.pop("fresh", False))
        entry["params_logged"] = True
    # An empty tag is not worth a line, unless it replaces one that no longer holds (an old attempt's error).
    changed = {k: v for k, v in tags.items() if entry["tags"].get(k, "") != v}
    if changed:
        tracking.set_tags(run, changed)
        entry["tags"].update(changed)


def _log_metrics(stream: MetricStream, run_dir: RunDir, entry: Entry, state: TrialState) -> None:
    """New lines of metrics.jsonl and timing.jsonl."""
    attempt = attempt_count(run_dir)
    size = (stamp(run_dir.metrics) or [0])[0]
    if attempt != entry["attempt"] or size < entry["metrics_offset"]:
        # A resume may have cut the file and written on: read it again, rows that are there are not doubled.
        entry.update(attempt=attempt, metrics_offset=0)
    # Failed and cancelled runs may be resumed, too, and a resume takes back what follows the checkpoint.
    limit = None if state is TrialState.COMPLETED else checkpoint_offset(run_dir)
    fresh_metrics = (size if limit is None else limit) > entry["metrics_offset"]
    clocks = (stamp(run_dir.timing) or [0])[0]
    if clocks < entry["timing_offset"] or "timing_step" not in entry:
        entry["timing_offset"] = 0  # another file than the one that was read; what was shown stays
    shown = entry.setdefault("timing_step", -1)
    if not fresh_metrics and clocks <= entry["timing_offset"]:
        return
    timing = list(iter_lines(run_dir.timing))
    if fresh_metrics:
        times, began = rows.step_times(timing), start_ms(run_dir)
        for offset, line in iter_lines(run_dir.metrics, entry["metrics_offset"], limit):
            when = rows.time_of(times, int(line["step"]), began)
            stream.add(rows.metric_rows(line, when), metrics_offset=offset)
    start = entry["timing_offset"]
    for offset, made in rows.new_timing((pair for pair in timing if pair[0] > start), shown):
        # Both of what was sent, not of what was read ahead: a later pass goes on from here.
        stream.add(made, timing_offset=offset, **({"timing_step": made[-1].step} if made else {}))


def log_new_file(tracking: Tracking, entry: Entry, path: Path, folder: str | None = None) -> bool:
    """Log a file unless the same version was logged before; a missing file is passed over. Whether it was logged."""
    key = f"{folder}/{path.name}" if folder else path.name
    now = stamp(path)
    if now is None or entry["artifacts"].get(key) == now:
        return False
    tracking.log_file(entry["mlflow_run_id"], path, folder)
    entry["artifacts"][key] = now
    return True


def _log_samples(tracking: Tracking, run_dir: RunDir, entry: Entry) -> None:
    for parquet in sorted(run_dir.samples.glob("[!._]*.parquet")):
        name, now = f"samples/{parquet.stem}", stamp(parquet)
        if entry["artifacts"].get(f"{name}.json") == now:
            continue
        try:
            views = rows.samples_views(parquet)
        except (OSError, ValueError):
            continue  # still being written: the next pass takes it (pyarrow's errors are ValueErrors)
        log_new_file(tracking, entry, parquet, run_dir.samples.name)
        for suffix, text in views.items():
            tracking.log_text(entry["mlflow_run_id"], text, name + suffix)
            entry["artifacts"][name + suffix] = now
    tables = sorted(k for k in entry["artifacts"] if k.startswith("samples/") and k.endswith(".json"))
    listed = json.dumps([{"path": path, "type": "table"} for path in tables[:SHOWN_TABLES]])
    if tables and entry["tags"].get(TABLES_TAG) != listed:
        tracking.set_tags(entry["mlflow_run_id"], {TABLES_TAG: listed})
        entry["tags"][TABLES_TAG] = listed


def _log_artifacts(tracking: Tracking, run_dir: RunDir, entry: Entry, state: TrialState) -> None:
    before = dict(entry["artifacts"])
    for path in (run_dir.config, run_dir.provenance, run_dir.attempts):
        log_new_file(tracking, entry, path)
    _log_samples(tracking, run_dir, entry)
    if state is not TrialState.RUNNING:
        # With these a report can be made from a tracking server alone (mlflow_fetch.py).
        log_records(tracking, entry, run_dir.path, run_records(run_dir), before)
        log_new_file(tracking, entry, run_dir.log)


def log_records(
    tracking: Tracking,
    entry: Entry,
    root: Path,
    files: Sequence[Path],
    before: Mapping[str, Any] | None = None,
) -> None:
    """Log files in the folders that they have below `root`, and at the end the list of them, where anything is new.

    `before` is what had been logged before this pass; null takes what has been logged so far.
    """
    known = dict(entry["artifacts"]) if before is None else before
    for path in files:
        folder = path.relative_to(root).parent.as_posix()
        log_new_file(tracking, entry, path, None if folder == "." else folder)
    if entry["artifacts"] != known or LIST_NAME not in known:
        listed = {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
        text = json.dumps(listed, indent=1, ensure_ascii=False) + "\n"
        tracking.log_text(entry["mlflow_run_id"], text, LIST_NAME)
        entry["artifacts"][LIST_NAME] = len(listed)


def new_entry(mlflow_run_id: str) -> Entry:
    return {
        "mlflow_run_id": mlflow_run_id,
        "attempt": 0,
        "metrics_offset": 0,
        "timing_offset": 0,
        "timing_step": -1,
        "artifacts": {},
        "tags": {},
        "state": None,
    }


def mirror_trial(
    tracking: Tracking,
    target: Target,
    entry: Entry | None,
    open_run: Callable[[Target, Mapping[str, str]], Entry],
) -> tuple[TrialState, int]:
    """Bring one MLflow run up to its directory. Returns the trial's state and the number of values sent, less
    those of result.json, which are sent again with each change.

    `entry` is changed in place as things are sent; where there is none yet, `open_run` finds or creates the
    MLflow run, with these tags, and gives its entry. A trial that has not begun gets no run.
    """
    state = state_of(target.run_dir)
    if state is TrialState.NEW:
        return state, 0
    signature = _signature(target.run_dir, state)
    if entry is not None and (entry.get("deleted") or _is_shown(entry, signature, target)):
        return state, 0
    tags = {**target.tags, **trial_tags(target.run_dir, state)}
    if entry is None:
        entry = open_run(target, tags)
    _log_params_and_tags(tracking, target, entry, tags)
    stream = MetricStream(tracking, entry["mlflow_run_id"], entry)
    _log_metrics(stream, target.run_dir, entry, state)
    result = read_json(target.run_dir.result) if state is TrialState.COMPLETED else None
    final: list[MetricRow] = []
    if result is not None:
        began = start_ms(target.run_dir)
        final = rows.final_rows(result, began)
        stream.add(
            final,
            mean_pass_at_1=(result.get("final") or {}).get("mean_pass_at_1"),
            finished=rows.finished_ms(result, began),
            ended=end_ms(target.run_dir, result),
        )
    stream.flush()
    _log_artifacts(tracking, target.run_dir, entry, state)
    if entry["state"] != str(state):
        tracking.set_status(entry["mlflow_run_id"], MLFLOW_STATUS[state], end_ms(target.run_dir, result))
        entry["state"] = str(state)
    entry["done"] = None if state is TrialState.RUNNING else signature
    return state, stream.sent - len(final)
