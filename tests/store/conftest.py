"""Making an MLflow database takes seconds: it is made once, and copied for each test."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from trb_lab.store.run_dir import Store


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mlflow")
    from trb_lab.store.mlflow_tracking import connect

    store = Store(tmp_path_factory.mktemp("mlflow"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        connect(store)
    with closing(sqlite3.connect(store.mlflow_db)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return store.mlflow_db


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store without a database."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("TRB_LAB_CACHE", str(tmp_path / "cache"))
    return Store(tmp_path / "runs")


@pytest.fixture
def mirrored(store: Store, empty_database: Path) -> Store:
    """A store with an empty MLflow database (which was made elsewhere, as if the store had been moved)."""
    store.root.mkdir(parents=True)
    shutil.copy(empty_database, store.mlflow_db)
    return store
