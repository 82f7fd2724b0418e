"""Verdicts on (gold, answer) pairs, kept in memory and in an append-only file that processes share."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

Pair = tuple[str, str]
"""(gold, extracted answer)."""

logger = logging.getLogger(__name__)


class VerdictCache:
    """True or False for each pair that was ever decided; time-outs and errors are never stored.

    The file holds one JSON object a line. Each batch is one write to a descriptor opened with O_APPEND, and
    begins with a line break, so that writers do not mix and a line torn by a crash spoils no other.
    Unreadable lines are ignored. A folder that cannot be written costs the sharing, nothing else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._verdicts: dict[Pair, bool] = {}
        self._read_bytes = 0
        self._writable = True

    def __len__(self) -> int:
        return len(self._verdicts)

    def get(self, pair: Pair) -> bool | None:
        """The verdict, or None where there is none in memory."""
        return self._verdicts.get(pair)

    def refresh(self) -> None:
        """Read what other processes have appended since the last call."""
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < self._read_bytes:  # somebody emptied the file
                    self._read_bytes = 0
                file.seek(self._read_bytes)
                data = file.read(size - self._read_bytes)
        except OSError:
            return
        complete = data.rfind(b"\n") + 1
        self._read_bytes += complete
        for line in data[:complete].splitlines():
            self._take(line)

    def add(self, verdicts: Mapping[Pair, bool]) -> None:
        """Keep verdicts and append them to the file."""
        fresh = {pair: correct for pair, correct in verdicts.items() if pair not in self._verdicts}
        self._verdicts.update(fresh)
        if not fresh or not self._writable:
            return
        lines = [
            json.dumps({"gold": gold, "answer": answer, "correct": correct})
            for (gold, answer), correct in fresh.items()
        ]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, ("\n" + "\n".join(lines) + "\n").encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            self._writable = False
            logger.warning("grading verdicts stay in memory: cannot write %s (%s)", self.path, error)

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            gold, answer, correct = row["gold"], row["answer"], row["correct"]
        except (ValueError, KeyError, TypeError):
            return
        if isinstance(gold, str) and isinstance(answer, str) and isinstance(correct, bool):
            self._verdicts.setdefault((gold, answer), correct)
