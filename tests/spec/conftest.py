"""A folder of experiment files to load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

BASE = """\
name: base
student: arith-student
teacher: arith-teacher
dataset: {kind: arith}
warmup: {kind: trb, kl_budget: 1e-2, anneal: {kind: exponential, final_fraction: 0.1}, steps: 5}
eval: {sets: [arith/hard]}
steps: 50
"""

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file into the working directory, which holds base.yaml."""
    monkeypatch.chdir(tmp_path)

    def write_file(name: str, text: str) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    write_file("base.yaml", BASE)
    return write_file
