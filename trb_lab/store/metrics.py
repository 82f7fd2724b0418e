"""Append-only JSON lines: metrics.jsonl (deterministic values) and timing.jsonl (clocks).

A line is one `write` of canonical JSON, so the same values give the same bytes, and a resumed run's
metrics.jsonl equals, byte for byte, that of a run that was never killed.

Whoever opens a file for writing gets a copy of their own, renamed into place: an earlier writer that still lives (a
process that was suspended, a machine that was cut off) goes on in a file that nobody sees.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from trb_lab.errors import LabError


class NonFiniteMetric(LabError):
    """A value is NaN or infinite; `key` names it."""

    def __init__(self, key: str, value: float, where: str) -> None:
        self.key = key
        super().__init__(
            f"{key} is {value} at {where}: the run has diverged or a value overflowed. "
            "Lower optim.lr or optim.grad_clip, or look at the last samples of the run."
        )


def _plain(key: str, value: Any, where: str) -> Any:
    """The value as JSON knows it: numpy and torch scalars become Python numbers; NaN and infinity raise."""
    if isinstance(value, Mapping):
        return {str(k): _plain(f"{key}/{k}", v, where) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(key, entry, where) for entry in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise NonFiniteMetric(key, value, where)
    return value


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a line as JSON knows them. Raises NonFiniteMetric, naming the key, for NaN and infinity."""
    where = f"SFT update {values['update']}" if "update" in values else f"step {values.get('step')}"
    return {key: _plain(key, value, where) for key, value in values.items()}


class MetricsWriter:
    """Appends lines; opening drops a last line that a dying writer tore. Close it, or use it in a `with`.

    `fence` is called before each change and raises where the file is somebody else's now.
    """

    def __init__(self, path: Path, fence: Callable[[], None] = lambda: None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._fence = path, fence
        fence()
        self._offset = _renew(path)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - lives as long as the writer

    @property
    def offset(self) -> int:
        """Bytes written so far: what a checkpoint stores."""
        return self._offset

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one line, handed to the operating system before this returns.

        Raises NonFiniteMetric, naming the key, for NaN and infinity, and OSError on a full disk; nothing is written
        then.
        """
        line = (json.dumps(plain_values(values), sort_keys=True, allow_nan=False) + "\n").encode()
        self._fence()
        written = self._file.write(line)
        if written != len(line):  # a full disk: leave no torn line behind
            os.ftruncate(self._file.fileno(), self._offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._offset += len(line)

    def truncate(self, offset: int) -> None:
        """Go back to a checkpoint's offset. Raises LabError when the file has no line ending there."""
        if offset > self._offset or (offset > 0 and not _is_line_end(self.path, offset)):
            raise LabError(
                f"{self.path} has {self._offset} bytes and no line that ends at byte {offset}, which the "
                "checkpoint names: it was changed from outside. Remove the run directory to start again."
            )
        self._fence()
        os.ftruncate(self._file.fileno(), offset)
        self._offset = offset

    def rewind(self, key: str, end: int) -> None:
        """Drop the lines from the first one on whose `key` (step, update) is at least `end`."""
        offset = 0
        for after, line in iter_lines(self.path, 0, self._offset):
            if line[key] >= end:
                break
            offset = after
        self.truncate(offset)

    def sync(self) -> None:
        """Wait until everything is on disk; call before a checkpoint stores `offset`."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _renew(path: Path) -> int:
    """Put a copy of the file's whole lines in its place, a new file where there is none; the copy's length."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):  # of a writer that was killed here
        left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as copy:
            if path.exists():
                with open(path, "rb") as old:
                    shutil.copyfileobj(old, copy)
                copy.flush()
                copy.truncate(_end_of_whole_lines(temporary))
            copy.flush()
            os.fsync(copy.fileno())
            length = os.fstat(copy.fileno()).st_size
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return length


def _is_line_end(path: Path, offset: int) -> bool:
    with open(path, "rb") as f:
        f.seek(offset - 1)
        return f.read(1) == b"\n"


def _end_of_whole_lines(path: Path) -> int:
    """Offset just after the last newline."""
    with open(path, "rb") as f:
        position = f.seek(0, os.SEEK_END)
        while position > 0:
            start = max(0, position - 65536)
            f.seek(start)
            found = f.read(position - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            position = start
    return 0


def iter_lines(
    path: Path, start_offset: int = 0, upto_offset: int | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Pairs (offset just after the line, parsed line) between two offsets; a torn last line ends it.

    Raises LabError for a whole line that is not JSON.
    """
    try:
        f = open(path, "rb")  # noqa: SIM115 - closed by the with below
    except FileNotFoundError:
        return
    parse = parser()
    with f:
        f.seek(start_offset)
        offset = start_offset
        for line in f:
            offset += len(line)
            if not line.endswith(b"\n") or (upto_offset is not None and offset > upto_offset):
                return
            try:
                value = parse(line)
            except ValueError:
                text = f"{path}: the line that ends at byte {offset} is not JSON: {line[:80]!r}"
                raise LabError(text) from None
            yield offset, value


@cache
def parser() -> Callable[[bytes], Any]:
    """What reads a line: orjson, five times as fast, where it is installed (a worker needs it not), else json.

    Both give the same values. Lines that only json takes (NaN, which no run of ours writes) are left to it.
    """
    try:
        import orjson
    except ImportError:
        return json.loads

    def parse(line: bytes) -> Any:
        try:
            return orjson.loads(line)
        except ValueError:
            return json.loads(line)

    return parse


def _read_at_once(path: Path) -> list[dict[str, Any]] | None:
    """All whole lines, parsed as one list, a third faster than line by line; None where `iter_lines` has to look."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    end = content.rfind(b"\n")
    if end < 0:
        return []
    try:
        lines: list[dict[str, Any]] = parser()(b"[%b]" % content[:end].replace(b"\n", b","))
    except ValueError:
        return None
    return lines if len(lines) == content.count(b"\n") else None


def read_metrics(path: Path, upto_offset: int | None = None) -> list[dict[str, Any]]:
    """Every whole line up to a byte offset; [] where there is no file. Reads timing.jsonl as well."""
    if upto_offset is None and (lines := _read_at_once(path)) is not None:
        return lines
    return [line for _, line in iter_lines(path, 0, upto_offset)]
