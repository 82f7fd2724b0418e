"""A checkpoint that is saved twice, as after an evaluation that was cut short."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from trb_lab.spec.experiment import OptimSpec
from trb_lab.store.run_dir import RunDir
from trb_lab.train import checkpoint
from trb_lab.train.optimizer import MasterAdamW

STATE = {"step": 2, "metrics_offset": 0, "tokens": {}}


@pytest.mark.parametrize("left", [[], [".tmp-step_000002-0a1b2c3d", ".tmp-old-0a1b2c3d"]])
def test_the_same_step_again_takes_the_place_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: list[str]
) -> None:
    """Whether or not an earlier save was killed between its two renames and left folders behind."""
    run_dir, student = RunDir(tmp_path), nn.Linear(2, 2)
    optimizer = MasterAdamW(student, OptimSpec())
    checkpoint.save(run_dir, student, optimizer, STATE, keep=2)
    for name in left:
        (run_dir.checkpoints / name).mkdir()
        (run_dir.checkpoints / name / "student.safetensors").write_bytes(b"old")
    removed, rmtree = [], shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda p, **options: (removed.append(p.name), rmtree(p, **options)))
    with torch.no_grad():
        student.weight.fill_(7.0)
    final = checkpoint.save(run_dir, student, optimizer, {**STATE, "pending": {"step": 1}}, keep=2)
    assert [path.name for path in run_dir.checkpoints.iterdir()] == ["step_000002"]
    # Gigabytes take their time: what is removed has lost its name before, so a kill leaves no half of it.
    assert all(name.startswith(".tmp-") for name in removed)
    saved = checkpoint.newest(run_dir)
    assert saved is not None
    assert (saved.path, saved.pending) == (final, {"step": 1})
    assert torch.equal(checkpoint.load_student(saved)["weight"], torch.full((2, 2), 7.0))
