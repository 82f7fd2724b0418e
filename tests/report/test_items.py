"""Item scores: what is read of them, and comparisons problem by problem."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.report.synthetic import PROBLEMS, SETS, item_rows, log_attempt, write_item_file, write_result
from trb_lab.report.collect import collect
from trb_lab.report.items import collect_items, halves_of, in_half_a, read_items
from trb_lab.report.planned_sets import PlannedSet
from trb_lab.report.problems import clustered_difference, comparisons, problem_table
from trb_lab.report.settings import settings_of
from trb_lab.store.run_dir import RunDir, Store, read_json, write_json

Built = tuple[Store, dict[str, Path]]
PLANNED = [PlannedSet(name, None, name) for name in SETS]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run with two evaluations of every set, 20 updates."""
    run = RunDir(tmp_path / "opd-s0-1")
    rng = np.random.default_rng(0)
    log_attempt(run, None)
    last = {}
    for step in (9, 19):
        for name in SETS:
            rows = item_rows(step, name, 0.5, rng)
            write_item_file(run, rows)
            last[name] = sum(r["correct"] for r in rows) / len(rows)
    write_result(run, last, 20)
    return run


def items_of(run: RunDir) -> pd.DataFrame:
    return pd.read_parquet(run.path / "items.parquet")


def test_halves_and_final_scores_agree_with_the_rows(run: RunDir) -> None:
    items = read_items(run, PLANNED, 20)
    assert items.checkpoints(list(SETS)) == [10, 20]
    rows = items_of(run)
    for (step, name), group in rows.groupby(["step", "set"]):
        problems = group.groupby("problem")["correct"].mean()
        first = problems[[in_half_a(p) for p in problems.index]]
        second = problems.drop(first.index)
        halves = items.halves[int(step) + 1, str(name)]
        assert (halves.num_a, halves.num_b) == (len(first), len(second))
        assert (halves.a, halves.b) == pytest.approx((first.mean(), second.mean()))
        if step == 19:
            assert items.final_scores(str(name)) == pytest.approx(problems.to_dict())


def test_the_split_is_even_and_the_same_wherever_a_problem_turns_up() -> None:
    ids = [f"test/{i}" for i in range(4000)]
    share = sum(map(in_half_a, ids)) / len(ids)
    assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(len(ids))
    few = halves_of(dict.fromkeys(ids[:7], 1.0))
    assert few.num_a == sum(map(in_half_a, ids[:7]))
    empty = halves_of({p: 1.0 for p in ids if not in_half_a(p)})
    assert (empty.num_a, math.isnan(empty.a)) == (0, True)


def test_only_four_columns_of_one_file_are_read_at_a_time(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    read: Callable[..., Any] = pq.read_table
    seen: list[tuple[Path, list[str]]] = []

    def watched(file: Path, columns: list[str]) -> Any:
        seen.append((file, columns))
        return read(file, columns=columns)

    monkeypatch.setattr(pq, "read_table", watched)
    read_items(run, PLANNED, 20)
    assert len(seen) == 6
    assert all(file.is_file() and columns == ["step", "set", "problem", "correct"] for file, columns in seen)


def test_torn_files_and_foreign_sets_are_left_out(run: RunDir) -> None:
    folder = run.path / "items.parquet"
    (folder / "step_000009-hard.parquet").write_bytes(b"PAR1 torn")
    (folder / "_step_000029-hard.tmp").write_bytes(b"")
    write_item_file(run, item_rows(19, "foreign", 0.5, np.random.default_rng(1)))
    items = read_items(run, PLANNED, 20)
    assert items.checkpoints(list(SETS)) == [20]
    assert items.checkpoints(["easy", "medium"]) == [10, 20]
    assert set(items.final_files) == set(SETS)


def test_a_set_that_shares_its_name_is_found_by_its_key_in_the_result(run: RunDir) -> None:
    result = read_json(run.result)
    sets = result["final"]["sets"]
    sets["easy@mine"] = {**sets["easy"], "fingerprint": "mine"}
    sets["easy"]["fingerprint"] = "other"
    write_json(run.result, result)
    mine = PlannedSet("easy", "mine", "easy")
    assert not read_items(run, [mine], 20).halves
    write_item_file(run, item_rows(19, "easy@mine", 0.9, np.random.default_rng(5)))
    items = read_items(run, [mine], 20)
    assert items.checkpoints(["easy"]) == [20]
    rows = items_of(run)
    expected = rows[rows["set"] == "easy@mine"].groupby("problem")["correct"].mean()
    assert items.final_scores("easy") == pytest.approx(expected.to_dict())


def test_an_untrained_models_scores_are_no_checkpoint(run: RunDir) -> None:
    for file in (run.path / "items.parquet").glob("*"):
        file.unlink()
    write_item_file(run, item_rows(-1, "easy", 0.5, np.random.default_rng(1)))
    assert not read_items(run, PLANNED, 0).halves


def test_the_clustered_error_of_one_set_is_that_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(size=50)
    gap, error, clusters = clustered_difference({"x": {str(i): v for i, v in enumerate(values)}})
    assert (gap, error, clusters) == pytest.approx((values.mean(), stats.sem(values), 50))


def test_the_clustered_error_is_the_sandwich_of_a_regression_on_sets() -> None:
    """Weighted by set, clusters that lie in two sets: against the textbook formula with explicit matrices."""
    rng = np.random.default_rng(1)
    ids = {"x": [f"p{i}" for i in range(30)], "y": [f"p{i}" for i in range(20, 60)]}
    gaps = {name: {p: float(rng.normal()) for p in found} for name, found in ids.items()}
    rows = [(p, name, v) for name, found in gaps.items() for p, v in found.items()]
    design = np.array([[name == "x", name == "y"] for _, name, _ in rows], float)
    values = np.array([v for _, _, v in rows])
    bread = np.linalg.inv(design.T @ design)
    residual = values - design @ (bread @ design.T @ values)
    problems = sorted({p for p, _, _ in rows})
    member = np.array([[p == q for p, _, _ in rows] for q in problems], float)
    meat = (member * residual) @ design
    covariance = bread @ (meat.T @ meat) @ bread * len(problems) / (len(problems) - 1)
    weights = np.array([0.5, 0.5])
    gap, error, clusters = clustered_difference(gaps)
    assert clusters == 60
    assert gap == pytest.approx(weights @ (bread @ design.T @ values))
    assert error == pytest.approx(math.sqrt(weights @ covariance @ weights))


def test_a_problem_in_two_sets_is_no_more_evidence_than_in_one() -> None:
    values = {str(i): float(v) for i, v in enumerate(np.random.default_rng(2).normal(size=20))}
    assert clustered_difference({"x": values, "y": values}) == pytest.approx(
        clustered_difference({"x": values})
    )
    assert clustered_difference({"x": {"0": 0.1}}) == (0.1, None, 1)


def test_comparisons_are_means_over_shared_seeds(ten_arms: Built) -> None:
    store, paths = ten_arms
    data = collect(store, "baselines")
    settings = settings_of(data)
    compared = comparisons(data, settings, collect_items(store, data))
    assert [c.setting.key for c in compared] == [s.key for s in settings if not s.is_reference]
    one = next(c for c in compared if c.setting.arm == "skd")
    reference = next(s for s in settings if s.is_reference)
    for setting, scores in ((one.setting, one.scores), (reference, one.reference)):
        rows = pd.concat([items_of(store.trial(r)) for r in setting.run_ids.values()])
        rows = rows[(rows["step"] == 29) & (rows["set"] == "hard")]
        assert scores["hard"] == pytest.approx(rows.groupby("problem")["correct"].mean().to_dict())
    alone = next(c for c in compared if c.setting.completed == 1)
    assert alone.seeds == 1
    assert alone.paired
    table = problem_table(compared, reference.title)
    assert table is not None
    values = np.array([v for found in one.differences().values() for v in found.values()])
    row = next(r for r in table.rows if r.title == one.setting.title)
    counts = [int((values > 1e-9).sum()), int((values < -1e-9).sum())]
    assert [c.value for c in row.cells[1:3]] == counts
    assert sum(int(c.value or 0) for c in row.cells[1:4]) == len(values) == PROBLEMS * len(SETS)
    assert row.cells[0].value == pytest.approx(values.mean())  # sets of equal size
    with open(paths["problems.csv"]) as f:
        lines = [r for r in csv.DictReader(f) if r["setting"] == one.setting.key and r["set"] == "hard"]
    assert {r["problem"]: float(r["difference"]) for r in lines} == pytest.approx(
        one.differences()["hard"], abs=1e-5
    )
