"""A sweep's plan for the mirror, which looks at it every few seconds while its searches write on.

A search's log comes to tens of megabytes and only grows: what was read stays read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .mlflow_trial import stamp
from .plans import plan_files
from .run_dir import SweepDir, read_json

ROW_KEYS = ("run_id", "arm", "setting", "seed", "search")
"""What is kept of the row of a run that a search asked for."""


class PlanReader:
    """`plans.planned`, kept up to date; of rows that searches asked for only ROW_KEYS are kept."""

    def __init__(self, sweep: SweepDir) -> None:
        self.sweep = sweep
        self._plan: dict[str, Any] = {}
        self._logs: dict[str, _LogReader] = {}
        self._stamps: dict[Path, list[int] | None] = {}

    def read(self) -> bool:
        """Take in what is new; whether anything was. Costs a few `stat` calls when nothing was."""
        stamps = {path: stamp(path) for path in plan_files(self.sweep)}
        if stamps == self._stamps:
            return False
        if stamps[self.sweep.plan] != self._stamps.get(self.sweep.plan):
            self._plan = read_json(self.sweep.plan) or {}
        logs = {}
        for arm, search in self._plan.get("searches", {}).items():
            known = self._logs.get(arm)
            if known is None or known.context != search["context"]:
                known = _LogReader(self.sweep.search_log(arm), search["context"])
            known.read()
            logs[arm] = known
        self._logs, self._stamps = logs, stamps
        return True

    def planned(self) -> dict[str, Any]:
        """The plan as it was at the last `read`; empty where there was none."""
        found = [row for log in self._logs.values() for row in log.rows.values()]
        return {**self._plan, "trials": [*self._plan["trials"], *found]} if found else self._plan


class _LogReader:
    """The rows of one context of a search's log (search_log.rows_of), read on from where the last look ended."""

    def __init__(self, path: Path, context: str) -> None:
        self.path, self.context = path, context
        self.rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._inode, self._offset = -1, 0

    def read(self) -> None:
        try:
            log = open(self.path, "rb")  # noqa: SIM115 - closed by the with below
        except FileNotFoundError:
            self.rows, self._inode, self._offset = {}, -1, 0
            return
        with log:
            file = os.fstat(log.fileno())
            if (
                file.st_ino != self._inode or file.st_size < self._offset
            ):  # another file than the one that was read
                self.rows, self._inode, self._offset = {}, file.st_ino, 0
            log.seek(self._offset)
            for line in log:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            decision = json.loads(line)
        except ValueError:  # torn by a death
            return
        if not isinstance(decision, dict) or decision.get("context") != self.context:
            return
        for row in decision.get("rows", ()):
            key = (row["arm"], row["setting"], row["run_id"])
            self.rows.setdefault(key, {name: row.get(name) for name in ROW_KEYS})
