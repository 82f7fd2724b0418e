"""Complete, atomic checkpoints without pickles.

`checkpoints/step_000040/` holds the state after 40 updates (`sft_000010/`: after 10 supervised updates of the phase
before step 0): weights, optimiser (float32 masters and moments) and
`state.json` (step, offset of metrics.jsonl, sizes of the other files). There are no generator states and no data
position to save: every draw and the prompt order are functions of (seed, step). The folder is filled under another
name, flushed to disk and renamed; `state.json` is written last, so a folder without one, or with other sizes than
it says, is skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trb_lab.failpoints import reach
from trb_lab.models.load import load_weights, saved_weights
from trb_lab.store.run_dir import RunDir, read_json, write_json

from .optimizer import MasterAdamW

WEIGHTS, OPTIMIZER, STATE = "student.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class SavedState:
    """A valid checkpoint on disk."""

    path: Path
    step: int
    """Updates made; the next step to run."""
    metrics_offset: int
    tokens: dict[str, int]
    """Counters that go on: student and teacher tokens so far."""
    redraw_ratio: float
    """Redraw rate seen over the rate guessed, of the last step with a teacher: the next block lengths follow it."""
    feedback: dict[str, Any]
    """What earlier steps have shown (policy/feedback.py), for anneals that follow it."""
    cpu_threads: int | None
    """Threads that the run has used: sums are not associative, so a resume takes as many. None on a GPU."""
    sft_updates: int | None
    """Supervised updates made, where the phase before step 0 is not over; None otherwise."""
    pending: dict[str, Any] | None
    """The last step, where its update is made and its evaluation was cut short (journal.StepRecord)."""


def save(
    run_dir: RunDir,
    student: nn.Module,
    optimizer: MasterAdamW,
    state: dict[str, Any],
    keep: int,
    fence: Callable[[], None] = lambda: None,
) -> Path:
    """Write the checkpoint after `state["step"]` updates, then drop all but the newest `keep`.

    With `state["sft_updates"]` it is one of the supervised phase; the first one after the phase replaces those.
    `fence` is called before other checkpoints are touched, and raises where the run directory is another worker's now.
    """
    final = run_dir.checkpoints / _name(state)
    # A name of its own: a worker that has lost the directory and does not know yet may be saving the same step.
    temporary = run_dir.checkpoints / f".tmp-{final.name}-{uuid.uuid4().hex[:8]}"
    fence()
    for left in run_dir.checkpoints.glob(".tmp-*"):  # of a save that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        save_file(saved_weights(student), temporary / WEIGHTS)
        save_file(optimizer.state_tensors(), temporary / OPTIMIZER)
        for name in (WEIGHTS, OPTIMIZER):
            _flush(temporary / name)
        sizes = {name: (temporary / name).stat().st_size for name in (WEIGHTS, OPTIMIZER)}
        write_json(temporary / STATE, {**state, "sizes": sizes})
        reach("worker.checkpoint.inside")
        fence()
        replaced = run_dir.checkpoints / f".tmp-old-{uuid.uuid4().hex[:8]}"
        if final.exists():  # the same step again, after an evaluation that was cut short
            final.rename(replaced)
        try:
            os.rename(temporary, final)
        except OSError:
            if replaced.exists():
                replaced.rename(final)
            raise
        shutil.rmtree(replaced, ignore_errors=True)  # gigabytes: only now that the new one has its name
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # on a full disk its room is wanted
        raise
    _flush(run_dir.checkpoints)
    reach("worker.checkpoint.after")
    fence()
    # Every other folder is older, or was found damaged and passed over when this run resumed behind it.
    others = [folder for folder in _folders(run_dir) if folder != final]
    older = [f for f in others if _order(f) < _order(final) and _order(f)[0] == _order(final)[0]]
    for folder in others:
        if folder not in older[: keep - 1]:
            shutil.rmtree(folder)
    return final


def _name(state: dict[str, Any]) -> str:
    updates = state.get("sft_updates")
    return f"step_{state['step']:06d}" if updates is None else f"sft_{updates:06d}"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folders(run_dir: RunDir) -> list[Path]:
    """Checkpoint folders, newest first."""
    found = [p for p in run_dir.checkpoints.glob("s*_*") if re.fullmatch(r"(step|sft)_\d+", p.name)]
    return sorted(found, key=_order, reverse=True)


def _order(folder: Path) -> tuple[bool, int]:
    """The supervised phase comes before step 0."""
    phase, _, number = folder.name.partition("_")
    return phase == "step", int(number)


def newest(run_dir: RunDir) -> SavedState | None:
    """The newest valid checkpoint, or None. Half-written and damaged ones are skipped."""
    for folder in _folders(run_dir):
        try:
            state = read_json(folder / STATE)
        except ValueError:
            continue
        sizes = (state or {}).get("sizes", {})
        if WEIGHTS in sizes and all(
            (folder / name).exists() and (folder / name).stat().st_size == size
            for name, size in sizes.items()
        ):
            return SavedState(
                folder,
                state["step"],
                state["metrics_offset"],
                state["tokens"],
                state.get("redraw_ratio", 1.0),
                state.get("feedback", {}),
                state.get("cpu_threads"),
                state.get("sft_updates"),
                state.get("pending"),
            )
    return None


def load_student(saved: SavedState) -> dict[str, Tensor]:
    """The student's weights, for `load_weights`."""
    return load_file(saved.path / WEIGHTS)


def restore(saved: SavedState, student: nn.Module, optimizer: MasterAdamW) -> None:
    """Put weights and optimiser back."""
    load_weights(student, load_student(saved))
    optimizer.load_state_tensors(load_file(saved.path / OPTIMIZER))
