"""How far a run is, read from the ends of its files while a worker writes them."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trb_lab.store.run_dir import RunDir

# Enough for the last evaluation at the usual distance, and little to read for a thousand runs.
_FIRST_READ_BYTES = 64 * 1024
_RATE_STEPS = 20


@dataclass(frozen=True)
class Progress:
    """What a run's files say now; None where they do not say it yet."""

    done: int = 0
    """Updates made."""
    reward: float | None = None
    reverse_kl: float | None = None
    """Nats a token."""
    pass_at_1: float | None = None
    """Mean over evaluation sets, of the last evaluation."""
    seconds_per_step: float | None = None
    """Mean over the last steps."""


@dataclass
class _Follower:
    """Complete new lines of a JSONL file that grows, and that a resumed run may cut shorter."""

    path: Path
    offset: int | None = None
    rest: bytes = b""

    def lines(self) -> Iterator[dict[str, Any]]:
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return
        if self.offset is None or size < self.offset:
            self.offset, self.rest = max(0, size - _FIRST_READ_BYTES), b""
        if size == self.offset:
            return
        with open(self.path, "rb") as f:
            f.seek(self.offset)
            new = f.read()
        self.offset += len(new)
        *complete, self.rest = (self.rest + new).split(b"\n")
        for line in complete:
            try:
                value = json.loads(line)
            except ValueError:  # the first read began inside a line, or a resume replaced what was read
                continue
            if isinstance(value, dict):
                yield value


@dataclass
class ProgressReader:
    """Follows one run: each `read` looks only at what was added since the last."""

    run_dir: RunDir
    latest: Progress = Progress()
    _metrics: _Follower = field(init=False)
    _timing: _Follower = field(init=False)
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_RATE_STEPS))

    def __post_init__(self) -> None:
        self._metrics = _Follower(self.run_dir.metrics)
        self._timing = _Follower(self.run_dir.timing)

    def read(self) -> Progress:
        """What the files say now."""
        done, reward = self.latest.done, self.latest.reward
        reverse_kl, pass_at_1 = self.latest.reverse_kl, self.latest.pass_at_1
        for line in self._metrics.lines():
            done = int(line.get("step", done - 1)) + 1
            reward = line.get("rollout/reward", reward)
            reverse_kl = line.get("train/reverse_kl", reverse_kl)
            pass_at_1 = line.get("eval/mean/pass_at_1", pass_at_1)
        for line in self._timing.lines():
            seconds = (line.get("seconds") or {}).get("total")
            if isinstance(seconds, int | float):
                self._seconds.append(float(seconds))
        pace = sum(self._seconds) / len(self._seconds) if self._seconds else None
        self.latest = Progress(done, reward, reverse_kl, pass_at_1, pace)
        return self.latest


def last_step(metrics: Path) -> int:
    """The step of the last whole line of a metrics.jsonl; -1 where there is none. Reads the end of the file only."""
    try:
        with open(metrics, "rb") as f:
            f.seek(0, 2)
            f.seek(max(0, f.tell() - _FIRST_READ_BYTES))
            lines = f.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return -1
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):  # torn by a death, or not one of a step
            continue
    return -1
