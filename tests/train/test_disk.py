"""A full disk, or one that cannot be written: a clear failure, nothing torn, and a resume once there is room."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from trb_lab.experiment import run_experiment
from trb_lab.store.disk import DiskTrouble, disk_trouble
from trb_lab.store.metrics import MetricsWriter, read_metrics
from trb_lab.store.status import TrialState, last_error, state_of
from trb_lab.train import checkpoint
from trb_lab.train.journal import Journal

from .forked import final_bytes, tiny_run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    run_dir = tiny_run(tmp_path_factory.mktemp("undisturbed"))
    run_experiment(run_dir)
    return final_bytes(run_dir)


class FullFile:
    """A file that takes a part of a write, as one does on a disk that fills up."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        written: int = self.file.write(data[: self.room])
        return written

    def fileno(self) -> int:
        number: int = self.file.fileno()
        return number

    def close(self) -> None:
        self.file.close()


def test_a_line_that_does_not_fit_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write({"step": 0})
        writer._file = FullFile(writer._file, 3)  # type: ignore[assignment]
        with pytest.raises(OSError, match="No space left") as caught:
            writer.write({"step": 1})
        assert isinstance(disk_trouble(caught.value), DiskTrouble)
    assert path.read_bytes() == b'{"step": 0}\n'


def test_during_a_metrics_line(
    undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, real = tiny_run(tmp_path), Journal.write

    def fills_up(self: Journal, record: Any) -> None:
        if record.step == 2:
            self.metrics._file = FullFile(self.metrics._file, 10)  # type: ignore[assignment]
        real(self, record)

    monkeypatch.setattr(Journal, "write", fills_up)
    with pytest.raises(DiskTrouble, match=r"the disk is full: .*metrics\.jsonl.* the same command goes on"):
        run_experiment(run_dir)
    monkeypatch.undo()
    assert state_of(run_dir) is TrialState.FAILED
    error = last_error(run_dir)
    assert error is not None and error["error_class"] == "disk"
    assert len(read_metrics(run_dir.metrics)) == 2
    run_experiment(run_dir)
    assert final_bytes(run_dir) == undisturbed


def test_during_a_checkpoint(
    undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, real = tiny_run(tmp_path), checkpoint.save_file

    def fills_up(tensors: dict[str, Any], file: Path) -> None:
        if "step_000004" in str(file) and file.name == checkpoint.OPTIMIZER:
            file.write_bytes(b"a part")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(tensors, file)

    monkeypatch.setattr(checkpoint, "save_file", fills_up)
    with pytest.raises(DiskTrouble, match="the disk is full"):
        run_experiment(run_dir)
    monkeypatch.undo()
    assert [p.name for p in run_dir.checkpoints.iterdir()] == ["step_000002"]  # the part gave its room back
    run_experiment(run_dir)
    assert final_bytes(run_dir) == undisturbed


def test_a_torn_last_line_is_dropped(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    run_dir = tiny_run(tmp_path)
    run_experiment(run_dir)
    run_dir.result.unlink()
    for file in (run_dir.metrics, run_dir.positions, run_dir.timing, run_dir.attempts):
        with open(file, "ab") as f:
            f.write(b'{"step": 4, "lo')
    run_experiment(run_dir)
    assert final_bytes(run_dir) == undisturbed
    assert state_of(run_dir) is TrialState.COMPLETED


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "no room", "a.json"), "the disk is full: a.json"),
        (OSError(errno.EDQUOT, "quota", "a.json"), "the disk quota is used up: a.json"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "cannot be written: Read-only file system"),
        (OSError(errno.ENOENT, "gone"), None),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (SafetensorError("invalid header"), None),
        (ValueError("os error 28"), None),
    ],
)
def test_what_is_trouble_of_the_disk(error: Exception, words: str | None) -> None:
    trouble = disk_trouble(error)
    assert (trouble is None) == (words is None)
    assert words is None or words in str(trouble)
