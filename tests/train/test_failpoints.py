"""A worker that is killed at its tenderest moments leaves what the next one finishes, bit for bit."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from trb_lab.experiment import run_experiment
from trb_lab.store.metrics import read_metrics
from trb_lab.store.run_dir import RunDir, read_json
from trb_lab.store.status import TrialState, attempts, last_error, state_of
from trb_lab.train import checkpoint

from .forked import final_bytes, tiny_run, worker


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], dict[str, object]]:
    run_dir = tiny_run(tmp_path_factory.mktemp("undisturbed"))
    result = run_experiment(run_dir)
    return final_bytes(run_dir), result


def steps_saved(run_dir: RunDir) -> int:
    saved = checkpoint.newest(run_dir)
    return 0 if saved is None else saved.step


@pytest.mark.parametrize(
    ("place", "lines", "saved", "state"),
    [
        ("worker.start.after", 0, 0, TrialState.NEW),
        ("worker.checkpoint.inside", 2, 0, TrialState.INTERRUPTED),
        ("worker.checkpoint.after", 2, 2, TrialState.INTERRUPTED),
        ("worker.metrics.after:3", 3, 2, TrialState.INTERRUPTED),
        ("worker.result.before", 4, 4, TrialState.INTERRUPTED),
        ("worker.result.after", 4, 4, TrialState.COMPLETED),
    ],
)
def test_killed_there(
    undisturbed: tuple[dict[str, bytes], dict[str, object]],
    tmp_path: Path,
    place: str,
    lines: int,
    saved: int,
    state: TrialState,
) -> None:
    expected, whole = undisturbed
    run_dir = tiny_run(tmp_path)
    process = worker(run_dir, TRB_LAB_FAILPOINT=place)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (len(read_metrics(run_dir.metrics)), steps_saved(run_dir)) == (lines, saved)
    assert state_of(run_dir) is state
    error = last_error(run_dir)
    assert (error or {}).get("error_class") == ("killed" if state is TrialState.INTERRUPTED else None)

    result = run_experiment(run_dir)
    assert final_bytes(run_dir) == expected
    assert result["final"] == whole["final"] and result["tokens"] == whole["tokens"]
    assert read_json(run_dir.result) == result
    assert state_of(run_dir) is TrialState.COMPLETED
    assert len(read_metrics(run_dir.metrics)) == 4
    assert sum(event["event"] == "start" for event in attempts(run_dir)) == (
        1 if state in (TrialState.NEW, TrialState.COMPLETED) else 2
    )
    leftovers = [p.name for p in run_dir.path.rglob(".*")]
    assert leftovers == []
