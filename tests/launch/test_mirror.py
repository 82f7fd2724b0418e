from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from trb_lab.launch import mirror
from trb_lab.launch.mirror import MirrorProcess
from trb_lab.store.run_dir import Store

from .conformance import wait_for


@pytest.fixture(autouse=True)
def _mlflow_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror.importlib.util, "find_spec", lambda name: object())


def _python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_a_follower_makes_its_last_pass_when_it_is_asked_to_end(tmp_path: Path):
    heed = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(print('last pass')))"
    log = tmp_path / "log"
    beside = MirrorProcess(
        Store(tmp_path), log, lambda store, pid: _python(f"{heed}; print('on', flush=True); time.sleep(60)")
    )
    beside.start()
    wait_for(lambda: log.read_text() == "on\n")
    assert beside.finish().startswith("MLflow store: ")
    assert log.read_text() == "on\nlast pass\n"


def test_a_follower_that_had_died_is_made_up_for_by_a_sync(tmp_path: Path):
    calls: list[int | None] = []

    def command(store: Store, until_pid: int | None) -> list[str]:
        calls.append(until_pid)
        return _python("import time; time.sleep(60)" if until_pid else "print('caught up')")

    store = Store(tmp_path)
    beside = MirrorProcess(store, tmp_path / "driver.log", command)
    beside.start()
    assert str(store.mlflow_db) in beside.finish()
    assert calls == [os.getpid(), None]
    assert (tmp_path / "driver.log").read_text() == "caught up\n"


@pytest.mark.parametrize(
    ("last", "told"), [("import time; time.sleep(60)", "after 1 s"), ("raise SystemExit(1)", "says why")]
)
def test_a_slow_or_dead_server_delays_the_end_by_a_bounded_time(tmp_path: Path, last: str, told: str):
    beside = MirrorProcess(Store(tmp_path), tmp_path / "log", lambda store, pid: _python("" if pid else last))
    beside.start()
    said = beside.finish(seconds=1)
    assert told in said
    assert "`trb-lab sync` catches up" in said


def test_without_mlflow_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mirror.importlib.util, "find_spec", lambda name: None)
    beside = MirrorProcess(Store(tmp_path), tmp_path / "log")
    assert "pip install 'trb-lab[driver]'" in beside.start()
    assert "pip install 'trb-lab[driver]'" in beside.finish()
    assert not (tmp_path / "log").exists()
