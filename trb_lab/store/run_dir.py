"""The one place that knows file names: the store, a sweep's directory, a run's directory.

Layout of a store (default `./runs`, or $TRB_LAB_STORE, or --store):

    trials/<run_id>/            a run directory, shared by every sweep that plans the same trial
    references/<run_id>/        evaluations of untrained models (same file names)
    sweeps/<name>/              plan.json, search/, driver.lock, report/, mlflow.json
    reports/<name>/             reports of definitions
    diagnostics/<name>/         what `trb-lab diagnose` found
    slurm/<token>/              a batch of trials on Slurm: batch.json and the files of its jobs
    mlflow.db, mlartifacts/     the MLflow view

`result.json` is written atomically and last: it alone means "completed".
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote


def write_atomic(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, whatever happens in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of indented JSON; NaN and infinity are refused."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The parsed file, or None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def append_line(path: Path, line: str) -> None:
    """One write of one line at the end, on disk before it returns. A line that a death tore before stays apart."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, (("\n" if torn else "") + line + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class RunDir:
    """Paths inside one run directory. Holds no state: moving the directory moves the run."""

    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        """{"run_id", "spec": resolved spec, "identity": what was hashed}."""
        return self.path / "config.json"

    @property
    def provenance(self) -> Path:
        """Code version and diff, packages, hardware, command, seeds of the last attempt."""
        return self.path / "provenance.json"

    @property
    def attempts(self) -> Path:
        """JSONL: {"attempt", "event": "start"|"end", "time", "pid", "host", "state"?, "error"?, "error_class"?}."""
        return self.path / "attempts.jsonl"

    @property
    def data(self) -> Path:
        """What the run trains on: {"problems", "dropped", "prompts_sha256", ...}; see docs/files.md."""
        return self.path / "data.json"

    @property
    def metrics(self) -> Path:
        """JSONL, deterministic values, one line a training step; a resume truncates it to the checkpoint's offset."""
        return self.path / "metrics.jsonl"

    @property
    def timing(self) -> Path:
        """JSONL, clocks, rates, memory: {"step", "time", "seconds": {...}, ...}; append only."""
        return self.path / "timing.jsonl"

    @property
    def positions(self) -> Path:
        """JSONL, deterministic, one line a sampled step: how the policies differ by position in the response."""
        return self.path / "positions.jsonl"

    @property
    def sft(self) -> Path:
        """JSONL, deterministic, one line a supervised update before training (arm `sft` alone)."""
        return self.path / "sft.jsonl"

    @property
    def sft_timing(self) -> Path:
        """JSONL, clocks of the supervised updates, as timing.jsonl with "update" for "step"; append only."""
        return self.path / "sft_timing.jsonl"

    @property
    def rollout_costs(self) -> Path:
        """What draft and verify passes cost: block lengths are chosen by it. Written once."""
        return self.path / "rollout_costs.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """A parquet data set: a directory with one file for each sampled step; pandas reads it as one table."""
        return self.path / "samples.parquet"

    @property
    def items(self) -> Path:
        """A parquet data set: every sample of every evaluation, graded; see items.py."""
        return self.path / "items.parquet"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def lock(self) -> Path:
        """Held with flock by the worker while it lives; says who."""
        return self.path / "worker.lock"

    @property
    def log(self) -> Path:
        """What the worker printed."""
        return self.path / "log.txt"

    @property
    def claim(self) -> Path:
        """Written by a launcher just before it starts a worker: {"time", "pid", "host", "launcher"}."""
        return self.path / "claim.json"

    @property
    def pause(self) -> Path:
        """{"after_steps"}: the worker pauses after so many updates (a search decides whether it goes on)."""
        return self.path / "pause.json"

    @property
    def stop_request(self) -> Path:
        """{"time", "what": "stop"|"kill"}: asks whoever watches over the worker, on its machine, to stop it."""
        return self.path / "stop.json"


def newest_checkpoint(run_dir: RunDir) -> str | None:
    """Name of the last checkpoint's folder, whole or not; of the supervised phase where there is none of training."""
    names = sorted(path.name for path in run_dir.checkpoints.glob("s*_*"))  # sft_... before step_...
    return names[-1] if names else None


@dataclass(frozen=True)
class SweepDir:
    """Paths of one sweep."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def plan(self) -> Path:
        """{"name", "question", "spec", "trials": [...], "references": [...]}; see sweep.py."""
        return self.path / "plan.json"

    @property
    def searches(self) -> Path:
        """A folder with the files of each arm that has a search: ARM.jsonl (what was decided), and views of it."""
        return self.path / "search"

    def search_log(self, arm: str) -> Path:
        """JSONL, what the search decided, each line before it was acted on; see search_log.py."""
        return self.searches / f"{quote(arm, safe='')}.jsonl"

    def search_values(self, arm: str) -> Path:
        """What was read of the search's runs: a cache, made again where it is missing."""
        return self.searches / f"{quote(arm, safe='')}.values.json"

    def search_cancelled(self, arm: str) -> Path:
        """{"time"}: a driver that is at the search asks for nothing more."""
        return self.searches / f"{quote(arm, safe='')}.cancelled.json"

    def search_summary(self, arm: str) -> Path:
        """The search as the report tells it; made from the log and the runs."""
        return self.searches / f"{quote(arm, safe='')}.summary.json"

    def search_study(self, arm: str) -> Path:
        """The search as an Optuna journal, for optuna-dashboard; made from the log and the runs."""
        return self.searches / f"{quote(arm, safe='')}.optuna.log"

    @property
    def driver_lock(self) -> Path:
        return self.path / "driver.lock"

    @property
    def driver_log(self) -> Path:
        """What the MLflow mirror beside the driver printed."""
        return self.path / "driver.log"

    @property
    def driver_job_log(self) -> Path:
        """What a driver that is a cluster job itself printed; also the job that makes a detached sweep's report."""
        return self.path / "driver_job.log"

    @property
    def mlflow(self) -> Path:
        """What the mirror has written so far: MLflow run ids and offsets."""
        return self.path / "mlflow.json"

    @property
    def report(self) -> Path:
        return self.path / "report"


@dataclass(frozen=True)
class Store:
    """A directory of runs and sweeps."""

    root: Path

    @classmethod
    def locate(cls, given: Path | str | None = None) -> Store:
        """--store, else $TRB_LAB_STORE, else ./runs; always absolute."""
        return cls(Path(given or os.environ.get("TRB_LAB_STORE") or "runs").absolute())

    def trial(self, run_id: str) -> RunDir:
        return RunDir(self.root / "trials" / run_id)

    def reference(self, run_id: str) -> RunDir:
        return RunDir(self.root / "references" / run_id)

    def sweep(self, name: str) -> SweepDir:
        return SweepDir(self.root / "sweeps" / name)

    def report(self, name: str) -> Path:
        """Folder of the report of a definition; a sweep's own is in its directory."""
        return self.root / "reports" / name

    def diagnostic(self, name: str) -> Path:
        """Folder of a diagnostic's result."""
        return self.root / "diagnostics" / name

    def sweeps(self) -> list[SweepDir]:
        """Every sweep with a plan, by name."""
        folder = self.root / "sweeps"
        return [SweepDir(p) for p in sorted(folder.glob("*")) if (p / "plan.json").exists()]

    def trials(self) -> list[RunDir]:
        """Every run directory, by id."""
        return [RunDir(p) for p in sorted((self.root / "trials").glob("*")) if (p / "config.json").exists()]

    @property
    def mlflow_db(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.root / "mlartifacts"

    @property
    def slurm(self) -> Path:
        """One folder a batch of trials that was given to Slurm; see docs/slurm.md."""
        return self.root / "slurm"

    @property
    def mirror_lock(self) -> Path:
        """Held by the one process that writes to MLflow."""
        return self.root / "mirror.lock"
