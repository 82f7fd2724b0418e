"""The MLflow mirror beside a driver: a process of its own, so that a slow or dead server delays nothing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from trb_lab.store.run_dir import Store

FINISH_SECONDS = 60.0

SyncCommand = Callable[[Store, int | None], list[str]]


def sync_command(store: Store, until_pid: int | None) -> list[str]:
    """`trb-lab sync` for a store: once, or again and again until a process is gone."""
    command = [sys.executable, "-m", "trb_lab.cli", "--store", str(store.root), "sync"]
    return command if until_pid is None else [*command, "--follow", "--until-pid", str(until_pid)]


class MirrorProcess:
    """Keeps the MLflow view of a store up to date while a driver runs. Failing to do so fails nothing."""

    def __init__(self, store: Store, log: Path, command: SyncCommand = sync_command) -> None:
        """`log` receives what the mirror prints."""
        self._store = store
        self._log = log
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start following, where MLflow is installed. Returns a line that says what was done."""
        if importlib.util.find_spec("mlflow") is None:
            return "MLflow is not installed, so there is no dashboard yet: pip install 'trb-lab[driver]'"
        self._process = self._spawn(os.getpid())
        return "MLflow: `trb-lab ui` shows what has run so far"

    def leave(self) -> None:
        """Show what the files hold by now and end, while trials go on: `trb-lab sync` shows the rest."""
        if self._process is not None:
            self._process.terminate()

    def finish(self, seconds: float = FINISH_SECONDS) -> str:
        """Bring the view up to date, for at most so long. Returns a line that says where it is."""
        if self._process is None:
            return "No MLflow: pip install 'trb-lab[driver]', then `trb-lab sync` fills the dashboard"
        until = time.monotonic() + seconds
        process = self._process
        process.terminate()  # asked to end, a follower shows what the files hold by now
        try:
            code = process.wait(seconds)
            if code != 0:  # it had died before, or had not come so far as to hear the signal
                process = self._spawn(None)
                code = process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            return f"MLflow is not up to date after {seconds:.0f} s; `trb-lab sync` catches up"
        if code != 0:
            return f"MLflow is not up to date ({self._log} says why); `trb-lab sync` catches up"
        return f"MLflow store: {self._store.mlflow_db} (`trb-lab ui` opens it)"

    def _spawn(self, until_pid: int | None) -> subprocess.Popen[bytes]:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with open(self._log, "ab") as log:
            return subprocess.Popen(
                self._command(self._store, until_pid),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the driver, which then ends this
            )
