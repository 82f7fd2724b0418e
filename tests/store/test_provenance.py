"""What is kept of where a result came from, and what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trb_lab.store.provenance import code_version, collect
from trb_lab.store.run_dir import RunDir, read_json

from .fakes import spec


def test_one_file_an_attempt_and_the_last_on_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRB_SOMETHING", "1")
    monkeypatch.setenv("HF_TOKEN", "secret")
    run = RunDir(tmp_path)
    for attempt in (1, 2):
        device = {"kind": "cuda", "names": ["GPU"]}
        collect(run, spec(seed=3), attempt, threads=2, device=device, command=["trb-lab", "run"])
    last = read_json(run.provenance)
    assert (last["attempt"], last["threads"], last["device"]["names"]) == (2, 2, ["GPU"])
    assert last["seeds"] == {"seed": 3, "eval": 0, "dataset": 0}
    assert last["environment"]["TRB_SOMETHING"] == "1"
    assert "secret" not in json.dumps(last)
    assert last["packages"]["pydantic"]
    assert last["host"]["cores"] >= 1
    assert read_json(tmp_path / "provenance" / "attempt_001.json")["attempt"] == 1


def test_code_version_has_a_label() -> None:
    code = code_version()
    assert code["label"].startswith(code["version"])
    if code["commit"]:
        assert f"+g{code['commit'][:10]}" in code["label"]


def test_the_store_imports_nothing_heavy() -> None:
    modules = ["identity", "contents", "status", "metrics", "provenance", "mlflow_mirror", "ui"]
    lines = [f"import trb_lab.store.{m}" for m in modules] + ["import trb_lab.trial, sys"]
    heavy = "print([m for m in ('torch', 'mlflow', 'optuna', 'pandas', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", "\n".join([*lines, heavy])], capture_output=True, check=True)
    assert done.stdout == b"[]\n"
