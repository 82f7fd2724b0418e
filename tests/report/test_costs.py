"""Cost ledgers: what counts, where it is read, and what is said of runs without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.report.synthetic import log_attempt, write_store
from trb_lab.report import build_report
from trb_lab.report.collect import collect
from trb_lab.report.cost_table import cost_table, mean_costs, quantity
from trb_lab.report.costs import training_cost
from trb_lab.report.settings import settings_of
from trb_lab.store.run_dir import RunDir, Store, read_json, write_json

Built = tuple[Store, dict[str, Path]]


def phase(seconds: float, teacher: int = 0, student: int = 0) -> dict[str, float]:
    return {"seconds": seconds, "gpu_seconds": 0.0, "teacher_tokens": teacher, "student_tokens": student}


def finished(path: Path, cost: dict[str, Any] | None, steps: int = 2) -> RunDir:
    run = RunDir(path)
    log_attempt(run, None)
    write_json(run.result, {"state": "completed", "steps": steps, **({"cost": cost} if cost else {})})
    return run


def test_evaluation_is_left_out_of_the_results_ledger(tmp_path: Path) -> None:
    phases = {"rollout": phase(2.0, 100, 50), "sft": phase(1.0, 0, 10), "eval": phase(99.0, 7, 7)}
    (row,) = training_cost(finished(tmp_path / "run", {"phases": phases, "total": {}, "gpus": 0}))
    assert (row["seconds"], row["teacher_tokens"], row["student_tokens"]) == (3.0, 100, 60)


def test_a_run_without_a_whole_ledger_or_a_result_has_no_cost(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", None)
    assert training_cost(run) == []
    write_json(run.result, {"state": "completed", "steps": 2, "cost": None})  # some steps had no ledger
    assert training_cost(run) == []
    run.result.unlink()
    assert training_cost(run) == []


def test_costs_are_means_over_finished_seeds(ten_arms: Built) -> None:
    data = collect(ten_arms[0], "baselines")
    settings = {s.key: s for s in settings_of(data)}
    vanilla, forced = mean_costs(data, settings["opd"]), mean_costs(data, settings["teacher_forced"])
    assert vanilla["seconds"] == pytest.approx(30 * 0.5 + 0.05 * 30)
    assert forced["seconds"] == pytest.approx(30 * 0.5 + 0.4 * 20 + 0.05 * 10)
    assert forced["teacher_tokens"] == 20 * 4500 + 10 * 4000
    table = cost_table(data, list(settings.values()))
    assert table is not None
    assert table.columns == ["mean score", "seconds", "teacher tokens", "student tokens", "seeds"]
    assert not any("Without a cost ledger" in note for note in table.notes)


def test_a_setting_with_one_run_without_ledger_has_no_cost(tmp_path: Path) -> None:
    arms: dict[str, dict[str, Any]] = {"opd": {}, "skd": {}}
    store = write_store(tmp_path, arms=arms, seeds=(0, 1), steps=10, items=True, failed=(), missing=())
    run = store.trial(read_json(store.sweep("kl_budget").plan)["trials"][2]["run_id"])
    write_json(run.result, {k: v for k, v in read_json(run.result).items() if k != "cost"})
    data = collect(store, "kl_budget")
    table = cost_table(data, settings_of(data))
    assert table is not None
    assert [c.text for c in table.rows[1].cells[1:4]] == ["–"] * 3
    assert "finished seed: skd" in table.notes[-1]
    paths = build_report(store, "kl_budget")
    figure = (paths["page"].parent / "figures" / "score_by_cost.csv").read_text()
    assert "opd" in figure
    assert "skd" not in figure


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.52, "0.52"),
        (71.43, "71.4"),
        (8304.0, "8304"),
        (12_300, "12.3 k"),
        (4.56e6, "4.56 M"),
        (1e12, "1 T"),
    ],
)
def test_quantities_are_short(value: float, text: str) -> None:
    assert quantity(value) == text
