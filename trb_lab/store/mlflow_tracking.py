"""The one file that imports MLflow: a tracking server or a local sqlite store, spoken to with explicit ids.

Nothing here uses MLflow's "active run": leaving one by an exception marks it as failed, and a killed process
leaves it running for ever. Locations are always absolute, because MLflow's own defaults depend on the working
directory.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from trb_lab.errors import LabError, MissingExtra

from .run_dir import Store

SQLITE = "sqlite:///"
METRICS_A_CALL = 1000
PARAMS_A_CALL = 100
PARAM_CHARACTERS = 6000
TAG_CHARACTERS = 5000

QUIET_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A dead server must be noticed in seconds: the mirror retries itself (MLflow takes four minutes a call).
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Set where the user has not set them."""

NETWORK_DISKS = ("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p", "fuse.sshfs")
"""File systems on which sqlite's write-ahead log corrupts: its index is shared memory of one host."""

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Has the UI open on runs and metric charts rather than on traces."""


def default_uri(store: Store, tracking_uri: str | None) -> str:
    """The given URI, else $MLFLOW_TRACKING_URI, else the store's own sqlite file."""
    return tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or local_uri(store)


def local_uri(store: Store) -> str:
    return f"{SQLITE}{store.mlflow_db}"


def require_mlflow(what: str) -> None:
    """Raises MissingExtra, with the install line, where MLflow is missing; does not import it."""
    if importlib.util.find_spec("mlflow") is None:
        raise MissingExtra(what, "driver")


def on_network_disk(path: Path) -> bool:
    """Whether the nearest mount of `path` is a network file system (False where that cannot be told)."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except (OSError, IndexError):
        return False
    text = str(path.absolute())
    around = [(len(point), kind) for point, kind in mounts if f"{text}/".startswith(point.rstrip("/") + "/")]
    return bool(around) and max(around)[1] in NETWORK_DISKS


def _create_database(store: Store) -> None:
    """Make the sqlite file under another name, then rename: a half-made one would stay unusable for good."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store.root.mkdir(parents=True, exist_ok=True)
    temporary = store.mlflow_db.with_name(f".mlflow.db.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        made = SqlAlchemyStore(f"sqlite:///{temporary}", store.mlflow_artifacts.as_uri())
        made.engine.dispose()
        if not on_network_disk(store.root):
            with closing(sqlite3.connect(temporary)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
        os.replace(temporary, store.mlflow_db)
    finally:
        for leftover in store.root.glob(f"{temporary.name}*"):
            leftover.unlink(missing_ok=True)


def _follow_moved_store(store: Store) -> None:
    """Artifact locations are absolute: point them to the store's present place when the store was moved."""
    here = store.mlflow_artifacts.as_uri()
    with closing(sqlite3.connect(store.mlflow_db, timeout=20)) as connection:
        query = "SELECT artifact_location FROM experiments WHERE experiment_id = 0"
        row = connection.execute(query).fetchone()
        before = str(row[0]).removesuffix("/0") if row and row[0] else here
        if before == here or not before.endswith("/" + store.mlflow_artifacts.name):
            return
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                (here, len(before) + 1, len(before) + 1, before + "/"),
            )
        connection.commit()


def connect(store: Store, tracking_uri: str | None = None) -> Tracking:
    """Open the tracking store; the local one is created first. Call while holding the mirror lock.

    Raises MissingExtra without MLflow, and whatever MLflow raises for a URI that it refuses.
    """
    require_mlflow("the MLflow mirror")
    _be_quiet()
    from mlflow.tracking import MlflowClient

    uri = default_uri(store, tracking_uri)
    if uri == local_uri(store):
        if not store.mlflow_db.exists():
            _create_database(store)
        else:
            _follow_moved_store(store)
    artifacts = store.mlflow_artifacts if uri == local_uri(store) else None
    return Tracking(uri, MlflowClient(uri), artifacts)


def _be_quiet() -> None:
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for logger in ("alembic", "mlflow.store.db.utils", "mlflow.store.db", "urllib3"):
        logging.getLogger(logger).setLevel(logging.ERROR)


def open_for_reading(uri: str) -> Tracking:
    """A tracking store that is there already; nothing is made.

    Raises MissingExtra without MLflow, LabError for a sqlite file that does not exist and for a store that does not
    answer.
    """
    require_mlflow("Reading a tracking server")
    _be_quiet()
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        raise LabError(f"{uri}: there is no file {uri.removeprefix(SQLITE)}.")
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except Exception as error:
        raise LabError(
            f"the tracking server {uri} does not answer ({one_line(error)}). Is the address right, and does it run?"
        ) from error
    return Tracking(uri, client, None)


def one_line(error: BaseException) -> str:
    """Class and first line of what was raised."""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text[:300]}"


class MetricRow(NamedTuple):
    """One value. `step` and `timestamp_ms` are part of its identity: logging it twice stores it once."""

    key: str
    value: float
    timestamp_ms: int
    step: int


def as_metrics(rows: Sequence[MetricRow]) -> list[Any]:
    """The rows as MLflow's own objects."""
    from mlflow.entities import Metric

    return [Metric(r.key, r.value, r.timestamp_ms, r.step) for r in rows]


@dataclass(frozen=True)
class Tracking:
    """Calls on one tracking store. Every method may raise what MLflow or the network raises."""

    uri: str
    client: Any
    local_artifacts: Path | None
    _artifact_uris: dict[str, str] = field(default_factory=dict)
    """MLflow run id -> where its artifacts are, of runs that were asked for or made."""

    def experiment(self, name: str) -> tuple[str, int]:
        """(id, creation time in ms) of the experiment of that name; made where there is none.

        One that was deleted is brought back. The time tells databases apart, whose ids are all small numbers.
        """
        found = self.client.get_experiment_by_name(name)
        if found is None:
            location = (self.local_artifacts / name).as_uri() if self.local_artifacts is not None else None
            made = self.client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS)
            found = self.client.get_experiment(made)
        elif found.lifecycle_stage != "active":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id), int(found.creation_time or 0)

    def describe(self, experiment_id: str, tag: str, text: str) -> None:
        """Set a tag of an experiment; the list of experiments shows its description."""
        self.client.set_experiment_tag(experiment_id, tag, text[:TAG_CHARACTERS])

    def runs_by_tag(self, experiment_id: str, tag: str) -> dict[str, str]:
        """Tag value -> run id of every run of the experiment that carries the tag, deleted runs too."""
        from mlflow.entities import ViewType

        found: dict[str, str] = {}
        token = None
        while True:
            page = self.client.search_runs(
                [experiment_id], run_view_type=ViewType.ALL, max_results=200, page_token=token
            )
            for run in page:
                if tag in run.data.tags:
                    found.setdefault(run.data.tags[tag], run.info.run_id)
            token = page.token
            if not token:
                return found

    def create_run(self, experiment_id: str, name: str, tags: Mapping[str, str], start_ms: int) -> str:
        run = self.client.create_run(experiment_id, start_time=start_ms, tags=dict(tags), run_name=name)
        self.remember(run)
        return str(run.info.run_id)

    def fate(self, run_id: str) -> str:
        """`active`, `deleted` (in the UI's bin) or `gone` (the store does not know it)."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_run(run_id).info.lifecycle_stage)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return "gone"
            raise

    def log_metrics(self, run_id: str, rows: Sequence[MetricRow]) -> None:
        """Log rows, each call's last one first: MLflow then writes what it shows of a metric once, not a row."""
        for start in range(0, len(rows), METRICS_A_CALL):
            self.client.log_batch(run_id, metrics=as_metrics(rows[start : start + METRICS_A_CALL][::-1]))

    def latest_metric(self, run_id: str, key: str) -> tuple[int, float] | None:
        """(step, value) of the row that MLflow shows for a metric: highest step, then time, then value."""
        history = self.client.get_metric_history(run_id, key)
        newest = max(history, key=lambda m: (m.step, m.timestamp, m.value), default=None)
        return None if newest is None else (int(newest.step), float(newest.value))

    def log_params(self, run_id: str, params: Mapping[str, str], fresh: bool = False) -> None:
        """Log parameters. They cannot change: those that are there with another value keep the old one.

        `fresh`: the run was made just now and has none.
        """
        from mlflow.entities import Param

        known = {} if fresh else self.client.get_run(run_id).data.params
        rows = [Param(k, v[:PARAM_CHARACTERS]) for k, v in params.items() if k not in known]
        for start in range(0, len(rows), PARAMS_A_CALL):
            self.client.log_batch(run_id, params=rows[start : start + PARAMS_A_CALL])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        rows = [RunTag(k, v[:TAG_CHARACTERS]) for k, v in tags.items()]
        for start in range(0, len(rows), PARAMS_A_CALL):
            self.client.log_batch(run_id, tags=rows[start : start + PARAMS_A_CALL])

    def set_status(self, run_id: str, status: str, end_ms: int | None) -> None:
        """RUNNING or SCHEDULED, which have no end; or FINISHED, FAILED, KILLED with the time of the end."""
        if status in ("RUNNING", "SCHEDULED"):
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status=status, end_time=end_ms)

    def log_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        self.artifacts(run_id).log_artifact(str(path), folder)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Write text as an artifact; `name` may have folders."""
        folder, _, last = name.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / last
            path.write_text(text, encoding="utf-8")
            self.log_file(run_id, path, folder or None)

    def artifacts(self, run_id: str) -> Any:
        """MLflow's repository of a run's artifacts. The server is asked where it is once a run."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        if run_id not in self._artifact_uris:
            self._artifact_uris[run_id] = str(self.client.get_run(run_id).info.artifact_uri)
        return get_artifact_repository(self._artifact_uris[run_id], tracking_uri=self.uri)

    def remember(self, run: Any) -> None:
        """Where a run's artifacts are is known from now on, without asking."""
        self._artifact_uris[str(run.info.run_id)] = str(run.info.artifact_uri)

    def runs(self, experiment_id: str) -> Iterator[Any]:
        """Every active run of an experiment, as MLflow has it."""
        token = None
        while True:
            page = self.client.search_runs([experiment_id], max_results=200, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def answers(self) -> bool:
        """Whether the store answers at all: tells a dead server from a refused call."""
        try:
            self.client.search_experiments(max_results=1)
        except Exception:
            return False
        return True
