"""Looks into a store's MLflow database with plain SQL, not with the code under test."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from trb_lab.store.run_dir import Store

from .fakes import write_plan


def query(store: Store, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(store.mlflow_db)) as connection:
        return connection.execute(sql, values).fetchall()


def counts(store: Store) -> dict[str, int]:
    tables = ("runs", "metrics", "params", "tags", "experiments")
    return {table: query(store, f"SELECT count(*) FROM {table}")[0][0] for table in tables}


def run_of(store: Store, run_id: str) -> dict[str, Any]:
    """Status, tags and latest metrics of the MLflow run of a trial."""
    found = query(store, "SELECT run_uuid FROM tags WHERE key = 'trb.run_id' AND value = ?", run_id)
    assert len(found) == 1
    uuid = found[0][0]
    columns = "SELECT status, name, artifact_uri FROM runs WHERE run_uuid = ?"
    status, name, artifacts = query(store, columns, uuid)[0]
    return {
        "id": uuid,
        "status": status,
        "name": name,
        "artifacts": Path(artifacts.removeprefix("file://")),
        "tags": dict(query(store, "SELECT key, value FROM tags WHERE run_uuid = ?", uuid)),
        "params": dict(query(store, "SELECT key, value FROM params WHERE run_uuid = ?", uuid)),
        "metrics": query(store, "SELECT key, step, value, timestamp FROM metrics WHERE run_uuid = ?", uuid),
    }


def steps(run: dict[str, Any], key: str) -> list[int]:
    return sorted(step for k, step, _, _ in run["metrics"] if k == key)


def two_arm_sweep(store: Store) -> None:
    trials = {"a-s0": ("trb", "kl_budget=0.05", 0), "b-s1": ("opd", "", 1), "c-s2": ("opd", "", 2)}
    write_plan(store, "budgets", trials)
