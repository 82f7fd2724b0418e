"""Sweeps with fake workers: a driver in this process, or (run with -m) in one of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trb_lab.sweep as sweep_module
from trb_lab.driver import end
from trb_lab.driver.cluster import Cluster, cluster_of
from trb_lab.launch import claim
from trb_lab.launch.local import ProcessLauncher
from trb_lab.store.run_dir import RunDir, Store
from trb_lab.store.status import attempt_count, state_of

from .launch.conformance import fake_command, wait_for

if TYPE_CHECKING:
    from trb_lab.launch.slurm import SlurmLauncher

TESTS = Path(__file__).parent

BASE = """
name: base
student: ./student
teacher: ./teacher
dataset: {kind: arith}
steps: 4
eval: {sets: [arith/easy]}
"""

SWEEP = """
name: fake
question: which arm?
base: base.yaml
seeds: [0, 1]
parallel: 2
arms:
  opd: {overrides: {warmup: {kind: opd}}}
  trb:
    overrides: {warmup: {kind: trb, steps: 2}}
    grid: {warmup.kl_budget: [0.01, 0.1]}
"""


class NoMirror:
    """Stands where MLflow is not installed."""

    def __init__(self, store: Store, log: Path) -> None: ...

    def start(self) -> str:
        return "no mirror"

    def leave(self) -> None: ...

    def finish(self) -> str:
        return "no mirror"


def fake_report(store: Store, name: str) -> dict[str, str]:
    table = store.sweep(name).report / "table.md"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("| arm | easy |\n|---|---|\n")
    return {"table": str(table), "page": str(table.with_name("report.html"))}


def launcher(slots: int | None) -> ProcessLauncher:
    found = ProcessLauncher(slots, gpus=(), command=fake_command)
    found.poll_seconds = 0.05
    return found


def on_cluster(
    self: Cluster, store: Store, sweep: str, slots: int | None, check: Callable[[], object] = lambda: None
) -> SlurmLauncher:
    """In the place of Cluster.launcher: fake workers, in jobs."""
    from trb_lab.launch.slurm import SlurmLauncher

    return SlurmLauncher(store, self.profile, sweep, slots, check=check, command=fake_command)


class Lab:
    """A folder with a sweep, its models and a store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(root / "runs")
        self.path = root / "sweep.yaml"
        self.behaviour_file = root / "behaviour.json"
        for role in ("student", "teacher"):
            (root / role).mkdir()
            (root / role / "config.json").write_text(json.dumps({"role": role}))
        (root / "base.yaml").write_text(BASE)
        self.path.write_text(SWEEP)
        self.behave({})

    def behave(self, behaviour: dict[str, dict[str, float]]) -> None:
        self.behaviour_file.write_text(json.dumps(behaviour))

    def edit(self, old: str, new: str) -> None:
        text = self.path.read_text()
        assert old in text
        self.path.write_text(text.replace(old, new))

    def run(self, **kwargs: Any) -> int:
        return sweep_module.run_sweep(self.path, self.store, launcher=launcher, **kwargs)

    @contextlib.contextmanager
    def driver(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A driver process. Whatever is left of it and of its workers is killed at the end."""
        command = [sys.executable, "-m", __name__, str(self.path), str(self.store.root), *arguments]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=TESTS.parent
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            self.kill_workers()

    def kill_workers(self) -> None:
        for run_dir in self.runs():
            claim.send_signal(run_dir, signal.SIGKILL)

    def runs(self) -> list[RunDir]:
        references = sorted((self.store.root / "references").glob("*"))
        return [*self.store.trials(), *(RunDir(path) for path in references)]

    def states(self) -> dict[str, str]:
        return {run.run_id: str(state_of(run)) for run in self.store.trials()}

    def attempts(self) -> int:
        """Workers that have begun so far, references included."""
        return sum(attempt_count(run) for run in self.runs())

    def wait_for_steps(self, runs: int, steps: int = 1) -> None:
        """Until so many trials are running and have made so many steps."""

        def going() -> bool:
            busy = [r for r in self.store.trials() if state_of(r) == "running" and r.metrics.exists()]
            return sum(len(r.metrics.read_text().splitlines()) >= steps for r in busy) >= runs

        wait_for(going)


def patch(setattr: Any) -> None:
    setattr(sweep_module, "MirrorProcess", NoMirror)
    setattr(end, "report_files", fake_report)
    setattr(Cluster, "launcher", on_cluster)


if __name__ == "__main__":
    import builtins

    from trb_lab.errors import LabError

    patch(builtins.setattr)
    given = sys.argv[3:]
    options = {"retry_failed": "--retry-failed" in given, "take_over": "--take-over" in given}
    on = Path(given[given.index("--on") + 1]) if "--on" in given else None
    try:
        cluster = cluster_of(on, detach="--detach" in given)
        code = sweep_module.run_sweep(
            sys.argv[1], Store(Path(sys.argv[2])), launcher=launcher, cluster=cluster, **options
        )
    except LabError as error:
        print(error)
        code = error.exit_code
    sys.stdout.flush()
    os._exit(code)
