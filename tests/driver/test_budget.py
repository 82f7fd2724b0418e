from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from trb_lab.driver.budget import Budget, Meter, budget_text, parse_budget
from trb_lab.errors import UsageError
from trb_lab.store import locks
from trb_lab.store.run_dir import RunDir, Store, write_json

from .runs import end, start, write_attempts, write_provenance

HOUR = 3600.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def run_of(store: Store, name: str, device: str = "cpu", threads: int = 1, gpus: int | None = None) -> RunDir:
    run = store.trial(name)
    write_json(run.config, {"spec": {"resources": {"device": "auto", "gpus": gpus}}})
    write_provenance(run, device, threads)
    return run


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("20gpuh", Budget(20, "gpuh")),
        ("1.5gpuh", Budget(1.5, "gpuh")),
        ("40cpuh", Budget(40, "cpuh")),
        ("3h", Budget(3, "h")),
        (" .5 GPUh ", Budget(0.5, "gpuh")),
    ],
)
def test_budgets_are_read(text: str, budget: Budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("20", "the unit is missing. It takes 20gpuh"),
        ("20 GPU-hours", "no unit 'GPU-hours'. Did you mean '20gpuh'?"),
        ("20gpu", "Did you mean '20gpuh'?"),
        ("20gph", "Did you mean 'gpuh'?"),
        ("3 hours", "Did you mean '3h'?"),
        ("40coreh", "Did you mean '40cpuh'?"),
        ("0h", "above 0"),
        ("-3h", "no number"),
        ("1e3h", "no number"),
        ("gpuh", "no number"),
        ("", "no number"),
    ],
)
def test_what_is_no_budget_is_told_with_what_would_be(text: str, told: str):
    with pytest.raises(UsageError) as caught:
        parse_budget(text)
    assert told in str(caught.value)


def test_budget_in_words():
    assert budget_text(Budget(20, "gpuh"), 3.217) == "3.22 of 20 GPU-hours"
    assert budget_text(Budget(1.5, "cpuh"), 12.34) == "12.3 of 1.5 core-hours"
    assert str(Budget(3, "h")) == "3 hours"


def test_gpus_threads_and_attempts_are_summed(store: Store):
    on_gpus = run_of(store, "a", "cuda:0", threads=8, gpus=2)
    write_attempts(
        on_gpus, [start(1, 0), end(1, HOUR, "paused"), start(2, 5 * HOUR), end(2, 5.5 * HOUR, "completed")]
    )
    one_gpu = run_of(store, "b", "cuda")
    write_attempts(one_gpu, [start(1, 0), end(1, 2 * HOUR, "failed", traceback="...")])
    on_cpu = run_of(store, "c", "cpu", threads=3)
    write_attempts(on_cpu, [start(1, 0), end(1, 4 * HOUR)])
    runs = [on_gpus, one_gpu, on_cpu, on_gpus, store.trial("not begun")]
    meter = Meter(store, 0.0)
    assert meter.spent(runs, "gpuh") == pytest.approx(1.5 * 2 + 2 * 1)
    assert meter.spent(runs, "cpuh") == pytest.approx(1.5 * 8 + 2 * 1 + 4 * 3)


def test_only_what_is_since_the_sweep_counts(store: Store):
    run = run_of(store, "a")
    write_attempts(run, [start(1, 0), end(1, HOUR, "paused"), start(2, 2 * HOUR), end(2, 6 * HOUR)])
    assert Meter(store, 3 * HOUR).spent([run], "cpuh") == pytest.approx(3)
    assert Meter(store, 9 * HOUR).spent([run], "cpuh") == 0


def test_an_attempt_that_never_ended_counts_to_its_last_sign(store: Store):
    run = run_of(store, "a")
    # The first died in its second step, the second after a beat at 3.5 h, which is later than its last step.
    write_attempts(run, [start(1, 0), start(2, 3 * HOUR, pid=7)])
    lines = [{"step": 0, "attempt": 1, "time": 0.25 * HOUR}, {"step": 1, "attempt": 1, "time": 0.5 * HOUR}]
    lines.append({"step": 0, "attempt": 2, "time": 3.25 * HOUR})
    run.timing.write_text("".join(json.dumps(line) + "\n" for line in lines))
    meter = Meter(store, 0.0)
    assert meter.spent([run], "cpuh") == pytest.approx(0.5 + 0.25)
    write_json(run.lock, {"pid": 7, "host": "elsewhere", "beat": 3.5 * HOUR, "ended": 3.5 * HOUR})
    assert meter.spent([run], "cpuh") == pytest.approx(0.5 + 0.5)
    # Somebody cancels it a day later: that is no end of its worker.
    write_attempts(run, [start(1, 0), start(2, 3 * HOUR, pid=7), end(2, 24 * HOUR, "cancelled")])
    assert meter.spent([run], "cpuh") == pytest.approx(1.0)
    # Nor is a failure that a driver logged when it found out; the worker's own has a traceback.
    found_out = end(2, 24 * HOUR, "failed", error_class="killed")
    write_attempts(run, [start(1, 0), start(2, 3 * HOUR, pid=7), found_out])
    assert meter.spent([run], "cpuh") == pytest.approx(1.0)


def test_an_attempt_counts_to_now_while_its_worker_lives(store: Store):
    run = run_of(store, "a", threads=2)
    write_attempts(run, [start(1, time.time() - HOUR)])
    meter = Meter(store, 0.0)
    assert meter.spent([run], "cpuh") == 0
    with locks.hold(run.lock, "the run"):
        assert meter.spent([run], "cpuh") == pytest.approx(2.0, abs=0.01)
    write_attempts(run, [start(1, time.time() - HOUR), end(1, time.time() - HOUR / 2)])
    assert meter.spent([run], "cpuh") == pytest.approx(1.0, abs=0.01)


def test_without_provenance_the_spec_tells(store: Store):
    run = store.trial("a")
    write_json(run.config, {"spec": {"resources": {"device": "cuda", "gpus": 4, "cpu_threads": 6}}})
    write_attempts(run, [start(1, 0), end(1, HOUR)])
    bare = store.trial("b")
    write_attempts(bare, [start(1, 0), end(1, HOUR)])
    meter = Meter(store, 0.0)
    assert meter.spent([run, bare], "gpuh") == pytest.approx(4)
    assert meter.spent([run, bare], "cpuh") == pytest.approx(7)


def test_each_attempt_has_what_it_ran_on(store: Store):
    run = run_of(store, "a", "cuda", threads=1)
    write_json(run.path / "provenance" / "attempt_001.json", {"device": {"kind": "cpu"}, "threads": 4})
    write_attempts(run, [start(1, 0), end(1, HOUR, "paused"), start(2, HOUR), end(2, 2 * HOUR)])
    meter = Meter(store, 0.0)
    assert meter.spent([run], "gpuh") == pytest.approx(1)
    assert meter.spent([run], "cpuh") == pytest.approx(5)


def test_time_of_the_command(store: Store):
    assert 0 <= Meter(store, 0.0).spent([], "h") < 0.001


def test_what_was_read_of_ended_runs_is_told_again(store: Store):
    line = json.dumps(start(1, 0)) + "\n" + json.dumps(end(1, HOUR)) + "\n"
    runs = []
    for i in range(300):
        run = store.trial(f"opd-s{i}")
        os.makedirs(run.path)
        run.attempts.write_text(line)
        runs.append(run)
    meter = Meter(store, 0.0)
    assert meter.spent(runs, "cpuh") == pytest.approx(300)
    assert meter.spent(runs, "cpuh") == pytest.approx(300)
