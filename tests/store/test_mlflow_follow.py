"""The mirror beside a driver: dead servers, a driver that goes, a second writer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from trb_lab.store import locks, mlflow_tracking
from trb_lab.store.mlflow_mirror import sync_store
from trb_lab.store.run_dir import Store

from .fakes import completed_run
from .mlflow_db import run_of, steps

pytest.importorskip("mlflow")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_dead_server_loses_nothing(mirrored: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    completed_run(mirrored, "a-s0")
    said: list[str] = []
    dead = f"http://127.0.0.1:{free_port()}"
    status = sync_store(mirrored, dead, echo=said.append)
    assert not status.ok
    assert (status.reason or "").startswith("unreachable")
    assert len(said) == 1
    assert "catches up" in said[0]
    sync_store(mirrored, dead, follow=True, deadline_seconds=1.0, poll_seconds=0.1, echo=said.append)
    assert len(said) == 2  # one line, however often it was tried
    assert sync_store(mirrored).ok
    assert run_of(mirrored, "a-s0")["status"] == "FINISHED"


def test_a_store_that_dies_half_way(mirrored: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        completed_run(mirrored, f"a-s{seed}", seed=seed)
    real, calls = mlflow_tracking.Tracking.log_metrics, []

    def dies_at_second(self: Any, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) >= 2:
            raise ConnectionError("gone")
        real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_tracking.Tracking, "log_metrics", dies_at_second)
        patch.setattr(mlflow_tracking.Tracking, "answers", lambda self: len(calls) < 2)
        status = sync_store(mirrored)
        assert (status.ok, status.reason) == (False, "unreachable: ConnectionError: gone")
    assert sync_store(mirrored).ok
    assert [steps(run_of(mirrored, f"a-s{s}"), "train/loss") for s in range(3)] == [list(range(10))] * 3


def test_follow_ends_when_the_driver_has_gone_and_all_is_shown(mirrored: Store) -> None:
    driver = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    seen: list[Any] = []

    def follow() -> None:
        seen.append(sync_store(mirrored, follow=True, until_pid=driver.pid, poll_seconds=0.2))

    thread = threading.Thread(target=follow)
    thread.start()
    completed_run(mirrored, "a-s0")
    time.sleep(1.0)
    assert thread.is_alive()
    completed_run(mirrored, "b-s1", seed=1)
    driver.kill()  # stays a zombie until waited for: that is gone, too
    thread.join(30)
    driver.wait()
    assert not thread.is_alive()
    assert (seen[0].ok, seen[0].runs) == (True, 2)
    assert run_of(mirrored, "b-s1")["status"] == "FINISHED"


def test_one_writer_at_a_time(mirrored: Store) -> None:
    completed_run(mirrored, "a-s0")
    with locks.hold(mirrored.mirror_lock, "the mirror"):
        status = sync_store(mirrored, deadline_seconds=0.0)
        assert not status.ok
        assert f"process {os.getpid()}" in (status.reason or "")
