"""Metric rows on their way to MLflow: full batches, and a note of each line only once all of its rows have arrived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .mlflow_tracking import METRICS_A_CALL, MetricRow, Tracking


class MetricStream:
    """Rows of one run, sent METRICS_A_CALL at a time, across lines and files: calls cost more than rows.

    `entry` takes the notes of what was sent (offsets), so that whoever dies half-way goes on from there.
    """

    def __init__(self, tracking: Tracking, run_id: str, entry: dict[str, Any]) -> None:
        self.tracking, self.run_id, self.entry = tracking, run_id, entry
        self.sent = 0
        """Rows that MLflow has taken."""
        self._taken = 0
        self._rows: list[MetricRow] = []
        self._notes: list[tuple[int, Mapping[str, Any]]] = []

    def add(self, rows: Sequence[MetricRow], **notes: Any) -> None:
        """Queue rows; `notes` go into the entry when they, and all before them, have been sent."""
        self._rows.extend(rows)
        self._taken += len(rows)
        if notes:
            self._notes.append((self._taken, notes))
        while len(self._rows) >= METRICS_A_CALL:
            self._send(METRICS_A_CALL)

    def flush(self) -> None:
        """Send what is left."""
        if self._rows:
            self._send(len(self._rows))
        self._note()

    def _send(self, count: int) -> None:
        self.tracking.log_metrics(self.run_id, self._rows[:count])
        del self._rows[:count]
        self.sent += count
        self._note()

    def _note(self) -> None:
        arrived = [notes for upto, notes in self._notes if upto <= self.sent]
        for notes in arrived:
            self.entry.update(notes)
        del self._notes[: len(arrived)]
