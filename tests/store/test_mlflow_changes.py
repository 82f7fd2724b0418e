"""What changes after it was shown: MLflow shows the row with the highest step, then time, then value."""

from __future__ import annotations

from contextlib import suppress

import pytest

from trb_lab.store import locks, mlflow_stream
from trb_lab.store.mlflow_mirror import sync_store
from trb_lab.store.mlflow_rows import new_timing
from trb_lab.store.mlflow_stream import MetricStream
from trb_lab.store.mlflow_tracking import MetricRow
from trb_lab.store.run_dir import RunDir, Store
from trb_lab.store.status import begin_attempt, cancel, end_attempt

from .fakes import START, add_set, checkpoint, completed_run, finish, make_run, timing_line, train, write_plan
from .mlflow_db import counts, query, run_of, steps, two_arm_sweep

pytest.importorskip("mlflow")

PARENT = "sweep:budgets"
TRB_MEAN = "final/trb kl_budget 0.05/mean_pass_at_1"
OPD_MEAN = "final/opd/mean_pass_at_1"


def latest(store: Store, run_id: str, prefix: str = "final/") -> dict[str, float]:
    """The values that MLflow shows, by its own choice among the rows."""
    found = query(
        store, "SELECT key, value FROM latest_metrics WHERE run_uuid = ?", run_of(store, run_id)["id"]
    )
    return {key: value for key, value in found if key.startswith(prefix)}


def state_tags(store: Store) -> dict[str, str]:
    """The parent's counts that are not zero."""
    tags = run_of(store, PARENT)["tags"]
    names = ("new", "running", "completed", "failed", "interrupted", "cancelled")
    return {name: tags[f"trb.{name}"] for name in names if tags[f"trb.{name}"] != "0"}


def test_a_set_added_to_a_completed_run_lowers_what_is_shown(mirrored: Store) -> None:
    two_arm_sweep(mirrored)
    run = completed_run(mirrored, "a-s0", score=0.5)
    assert sync_store(mirrored).ok
    ended = query(mirrored, "SELECT end_time FROM runs ORDER BY run_uuid")
    assert latest(mirrored, PARENT) == {TRB_MEAN: 0.5}
    # Marked as done, and neither its steps nor its attempts change.
    add_set(run, "hard", 0.1, START + 6000)
    assert sync_store(mirrored).values_sent == 0  # values of metrics.jsonl and timing.jsonl
    shown = latest(mirrored, "a-s0")
    assert (shown["final/mean_pass_at_1"], shown["final/hard/pass_at_1"]) == (0.3, 0.1)
    assert latest(mirrored, PARENT) == {TRB_MEAN: 0.3}
    assert query(mirrored, "SELECT end_time FROM runs ORDER BY run_uuid") == ended
    before = counts(mirrored)
    mirrored.sweep("budgets").mlflow.unlink()
    assert sync_store(mirrored).ok
    assert counts(mirrored) == before
    assert query(mirrored, "SELECT end_time FROM runs ORDER BY run_uuid") == ended


def test_the_mean_of_an_arm_follows_its_rows_up_and_down(mirrored: Store) -> None:
    two_arm_sweep(mirrored)
    completed_run(mirrored, "b-s1", seed=1, score=0.8)
    assert sync_store(mirrored).ok
    completed_run(mirrored, "c-s2", seed=2, score=0.2)  # with the same time of its end as the other seed
    assert sync_store(mirrored).ok
    assert latest(mirrored, PARENT) == {OPD_MEAN: 0.5}
    write_plan(mirrored, "budgets", {"c-s2": ("opd", "", 2)})
    assert sync_store(mirrored, sweep="budgets").ok
    assert latest(mirrored, PARENT) == {OPD_MEAN: 0.2}


def test_the_counts_of_a_sweep_are_those_of_now(mirrored: Store) -> None:
    two_arm_sweep(mirrored)
    run = make_run(mirrored, "a-s0")

    def shown() -> dict[str, str]:
        assert sync_store(mirrored).ok
        return state_tags(mirrored)

    assert shown() == {"new": "3", "completed": "0 of 3"}
    with locks.hold(run.lock, "the run"):
        number = begin_attempt(run)
        assert shown() == {"new": "2", "running": "1", "completed": "0 of 3"}
        end_attempt(run, number, "failed", error="x")
    assert shown() == {"new": "2", "failed": "1", "completed": "0 of 3"}
    with locks.hold(run.lock, "the run"):
        number = begin_attempt(run)
        assert shown() == {"new": "2", "running": "1", "completed": "0 of 3"}
        finish(run, number, 10)
    assert shown() == {"new": "2", "completed": "1 of 3"}


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_lines_past_the_checkpoint_of_a_run_that_may_go_on(mirrored: Store, how: str) -> None:
    run = make_run(mirrored, "a-s0")
    number = begin_attempt(run)
    checkpoint(run, 4, train(run, 0, 4))
    train(run, 4, 6)
    end_attempt(run, number, "failed", error="x")
    if how == "cancelled":
        cancel(run)
    assert sync_store(mirrored).ok
    shown = run_of(mirrored, "a-s0")
    assert shown["tags"]["state"] == how
    assert steps(shown, "train/loss") == [0, 1, 2, 3]
    # Once it is complete there is nothing to take back, with or without a last checkpoint.
    finish_after(run, 4, 6)
    assert sync_store(mirrored).ok
    assert steps(run_of(mirrored, "a-s0"), "train/loss") == list(range(6))


def finish_after(run: RunDir, first: int, last: int) -> None:
    """A second attempt that resumes at step `first`."""
    number = begin_attempt(run)
    lines = run.metrics.read_bytes().splitlines(keepends=True)
    run.metrics.write_bytes(b"".join(lines[:first]))
    train(run, first, last, attempt=number)
    finish(run, number, last)


def test_a_step_done_again_has_one_row_of_clocks(mirrored: Store) -> None:
    run = make_run(mirrored, "a-s0")
    begin_attempt(run)
    checkpoint(run, 4, train(run, 0, 4))
    train(run, 4, 6)
    assert sync_store(mirrored).ok
    finish_after(run, 4, 8)
    assert sync_store(mirrored).ok
    assert steps(run_of(mirrored, "a-s0"), "system/seconds/total") == list(range(8))
    before = counts(mirrored)
    (mirrored.root / "mlflow.json").unlink()  # all read again, over both attempts at once
    assert sync_store(mirrored).ok
    assert counts(mirrored) == before


def test_batches_of_clocks_go_on_where_the_last_one_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever dies between two batches goes on from the entry's notes, and no row is lost or doubled."""
    lines = [(n + 1, timing_line(step)) for n, step in enumerate([0, 1, 2, 1, 2, 3])]
    wanted = [row for _, made in new_timing(lines, -1) for row in made]
    for size in range(1, len(wanted) + 1):
        monkeypatch.setattr(mlflow_stream, "METRICS_A_CALL", size)
        for deaths in range(1, 4):
            taken: list[MetricRow] = []
            entry = {"timing_offset": 0, "timing_step": -1}
            for last in (deaths, None):
                server = FakeServer(taken, last)
                stream = MetricStream(server, "run", entry)
                start = entry["timing_offset"]
                with suppress(ConnectionError):
                    for offset, made in new_timing(lines[start:], entry["timing_step"]):
                        notes = {"timing_step": made[-1].step} if made else {}
                        stream.add(made, timing_offset=offset, **notes)
                    stream.flush()
            assert list(dict.fromkeys(taken)) == wanted
            assert entry == {"timing_offset": 6, "timing_step": 3}


class FakeServer:
    """Takes batches of rows, `last` of them at most."""

    def __init__(self, taken: list[MetricRow], last: int | None) -> None:
        self.taken, self.left = taken, last

    def log_metrics(self, run_id: str, rows: list[MetricRow]) -> None:
        if self.left == 0:
            raise ConnectionError("gone")
        self.left = None if self.left is None else self.left - 1
        self.taken.extend(rows)


def test_rows_that_share_a_trial(mirrored: Store) -> None:
    planned = {"a-s0": ("trb", "kl_budget=0.05", 0), "b-s1": ("trb", "kl_budget=0.05", 1)}
    write_plan(mirrored, "budgets", planned)
    completed_run(mirrored, "a-s0", score=0.5)
    completed_run(mirrored, "b-s1", seed=1, score=0.25)
    assert sync_store(mirrored).ok
    # An arm is added whose first seed is a trial that is there, and shown, already.
    write_plan(mirrored, "budgets", planned, also=[("a-s0", ("opd", "", 0))])
    status = sync_store(mirrored)
    assert (status.ok, status.runs) == (True, 2)
    tags = run_of(mirrored, "a-s0")["tags"]
    assert (tags["arm"], tags["setting"], tags["seed"]) == ("trb, opd", "kl_budget=0.05", "0")
    assert run_of(mirrored, "b-s1")["tags"]["arm"] == "trb"
    assert latest(mirrored, PARENT) == {TRB_MEAN: 0.375, OPD_MEAN: 0.5}
    assert state_tags(mirrored) == {"completed": "2 of 2"}
    before = counts(mirrored)
    assert sync_store(mirrored).ok
    assert counts(mirrored) == before
    assert run_of(mirrored, "a-s0")["tags"]["arm"] == "trb, opd"
