"""What was given to a cluster, as files: any later driver, `status` or `cancel` finds it again.

`<store>/slurm/<token>/batch.json` is written before sbatch is called and gets the job's id afterwards. The
token is in the job's name too. So a driver that dies in between leaves a job that can be found by its name, and
an id that Slurm gave to somebody else since is not taken for ours. The job itself logs in
`element_<index>.jsonl` which of its runs it has begun and which are over for good.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from trb_lab.store.run_dir import RunDir, Store, append_line, read_json, write_json

from .base import End


@dataclass(frozen=True)
class Piece:
    """One command of a job element: a run's worker, or a driver."""

    argv: list[str]
    """One that begins with a dash is for the interpreter that the job runs with."""
    log: str
    """Where its output is appended."""
    run: str | None = None
    """The run directory of a worker, such as `trials/trb-s0-1a2b3c4d5e`, relative to the store."""

    @property
    def run_id(self) -> str | None:
        return None if self.run is None else Path(self.run).name


@dataclass(frozen=True)
class Batch:
    """One call of sbatch: a job, or an array of them."""

    folder: Path
    sweep: str
    what: str
    """`trials`, `driver` or `report`."""
    created: float
    profile: str
    """Name of the profile that it was submitted with."""
    elements: list[list[str]]
    """Run directories of each element (relative to the store), in the order in which they run."""
    job_id: str | None = None
    """None until sbatch has answered."""
    over: bool = False
    """Nothing of it can run any more, and everybody who had to know has seen it."""

    @property
    def token(self) -> str:
        return self.folder.name

    @property
    def name(self) -> str:
        """The job's name in Slurm."""
        return f"trb-{self.token}"

    def element(self, index: int) -> str:
        """Slurm's id of an element."""
        return f"{self.job_id}_{index}" if len(self.elements) > 1 else str(self.job_id)

    def log(self, index: int) -> ElementLog:
        return ElementLog(self.folder / f"element_{index}.jsonl")


@dataclass(frozen=True)
class Event:
    """Something that a job element noted about one of its runs."""

    event: str
    """`start`, `end` (over for good) or `interrupted` (saved; somebody must start it again)."""
    run: str
    time: float
    incarnation: int
    """How often Slurm had put the job back into the queue."""
    node: str
    exit_code: int | None = None
    end: End | None = None
    checkpoint: str | None = None
    """The newest one, when it was interrupted."""


@dataclass(frozen=True)
class ElementLog:
    """What a job element has noted; written by it alone."""

    path: Path

    def append(self, event: Event) -> None:
        append_line(self.path, json.dumps({k: v for k, v in asdict(event).items() if v is not None}))

    def last(self) -> dict[str, Event]:
        """The last event of each run that it has begun."""
        found: dict[str, Event] = {}
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return found
        for line in text.splitlines():
            try:
                value: dict[str, Any] = json.loads(line)
                end = value.pop("end", None)
                event = Event(**value, end=None if end is None else End(end))
            except (ValueError, TypeError):  # torn by a death
                continue
            found[event.run] = event
        return found


def create(store: Store, sweep: str, what: str, profile: str, elements: Sequence[Sequence[str]]) -> Batch:
    """Note what is about to be submitted."""
    folder = store.slurm / uuid.uuid4().hex[:12]
    batch = Batch(folder, sweep, what, time.time(), profile, [list(e) for e in elements])
    folder.mkdir(parents=True)
    save(batch)
    return batch


def save(batch: Batch) -> None:
    value = asdict(batch)
    del value["folder"]
    write_json(batch.folder / "batch.json", value)


def submitted(batch: Batch, job_id: str) -> Batch:
    """Note the id that sbatch gave."""
    batch = replace(batch, job_id=job_id)
    save(batch)
    return batch


def close(batch: Batch) -> Batch:
    """Nothing of it is left to follow: later looks pass it by."""
    batch = replace(batch, over=True)
    save(batch)
    return batch


def discard(batch: Batch) -> None:
    """It never reached the cluster."""
    shutil.rmtree(batch.folder, ignore_errors=True)


@dataclass
class BatchFiles:
    """Reads the batch records of a store; what has not changed is not read again."""

    store: Store
    _seen: dict[Path, tuple[int, Batch]] = field(default_factory=dict)

    def open(self) -> list[Batch]:
        """Every batch that is not over, oldest first."""
        return sorted((b for b in self._all() if not b.over), key=lambda b: b.created)

    def _all(self) -> Iterator[Batch]:
        for folder in self.store.slurm.glob("*"):
            path = folder / "batch.json"
            try:
                changed = path.stat().st_mtime_ns
            except (FileNotFoundError, NotADirectoryError):
                continue  # it is being made, or was discarded
            known = self._seen.get(folder)
            if known is None or known[0] != changed:
                value = read_json(path)
                if value is None:
                    continue
                known = self._seen[folder] = (changed, Batch(folder, **value))
            yield known[1]


def run_dir(store: Store, run: str) -> RunDir:
    return RunDir(store.root / run)
