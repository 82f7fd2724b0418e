"""What real workers make of the cases' sweep when nothing befalls them."""

from __future__ import annotations

from pathlib import Path

from trb_lab.store.run_dir import RunDir

from ..store.mlflow_db import query
from .case import Case
from .catalogue import STEPS, Scenario


class Undisturbed:
    """One run of the sweep, and comparisons with it."""

    def __init__(self, root: Path) -> None:
        case = Case(Scenario(-1, "local", True, ()), root)
        case.run()
        self._bytes = {run.run_id: final_bytes(run) for run in case.runs}

    def check(self, case: Case) -> None:
        """Weights and metrics are the same, bit for bit, and MLflow has one finished run of each trial."""
        for run in case.runs:
            expected = self._bytes[run.run_id]
            for name, found in final_bytes(run).items():
                assert found == expected[name], f"{run.run_id}: {name} differs from an undisturbed run's"


def mlflow_shows_one_finished_run_each(case: Case) -> None:
    shown = query(
        case.store,
        "SELECT tags.value, runs.status FROM runs JOIN tags USING (run_uuid) WHERE tags.key = 'trb.run_id'",
    )
    names = [*(run.run_id for run in case.everything()), "sweep:hurt"]
    assert sorted(shown) == sorted((name, "FINISHED") for name in names)
    assert query(case.store, "SELECT count(*) FROM runs WHERE status = 'RUNNING'") == [(0,)]


def final_bytes(run: RunDir) -> dict[str, bytes]:
    final = run.checkpoints / f"step_{STEPS:06d}"
    paths = (final / "student.safetensors", final / "optimizer.safetensors", run.metrics)
    return {path.name: path.read_bytes() for path in paths}
