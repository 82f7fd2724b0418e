"""Lines of metrics: the same values give the same bytes; a torn line or a NaN leaves no trace."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from trb_lab.errors import LabError
from trb_lab.store.metrics import MetricsWriter, NonFiniteMetric, parser, read_metrics


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_lines_are_canonical(path: Path) -> None:
    with MetricsWriter(path) as writer:
        writer.write({"step": 0, "b": 0.1, "a": np.float32(0.5)})
        assert path.read_bytes() == b'{"a": 0.5, "b": 0.1, "step": 0}\n'
        assert writer.offset == path.stat().st_size
        writer.write({"step": 1, "n": np.int64(3), "nested": {"x": 1e-300}})
    assert read_metrics(path)[1] == {"step": 1, "n": 3, "nested": {"x": 1e-300}}


def test_resume_cuts_back_to_the_checkpoint(path: Path) -> None:
    def write(steps: range) -> None:
        for step in steps:
            writer.write({"step": step, "x": step / 3})

    with MetricsWriter(path) as writer:
        write(range(10))
    whole = path.read_bytes()
    path.unlink()
    with MetricsWriter(path) as writer:
        write(range(5))
        kept = writer.offset
        write(range(5, 8))
    with open(path, "ab") as f:
        f.write(b'{"step": 8, "x"')
    assert [line["step"] for line in read_metrics(path)] == list(range(8))
    assert len(read_metrics(path, kept)) == 5
    with MetricsWriter(path) as writer:
        writer.truncate(kept)
        write(range(5, 10))
    assert path.read_bytes() == whole


def test_truncate_refuses_an_offset_inside_a_line(path: Path) -> None:
    with MetricsWriter(path) as writer:
        writer.write({"step": 0})
        for offset in (3, writer.offset + 1):
            with pytest.raises(LabError, match="no line that ends at byte"):
                writer.truncate(offset)
        writer.truncate(0)
        assert path.stat().st_size == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float32("nan")])
def test_non_finite_values_name_the_key(path: Path, bad: float) -> None:
    with MetricsWriter(path) as writer:
        with pytest.raises(NonFiniteMetric, match=r"train/loss is (nan|inf) at step 3") as error:
            writer.write({"step": 3, "ok": 1.0, "train/loss": bad})
        assert error.value.key == "train/loss"
    assert read_metrics(path) == []


def test_a_broken_line_inside_is_an_error(path: Path) -> None:
    path.write_text(json.dumps({"step": 0}) + "\nnonsense\n" + json.dumps({"step": 1}) + "\n")
    with pytest.raises(LabError, match="is not JSON"):
        read_metrics(path)
    assert read_metrics(path.with_name("missing.jsonl")) == []


def test_lines_read_the_same_with_and_without_orjson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("orjson")
    path = tmp_path / "metrics.jsonl"
    numbers = [0.1, 1 / 3, 1e-300, 5e-324, 1.7976931348623157e308, -0.0, 3, 2**53 + 1, 123456789.123456789]
    with MetricsWriter(path) as writer:
        for step, number in enumerate(numbers):
            writer.write({"step": step, "x": number, "nested": {"names": ["a", "é", "\u2028"], "none": None}})
    fast = read_metrics(path)
    assert parser() is not json.loads
    monkeypatch.setitem(sys.modules, "orjson", None)
    parser.cache_clear()
    try:
        assert parser() is json.loads
        plain = read_metrics(path)
    finally:
        parser.cache_clear()
    assert [list(map(repr, line.values())) for line in fast] == [
        list(map(repr, line.values())) for line in plain
    ]


def test_what_only_json_reads_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "x": NaN}\n')
    (line,) = read_metrics(path)
    assert math.isnan(line["x"])
