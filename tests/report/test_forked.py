"""Reports of large sweeps are made by several processes: the same bytes, errors as they are, no fork of threads."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from trb_lab.bench.synthetic_store import write_synthetic_store
from trb_lab.errors import LabError, UsageError
from trb_lab.report import build_report, forked
from trb_lab.report.forked import Forked, outcome, worthwhile
from trb_lab.report.page_data import all_rounded, rounded, rounded_parts
from trb_lab.store.metrics import read_metrics

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@forks
def test_a_report_of_several_processes_has_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_synthetic_store(tmp_path / "runs", runs=12, steps=25, seeds=3)
    monkeypatch.setattr("trb_lab.report.run_reading.AT_ONCE", 5)
    contents = []
    for several in (False, True):
        for room in ("sections", "run_reading"):
            monkeypatch.setattr(f"trb_lab.report.{room}.worthwhile", lambda _, several=several: several)
        out = tmp_path / str(several)
        build_report(store, "synthetic", out)
        contents.append({p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()})
    assert contents[0] == contents[1]
    assert any(path.suffix == ".svg" for path in contents[0])


@forks
def test_what_a_child_raises_comes_back() -> None:
    def work(number: int) -> int:
        if number == 1:
            raise UsageError("no such thing")
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return 10 * number

    with Forked(work) as children:
        assert outcome(children.submit(3)) == 30
        with pytest.raises(UsageError, match="no such thing"):
            outcome(children.submit(1))
        with pytest.raises(LabError, match="was killed"):
            outcome(children.submit(2))
    assert not forked._work


def test_a_process_with_several_threads_is_not_forked() -> None:
    assert not worthwhile(forked.MANY_RUNS - 1)
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert not worthwhile(10 * forked.MANY_RUNS)
    finally:
        end.set()
        thread.join()


def test_many_numbers_are_rounded_as_one_is() -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal(5000) * 10.0 ** rng.integers(-30, 30, 5000)
    values = np.concatenate([values, [0.0, np.nan, np.inf, -np.inf, 99999.5, 1e-320, 1.7e308]])
    assert all_rounded(values) == [rounded(float(v)) for v in values]
    parts = [np.array([2, 0]), np.array([], dtype=int), np.array([5])]
    assert rounded_parts(values, parts) == [[rounded(float(values[i])) for i in part] for part in parts]


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"a": 1}\n{"a"', '{"a": 1}\n{"a": NaN}\n', '{"a": [1\n2]}\n', '{"a": 1}\n\n{"a": 2}\n'],
)
def test_lines_read_at_once_are_those_read_one_by_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)

    def read(upto: int | None) -> str:
        try:
            return repr(read_metrics(path, upto))
        except LabError as error:
            return str(error)

    assert read(None) == read(len(text))
