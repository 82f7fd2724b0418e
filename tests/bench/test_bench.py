"""What the benchmarks print, and that what they time is what they say. No clock is tested."""

from __future__ import annotations

import json
import math

import pytest
import torch

from trb_lab.bench import BENCHES, run_bench
from trb_lab.bench import rollout as rollout_bench
from trb_lab.bench import solver as solver_bench
from trb_lab.bench import step as step_bench
from trb_lab.bench.measure import row, take_turns
from trb_lab.bench.setting import bundled_pair, setting
from trb_lab.cli import main
from trb_lab.errors import UsageError


@pytest.fixture(scope="module")
def tiny_setting():
    return setting(rows=6, max_new_tokens=8, pair=bundled_pair())


def test_without_a_name_they_are_listed(capsys):
    run_bench(None)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(BENCHES)


def test_an_unknown_name_is_answered_with_the_nearest_one(capsys):
    with pytest.raises(UsageError, match=r"'solvr'.*Did you mean 'solver'\? .*rollout, step"):
        run_bench("solvr")
    assert main(["bench", "solvr"]) == 2
    assert "Did you mean 'solver'?" in capsys.readouterr().err


def test_contestants_take_turns_and_the_order_turns_round():
    calls = []
    contestants = {
        name: lambda repeat, name=name: calls.append((name, repeat)) or {"x": 1.0} for name in "ab"
    }
    found = take_turns(contestants, 2)
    assert calls == [("a", 0), ("b", 0), ("a", 0), ("b", 0), ("b", 1), ("a", 1)]
    assert [len(turns) for turns in found.values()] == [2, 2]


def test_ratios_are_of_neighbours():
    line = row("x", [2.0, 30.0, 8.0], {"y": [1.0, 10.0, 2.0], "nothing": [0.0, 0.0, 0.0]})
    assert tuple(line.figure) == (8.0, 2.0, 30.0)
    assert {name: tuple(ratio) for name, ratio in line.ratios.items()} == {"y": (3.0, 2.0, 4.0)}


def test_solver_prints_speed_beside_accuracy():
    result = solver_bench.run(pair_repeats=2, random_repeats=1, shape=(4, 300))
    rows = [line for table in result.tables for line in table.rows]
    assert [table.title.split(",")[-1] for table in result.tables[:2]] == [" eps 0.05", " eps 0.001"]
    assert {line.what for line in rows} == set(solver_bench.SOLVERS)
    ours = [line.notes for line in rows if line.what == "trust_region"]
    assert all(notes["largest_KL_off_budget"] <= 1e-4 and notes["over_budget"] <= 1e-5 for notes in ours)
    exact = [line.notes for line in rows if line.what == "bisection 24"]
    assert [n["rows_at_budget"] for n in exact] == [n["rows_at_budget"] for n in ours]
    assert max(n["rows_at_budget"] for n in ours) > 0


def test_accuracy_sees_a_beta_that_is_too_large():
    case = solver_bench.random_case((3, 100), torch.device("cpu"), 1)
    eps = 1e-4  # KL is beta^2 Var[r] / 2 there
    beta = solver_bench.SOLVERS["bisection 24"](case.log_p_BV, case.log_q_BV, eps)
    assert solver_bench.accuracy(case, eps, beta)[0] < 1e-4
    off, over, binding = solver_bench.accuracy(case, eps, 1.01 * beta)
    assert off == over == pytest.approx(0.0201, rel=0.05)
    assert binding == 3


def test_rollout_compares_like_with_like(tiny_setting):
    result = rollout_bench.run(tiny_setting, repeats=1)
    rows = {line.what: line for line in result.tables[0].rows}
    assert list(rows) == list(rollout_bench.AGAINST)
    assert {name: tuple(line.ratios) for name, line in rows.items()} == rollout_bench.AGAINST
    for line in rows.values():
        assert line.figure.low <= line.figure.median <= line.figure.high
        assert 1 <= line.notes["tokens_a_row"] <= line.notes["longest_row"] <= 8


def test_step_splits_into_phases_and_leaves_the_student_as_it_is(tiny_setting):
    network = tiny_setting.pair.student.network
    before = [parameter.detach().clone() for parameter in network.parameters()]
    result = step_bench.run(tiny_setting, repeats=2)
    rows = {line.what: line.figure for line in result.tables[0].rows}
    assert list(rows) == [f"{phase}, {arm}" for phase in step_bench.PHASES for arm in ("vanilla", "TRB")]
    assert rows["scoring, vanilla"].low > 0
    assert rows["scoring, TRB"].high == 0  # the rollout has scored its tokens already
    for old, new in zip(before, network.parameters(), strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=1e-9)


def test_text_and_json_say_the_same(tiny_setting, monkeypatch, capsys):
    result = step_bench.run(tiny_setting, repeats=1)
    monkeypatch.setattr(step_bench, "run", lambda: result)
    run_bench("step")
    text = capsys.readouterr().out
    run_bench("step", as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["bench"] == "step"
    assert text.startswith("bench step: ")
    assert found["hardware"]["cpu"] in text.splitlines()[0]
    (table,) = found["tables"]
    assert (table["unit"], table["repeats"]) == ("seconds", 1)
    for line in table["rows"]:
        assert line["what"] in text
        assert all(math.isfinite(line[key]) for key in ("median", "low", "high"))
