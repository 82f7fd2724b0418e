"""What `trb-lab diagnose` found, as runs of one experiment: files as artifacts, rates as metrics over the cut."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trb_lab.errors import MissingExtra

from . import mlflow_rows as rows
from .mlflow_notes import NOTE_TAG
from .mlflow_stream import MetricStream
from .mlflow_sweep import DIAGNOSTIC_ID, DIAGNOSTICS, state_path
from .mlflow_tracking import MetricRow, Tracking, one_line
from .mlflow_trial import RUN_ID_TAG, Entry, log_new_file, log_records, new_entry, stamp
from .records import diagnostic_records
from .run_dir import Store, read_json, write_json

if TYPE_CHECKING:
    from .mlflow_pass import SyncStatus

RESULT = "continuation.json"
"""Written last: a folder with it is whole."""


class DiagnosticsPass:
    """One pass over the folders of `diagnostics/`. What was shown is in `diagnostics/mlflow.json`."""

    def __init__(self, tracking: Tracking, store: Store, status: SyncStatus) -> None:
        self.tracking, self.status = tracking, status
        self.root = store.root / "diagnostics"
        self.path = state_path(store, self.root / "mlflow.json", tracking.uri)

    def run(self) -> None:
        """Show what is new. A folder that the server refuses is noted as a problem; a dead server raises."""
        from .mlflow_pass import Unreachable

        folders = [path.parent for path in sorted(self.root.glob(f"*/{RESULT}"))]
        if not folders:
            return
        kept: dict[str, Any] = read_json(self.path) or {}
        try:
            experiment = list(self.tracking.experiment(DIAGNOSTICS))
            entries: dict[str, Entry] = kept.get("runs", {}) if kept.get("experiment") == experiment else {}
            if kept.get("experiment") != experiment:
                self.tracking.describe(str(experiment[0]), NOTE_TAG, "What `trb-lab diagnose` found.")
            for folder in folders:
                self._show(folder, str(experiment[0]), entries)
                write_json(self.path, {"experiment": experiment, "runs": entries})
        except MissingExtra:
            raise
        except Exception as error:
            if not self.tracking.answers():
                raise Unreachable(one_line(error)) from error
            self.status.problems.append(f"diagnostics: {one_line(error)}")

    def _show(self, folder: Path, experiment: str, entries: dict[str, Entry]) -> None:
        done = stamp(folder / RESULT)
        entry = entries.get(folder.name)
        if entry is not None and entry.get("done") == done:
            return
        result = read_json(folder / RESULT)
        began = done[1] // 1_000_000 if done else int(1000 * time.time())
        identity = DIAGNOSTIC_ID + folder.name
        if entry is None:
            run = self.tracking.runs_by_tag(experiment, RUN_ID_TAG).get(identity)
            if run is None:
                tags = {RUN_ID_TAG: identity, "trb.role": "diagnostic", NOTE_TAG: diagnostic_note(result)}
                run = self.tracking.create_run(experiment, folder.name, tags, began)
            entry = entries[folder.name] = new_entry(run)
        run = entry["mlflow_run_id"]
        facts = {k: result[k] for k in ("prompts", "samples", "seed", "cuts") if k in result}
        arms = {f"arm_{i + 1}": arm for i, arm in enumerate(result.get("arms", []))}
        self.tracking.log_params(run, rows.params({**facts, **arms}))
        stream = MetricStream(self.tracking, run, entry)
        stream.add(rate_rows(result, began))
        stream.flush()
        self.status.values_sent += stream.sent
        for path in sorted((folder / "figures").glob("[!.]*")):
            log_new_file(self.tracking, entry, path, "figures")
        log_records(self.tracking, entry, folder, diagnostic_records(folder))
        self.tracking.set_status(run, "FINISHED", began)
        entry["done"] = done


def rate_rows(result: Mapping[str, Any], when_ms: int) -> list[MetricRow]:
    """`<continuer>/<arm>` and `<continuer>/difference`: success over the cut, which stands where steps do."""
    found = [(f"{r['continuer']}/{r['arm']}", r["cut"], r["success"]) for r in result.get("rates", [])]
    found += [(f"{g['continuer']}/difference", g["cut"], g["success"]) for g in result.get("gains", [])]
    return [
        MetricRow(rows.metric_name(name), float(success["value"]), when_ms, int(cut))
        for name, cut, success in found
        if success.get("value") is not None
    ]


def diagnostic_note(result: Mapping[str, Any]) -> str:
    """Description of the run."""
    arms = " and ".join(str(arm.get("name", "")) for arm in result.get("arms", []))
    return (
        f"Continuation gain of {arms}. Rollouts of step 0 are cut and continued by the teacher and by the student.\n\n"
        "Metrics are the share of correct continuations; the x-axis (*Step*) is the number of tokens before the cut."
    )
