"""A store made again from a tracking server alone: the way back of the mirror.

The mirror keeps the records of each run (records.py) as artifacts, and last a list of them with their hashes, so that
an upload that was cut short is told from a whole one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from trb_lab.errors import LabError, UsageError, did_you_mean

from .mlflow_sweep import DIAGNOSTIC_ID, DIAGNOSTICS, PARENT_ID
from .mlflow_tracking import Tracking, one_line, open_for_reading
from .mlflow_trial import LIST_NAME, RUN_ID_TAG
from .records import FIRST_STEP, first_known, is_wanted, planned_runs
from .run_dir import RunDir, Store
from .status import TrialState

THREADS = 8
TRIES = 3
PAUSE_SECONDS = 1.0
NAMED_RUNS = 5
"""How many incomplete runs an error names."""
LIVE = frozenset({str(TrialState.RUNNING), str(TrialState.NEW)})
"""States, as tags have them, in which the mirror has not sent a run's records yet."""


class Incomplete(Exception):
    """A run's artifacts are not those that its list names."""


@dataclass(frozen=True)
class Shown:
    """One MLflow run."""

    mlflow_run_id: str
    state: str


def fetch(
    tracking_uri: str,
    sweeps: Sequence[str | Sequence[str]],
    into: Path,
    diagnostics: Sequence[str] = (),
    steps: Collection[int] | None = FIRST_STEP,
) -> Store:
    """The records of sweeps and diagnostics as a store in `into`.

    Of a list of names the first that the server has is taken. Samples are those of `steps`, all where it is None.
    Diagnostics that the server does not have are left out. A trial that ran at its last sync is as it was when its
    attempt began.

    Raises LabError for a server that does not answer and for uploads that were cut short, UsageError for a sweep that
    is not there, MissingExtra without MLflow.
    """
    tracking = open_for_reading(tracking_uri)
    store = Store(into.absolute())
    try:
        known = {e.name: str(e.experiment_id) for e in tracking.client.search_experiments()}
        wanted = first_known(known, [[s] if isinstance(s, str) else s for s in sweeps])
        for sweep in wanted:
            _fetch_sweep(tracking, store, sweep, known, steps)
        if diagnostics and DIAGNOSTICS in known:
            _fetch_diagnostics(tracking, store, known[DIAGNOSTICS], diagnostics)
    except LabError:
        raise
    except Exception as error:
        raise LabError(f"{tracking_uri}: reading went wrong ({one_line(error)}). Try again.") from error
    return store


def _fetch_sweep(
    tracking: Tracking,
    store: Store,
    sweep: str,
    known: Mapping[str, str],
    steps: Collection[int] | None,
) -> None:
    shown = _runs(tracking, known[sweep]) if sweep in known else {}
    parent = shown.get(PARENT_ID + sweep)
    if parent is None:
        held = sorted(name for name, number in known.items() if PARENT_ID + name in _runs(tracking, number))
        raise UsageError(
            f"no sweep '{sweep}' on {tracking.uri}.{did_you_mean(sweep, held)} "
            f"Sweeps there: {', '.join(held) or 'none'}. `trb-lab sync` sends those of a store."
        )
    folder = store.sweep(sweep).path
    try:
        _download(tracking, parent, folder, None)
    except Incomplete as error:
        raise LabError(_told(tracking, sweep, [f"its plan: {error}"])) from error
    wanted = [run for run in planned_runs(store, store.sweep(sweep)) if run.run_id in shown]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda run: _run(tracking, run, shown[run.run_id], steps), wanted))
    if broken := [text for text in found if text]:
        raise LabError(_told(tracking, sweep, broken))


def _told(tracking: Tracking, sweep: str, broken: Sequence[str]) -> str:
    more = f" and {len(broken) - NAMED_RUNS} more" if len(broken) > NAMED_RUNS else ""
    return (
        f"{sweep} on {tracking.uri} is not complete: {'; '.join(broken[:NAMED_RUNS])}{more}. An upload was cut short, "
        "or made by an older version: `trb-lab sync` from the store sends what is missing."
    )


def _run(tracking: Tracking, run: RunDir, shown: Shown, steps: Collection[int] | None) -> str | None:
    """Fetch one run; a line that says what is missing, where something is."""
    if run.config.exists():  # another sweep has it, too
        return None
    try:
        _download(tracking, shown, run.path, steps)
    except Incomplete as error:
        return f"{run.run_id} ({error})"
    return None


def _runs(tracking: Tracking, experiment_id: str) -> dict[str, Shown]:
    """Value of RUN_ID_TAG -> the run that carries it."""
    found: dict[str, Shown] = {}
    for run in tracking.runs(experiment_id):
        if RUN_ID_TAG in run.data.tags:
            tracking.remember(run)
            tags = run.data.tags
            found.setdefault(tags[RUN_ID_TAG], Shown(str(run.info.run_id), tags.get("state", "")))
    return found


def _download(tracking: Tracking, shown: Shown, folder: Path, steps: Collection[int] | None) -> None:
    """The records of one run into `folder`. Raises Incomplete."""
    repository = tracking.artifacts(shown.mlflow_run_id)
    if shown.state in LIVE:
        for entry in repository.list_artifacts():
            if entry.path in ("config.json", "provenance.json", "attempts.jsonl"):
                _file(repository, entry.path, folder)
        return
    listed = json.loads(_file(repository, LIST_NAME, folder))
    (folder / LIST_NAME).unlink()
    for name, digest in listed.items():
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or "\\" in name:
            raise Incomplete(f"its list names '{name}', outside the run")
        if is_wanted(name, steps) and hashlib.sha256(_file(repository, name, folder)).hexdigest() != digest:
            raise Incomplete(f"{name} is not the one that was listed")


def _file(repository: Any, name: str, folder: Path) -> bytes:
    """Download one file and give its content; tried anew where the server hiccups. Raises Incomplete."""
    from mlflow.exceptions import MlflowException

    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in reversed(range(TRIES)):
        try:
            repository._download_file(name, str(target))
            return target.read_bytes()
        except Exception as error:
            target.unlink(missing_ok=True)
            absent = isinstance(error, FileNotFoundError) or (
                isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST"
            )
            response = getattr(error, "response", None)
            if absent or getattr(response, "status_code", None) == 404:
                raise Incomplete(f"no {name}") from error
            if not left:
                raise
            time.sleep(PAUSE_SECONDS)
    raise AssertionError("not reached")


def _fetch_diagnostics(tracking: Tracking, store: Store, experiment: str, wanted: Sequence[str]) -> None:
    shown = _runs(tracking, experiment)
    for name in wanted:
        if DIAGNOSTIC_ID + name in shown:
            try:
                _download(tracking, shown[DIAGNOSTIC_ID + name], store.diagnostic(name), None)
            except Incomplete as error:
                raise LabError(_told(tracking, f"diagnostic {name}", [str(error)])) from error
