"""Searches in MLflow: runs that are asked for as results come in, that pause and go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trb_lab.store import locks, mlflow_sweep
from trb_lab.store.mlflow_mirror import sync_store
from trb_lab.store.mlflow_pass import Mirror
from trb_lab.store.mlflow_plan import ROW_KEYS, PlanReader
from trb_lab.store.plans import planned
from trb_lab.store.run_dir import Store, write_json
from trb_lab.store.status import begin_attempt, cancel, end_attempt

from .fakes import checkpoint, completed_run, finish, make_run, train
from .mlflow_db import counts, query, run_of, steps
from .search_fakes import SWEEP, confirm, paused_run, propose, write_searched_plan


class TestPlanReader:
    def rows(self, plan: dict[str, Any] | None) -> list[tuple[Any, ...]]:
        return [tuple(str(row.get(key)) for key in ROW_KEYS) for row in (plan or {})["trials"]]

    def test_it_says_what_the_plan_says_however_the_log_grows(self, store: Store) -> None:
        write_searched_plan(store)
        reader, sweep = PlanReader(store.sweep(SWEEP)), store.sweep(SWEEP)
        log = sweep.search_log("trb")

        def agree() -> None:
            assert reader.read()
            assert self.rows(reader.planned()) == self.rows(planned(sweep))
            assert not reader.read()

        agree()
        for number in range(3):
            propose(store, number)
            agree()
        propose(store, 3, context="another")
        agree()
        with open(log, "ab") as f:  # a driver dies while it writes a line, the next one goes on
            f.write(b'{"event": "proposal", "con')
        agree()
        propose(store, 4)
        confirm(store, 1)
        agree()
        assert len(reader.planned()["trials"]) == 7
        write_searched_plan(store, context="another")
        agree()
        assert len(reader.planned()["trials"]) == 2
        log.unlink()
        agree()
        propose(store, 5, context="another")
        agree()

    def test_only_what_is_new_is_read(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        write_searched_plan(store)
        for number in range(20):
            propose(store, number)
        reader = PlanReader(store.sweep(SWEEP))
        reader.read()
        parsed: list[bytes] = []
        monkeypatch.setattr(reader._logs["trb"], "_take", parsed.append)
        propose(store, 20)
        assert reader.read()
        assert len(parsed) == 1


@pytest.fixture
def searched(mirrored: Store) -> Store:
    pytest.importorskip("mlflow")
    write_searched_plan(mirrored)
    return mirrored


def parent(store: Store) -> dict[str, Any]:
    return run_of(store, f"sweep:{SWEEP}")


def test_runs_of_a_search_hang_below_the_sweep_like_others(searched: Store) -> None:
    mirror = Mirror(searched)
    completed_run(searched, "opd-s0", score=0.25)
    assert mirror.sync_once().runs == 1
    for number in range(3):
        completed_run(searched, propose(searched, number), score=0.1 * number)
    assert mirror.sync_once().runs == 4  # seen although plan.json is as it was
    winner, reference = confirm(searched, 2)
    completed_run(searched, winner, seed=7, score=0.5)
    completed_run(searched, reference, seed=7, score=0.75)
    assert mirror.sync_once().runs == 6

    run = run_of(searched, "trb-1")
    assert run["name"] == "trb #1 kl_budget=0.01 seed 0"
    assert run["tags"]["mlflow.parentRunId"] == parent(searched)["id"]
    tags = ("trb.search", "trb.search_number", "trb.search_role", "arm", "setting")
    assert [run["tags"][t] for t in tags] == ["trb", "1", "select", "trb", "#1 kl_budget=0.01"]
    assert run["params"]["warmup.kl_budget"] == "0.05"  # as its config has it
    tags_of = {run_id: run_of(searched, run_id)["tags"] for run_id in ("opd-s0", winner, reference)}
    assert "trb.search" not in tags_of["opd-s0"]
    assert (tags_of[winner]["trb.search_number"], tags_of[winner]["trb.search_role"]) == ("2", "confirm")
    assert (tags_of[reference]["arm"], tags_of[reference]["trb.search"]) == ("opd", "trb")
    assert tags_of[reference].get("trb.search_number", "") == ""

    # Settings of a search are no arm to average over; fresh seeds are averaged apart from the sweep's.
    finals = {key: value for key, _, value, _ in parent(searched)["metrics"] if key.startswith("final/")}
    assert finals == {
        "final/opd/mean_pass_at_1": 0.25,
        "final/trb 2 kl_budget 0.02 confirm/mean_pass_at_1": 0.5,
        "final/opd confirm/mean_pass_at_1": 0.75,
    }
    assert parent(searched)["tags"]["trb.completed"] == "6 of 6"
    before = counts(searched)
    searched.sweep(SWEEP).mlflow.unlink()
    assert sync_store(searched).ok
    assert counts(searched) == before


def test_a_paused_run_goes_on_in_the_same_mlflow_run(searched: Store) -> None:
    run = make_run(searched, propose(searched, 0))
    with locks.hold(run.lock, "the run"):
        attempt = begin_attempt(run)
        offset = train(run, 0, 3)
        checkpoint(run, 2, offset // 3 * 2)
        assert sync_store(searched).ok
        assert run_of(searched, run.run_id)["status"] == "RUNNING"
        checkpoint(run, 4, train(run, 3, 4))
        end_attempt(run, attempt, "paused")
    assert sync_store(searched).ok

    def shown() -> tuple[str, str, list[int], Any]:
        found = run_of(searched, run.run_id)
        assert steps(found, "system/seconds/total") == steps(found, "train/loss")
        ended = query(searched, "SELECT end_time FROM runs WHERE run_uuid = ?", found["id"])[0][0]
        return found["status"], found["tags"]["state"], steps(found, "train/loss"), ended

    assert shown() == ("SCHEDULED", "paused", [0, 1, 2, 3], None)
    assert run_of(searched, run.run_id)["tags"].get("error", "") == ""
    before = counts(searched)
    assert sync_store(searched).values_sent == 0
    assert counts(searched) == before

    with locks.hold(run.lock, "the run"):
        attempt = begin_attempt(run)
        checkpoint(run, 8, train(run, 4, 8, attempt))
        assert sync_store(searched).running == 1
        assert shown() == ("RUNNING", "running", list(range(8)), None)
        end_attempt(run, attempt, "paused")
    assert sync_store(searched).ok
    assert shown() == ("SCHEDULED", "paused", list(range(8)), None)
    attempt = begin_attempt(run)
    checkpoint(run, 10, train(run, 8, 10, attempt))
    finish(run, attempt, 10)
    assert sync_store(searched).ok
    status, state, made, ended = shown()
    assert (status, state, made) == ("FINISHED", "completed", list(range(10)))
    assert ended is not None
    assert len(query(searched, "SELECT * FROM tags WHERE key = 'trb.run_id' AND value = ?", run.run_id)) == 1


def test_a_sweep_whose_rest_is_paused_has_finished(searched: Store) -> None:
    completed_run(searched, "opd-s0")
    paused_run(searched, propose(searched, 0))
    completed_run(searched, propose(searched, 1))
    with locks.hold(searched.sweep(SWEEP).driver_lock, "the sweep"):  # it makes the report now
        assert sync_store(searched).ok
        assert parent(searched)["status"] == "FINISHED"
        asked = propose(searched, 2)
        assert sync_store(searched).ok
        assert parent(searched)["status"] == "RUNNING"
    tags = parent(searched)["tags"]
    assert (tags["trb.paused"], tags["trb.new"], tags["trb.completed"]) == ("1", "1", "2 of 4")
    cancel(make_run(searched, asked))
    assert sync_store(searched).ok
    assert parent(searched)["status"] == "KILLED"


def test_files_of_a_search_are_artifacts(searched: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = searched.sweep(SWEEP)
    completed_run(searched, "opd-s0")
    propose(searched, 0)
    write_json(sweep.search_summary("trb"), {"asked": 1})
    sweep.search_study("trb").write_text("{}\n")
    sweep.search_values("trb").write_text("{}\n")  # a cache
    mirror = Mirror(searched)

    def logged() -> dict[str, str]:
        folder: Path = parent(searched)["artifacts"] / "search"
        return {p.name: p.read_text() for p in folder.iterdir()}

    with locks.hold(sweep.driver_lock, "the sweep"):
        assert mirror.sync_once().ok
        assert set(logged()) == {"trb.jsonl", "trb.summary.json", "trb.optuna.log"}
        write_json(sweep.search_summary("trb"), {"asked": 2})
        assert mirror.sync_once().ok
        assert '"asked": 1' in logged()["trb.summary.json"]  # not with every pass
        with monkeypatch.context() as patch:
            patch.setattr(mlflow_sweep, "SEARCH_SECONDS", 0.0)
            assert mirror.sync_once().ok
        assert '"asked": 2' in logged()["trb.summary.json"]
        write_json(sweep.search_summary("trb"), {"asked": 3})
    assert mirror.sync_once().ok
    assert '"asked": 3' in logged()["trb.summary.json"]
