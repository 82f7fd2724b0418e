"""States are told from files alone, also when a worker is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trb_lab.store import locks
from trb_lab.store.run_dir import RunDir, write_json
from trb_lab.store.status import (
    IllegalTransition,
    TrialState,
    attempt_count,
    attempts,
    begin_attempt,
    cancel,
    end_attempt,
    last_error,
    state_of,
)

WORKER = """
import sys, time
from pathlib import Path
from trb_lab.store import locks
from trb_lab.store.run_dir import RunDir
from trb_lab.store.status import begin_attempt
run = RunDir(Path(sys.argv[1]))
with locks.hold(run.lock, "the run"):
    begin_attempt(run)
    print("up", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def test_the_life_of_a_trial(run: RunDir) -> None:
    assert state_of(run) is TrialState.NEW
    first = begin_attempt(run)
    assert state_of(run) is TrialState.INTERRUPTED  # nobody holds the lock
    end_attempt(run, first, "failed", error="boom\nmore", error_class="code", traceback="Traceback ...")
    assert state_of(run) is TrialState.FAILED
    error = last_error(run)
    assert error is not None
    assert (error["error"], error["error_class"], error["attempt"]) == ("boom", "code", 1)
    second = begin_attempt(run)
    assert (second, attempt_count(run)) == (2, 2)
    write_json(run.result, {})
    end_attempt(run, second, TrialState.COMPLETED)
    assert state_of(run) is TrialState.COMPLETED
    assert last_error(run) is None
    run.result.unlink()
    assert state_of(run) is TrialState.INTERRUPTED  # it resumes and writes its result again


def test_illegal_transitions(run: RunDir) -> None:
    number = begin_attempt(run)
    with pytest.raises(IllegalTransition, match="cannot become new"):
        end_attempt(run, number, "new")
    with pytest.raises(IllegalTransition, match="attempt 7 is not open"):
        end_attempt(run, 7, "failed")
    end_attempt(run, number, "interrupted")
    with pytest.raises(IllegalTransition, match="not open"):
        end_attempt(run, number, "failed")
    write_json(run.result, {})
    with pytest.raises(IllegalTransition, match="allowed: nothing"):
        begin_attempt(run)
    with pytest.raises(IllegalTransition):
        cancel(run)


def test_cancel(run: RunDir) -> None:
    cancel(run, "not needed")
    assert state_of(run) is TrialState.CANCELLED
    assert attempt_count(run) == 0
    begin_attempt(run)
    cancel(run)
    assert state_of(run) is TrialState.CANCELLED


def test_torn_line_is_left_out_and_not_glued_to(run: RunDir) -> None:
    begin_attempt(run)
    with open(run.attempts, "a") as f:
        f.write('{"attempt": 1, "event": "end", "sta')
    assert [e["event"] for e in attempts(run)] == ["start"]
    assert begin_attempt(run) == 2
    assert [e["event"] for e in attempts(run)] == ["start", "start"]


def claim(run: RunDir, pid: int, age: float = 0.0) -> None:
    stamp = {"time": time.time() - age, "pid": pid, "host": socket.gethostname(), "launcher": "local"}
    write_json(run.claim, stamp)


def test_a_fresh_claim_counts_until_the_worker_came(run: RunDir) -> None:
    claim(run, os.getpid())
    assert state_of(run) is TrialState.RUNNING
    begin_attempt(run)  # it came, and died at once
    assert state_of(run) is TrialState.INTERRUPTED
    claim(run, os.getpid(), age=31)
    assert state_of(run) is TrialState.INTERRUPTED
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    claim(run, dead.pid)
    assert state_of(run) is TrialState.INTERRUPTED
    run.claim.write_text("{")
    assert state_of(run) is TrialState.INTERRUPTED


def test_a_killed_worker_is_interrupted(run: RunDir) -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(run.path)], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    try:
        assert worker.stdout.readline() == b"up\n"
        assert state_of(run) is TrialState.RUNNING
        assert last_error(run) is None
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
    assert state_of(run) is TrialState.INTERRUPTED
    error = last_error(run)
    assert error is not None
    assert error["error_class"] == "killed"
    assert json.loads(run.lock.read_text())["pid"] == worker.pid


@pytest.mark.parametrize(
    ("age", "ended", "state"),
    [
        (1.0, False, TrialState.RUNNING),
        (locks.LEASE_SECONDS + 1.0, False, TrialState.INTERRUPTED),
        (1.0, True, TrialState.INTERRUPTED),
    ],
)
def test_a_worker_on_another_host(run: RunDir, age: float, ended: bool, state: TrialState) -> None:
    begin_attempt(run)
    now = time.time()
    about = {"pid": 1, "host": "node-b", "time": now - 99.0, "beat": now - age, "token": "theirs"}
    run.lock.write_text(json.dumps({**about, "ended": now} if ended else about))
    assert state_of(run) is state
    assert (last_error(run) is None) == (state is TrialState.RUNNING)


def test_the_job_of_an_attempt_is_noted(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRB_LAB_JOB", "42")
    begin_attempt(run)
    assert attempts(run)[0]["job"] == "42"
    error = last_error(run)
    assert error is not None and "in job 42" in error["error"]
