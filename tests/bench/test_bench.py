"""What the benchmarks print, and that what they time is what they say. No clock is tested."""

from __future__ import annotations

import json
import math

import pytest
import torch

from trb_lab.bench import BENCHES, run_bench
from trb_lab.bench import loss_memory as loss_memory_bench
from trb_lab.bench import rollout as rollout_bench
from trb_lab.bench import step as step_bench
from trb_lab.bench.measure import row, take_turns
from trb_lab.bench.options import BUNDLED, TINY, Options, numbers
from trb_lab.bench.rollout_bundled import OURS, PLAIN, names
from trb_lab.cli import main
from trb_lab.errors import UsageError


def test_without_a_name_they_are_listed(capsys):
    run_bench(None)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(BENCHES)


def test_an_unknown_name_is_answered_with_the_nearest_one(capsys):
    with pytest.raises(UsageError, match=r"'solvr'.*Did you mean 'solver'\? .*rollout, step"):
        run_bench("solvr")
    assert main(["bench", "solvr"]) == 2
    assert "Did you mean 'solver'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "options", "answer"),
    [
        ("rollout", Options(pair="qwen3-1p7-8b"), r"Did you mean 'qwen3-1p7b-8b'\? There are: bundled, "),
        ("solver", Options(rows=4), r"takes no --rows. It takes: --eps, --repeats"),
        ("rollout", Options(rows=0), r"--rows 0: give a whole number"),
        ("rollout", Options(eps=(0.0,)), r"--eps 0: give a budget"),
        ("rollout", Options(pair=TINY, context=(5,), new_tokens=8), r"--new-tokens 8 give at least 6"),
        ("rollout", Options(pair=BUNDLED, context=(64,)), r"prompts of its own"),
        (None, Options(rows=4), r"options without a benchmark"),
    ],
)
def test_options_that_mean_nothing_are_refused(name, options, answer):
    with pytest.raises(UsageError, match=answer):
        run_bench(name, options)


def test_numbers_come_one_by_one_or_as_a_list():
    assert numbers("--context", ["1024, 4096", "512"], int) == (1024, 4096, 512)
    assert numbers("--eps", None, float) == ()
    with pytest.raises(UsageError, match=r"--eps 'small': .* --eps 0.01,0.001"):
        numbers("--eps", ["small"], float)


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


@pytest.fixture(scope="module")
def bundled_rollout():
    return rollout_bench.run(Options(pair=BUNDLED, rows=6, new_tokens=8, repeats=1))


def test_rollout_compares_like_with_like(bundled_rollout):
    rows = {line.what: line for line in bundled_rollout.tables[0].rows}
    plain, lock_step, ours = names(0.05)
    assert list(rows) == [PLAIN, OURS, plain, lock_step, ours]
    assert set(rows[ours].ratios) == {plain, lock_step, OURS}
    for line in rows.values():
        assert 1 <= line.notes["tokens_a_row"] <= line.notes["longest_row"] <= 8
    assert rows[lock_step].notes["block"] == 1
    # The block length changes no token but by rounding.
    assert rows[lock_step].notes["tokens_a_row"] == rows[ours].notes["tokens_a_row"]


def test_the_cost_model_accounts_for_the_measured_time(bundled_rollout):
    table = bundled_rollout.tables[3]
    assert [line.what for line in table.rows] == [OURS, *names(0.05)[1:]]
    for line in table.rows:
        split = [line.notes[phase] for phase in ("prefill", "drafting", "verifying", "bookkeeping")]
        assert min(split) >= 0
        assert sum(split) == pytest.approx(line.figure.median)
    vanilla, lock_step, _ = table.rows
    assert vanilla.notes["verifying_predicted"] == 0 < lock_step.notes["verifying_predicted"]
    assert lock_step.notes["rounds"] <= 8


@pytest.fixture(scope="module")
def random_rollout():
    return rollout_bench.run(Options(pair=TINY, rows=3, context=(16, 24), new_tokens=6, repeats=1))


def test_rollout_of_a_random_pair_has_all_contestants_at_each_context(random_rollout):
    assert len(random_rollout.tables) == 12
    wall = random_rollout.tables[0]
    assert [line.what for line in wall.rows] == [
        "vanilla rollout",
        "vanilla rollout + scoring",
        "TRB 0.01, lock-step",
        "TRB 0.01",
        "TRB 0.001",
        "TRB, anneal from 0.01",
    ]
    vanilla, scored = wall.rows[:2]
    assert scored.figure.median == pytest.approx(vanilla.figure.median + scored.notes["scoring"])
    assert all("vanilla rollout + scoring" in line.ratios for line in wall.rows[2:])


def test_responses_of_a_random_pair_never_end_and_the_budget_binds(random_rollout):
    for wall in random_rollout.tables[::6]:
        binding = [line.notes["budget_binds"] for line in wall.rows[2:]]
        assert all(share > 0.9 for share in binding)
        first, second = (line.notes["redraw_rate"] for line in wall.rows[3:5])
        assert first > second > 0
    model = random_rollout.tables[5]
    lock_step = next(line for line in model.rows if "lock-step" in line.what)
    assert lock_step.notes["rounds"] == 6
    assert lock_step.notes["rounds_of_a_row"] == pytest.approx(6)
    assert lock_step.notes["mean_rows"] == 3


@pytest.mark.parametrize(
    "options",
    [
        Options(pair=BUNDLED, rows=6, new_tokens=8, repeats=1),
        Options(pair=TINY, rows=2, context=(16,), new_tokens=4, repeats=1),
    ],
    ids=["bundled", "random"],
)
def test_step_splits_into_phases_and_leaves_the_student_as_it_is(options, monkeypatch):
    pairs = []
    load = step_bench.load
    monkeypatch.setattr(step_bench, "load", lambda name: pairs.append(load(name)) or pairs[0])
    before = [parameter.detach().clone() for parameter in load(options.pair).student.network.parameters()]
    result = step_bench.run(options)
    rows = {line.what: line for line in result.tables[0].rows}
    assert list(rows) == [f"{phase}, {arm}" for phase in step_bench.PHASES for arm in ("vanilla", "TRB")]
    assert rows["scoring, vanilla"].figure.low > 0
    assert rows["scoring, TRB"].figure.high == 0  # the rollout has scored its tokens already
    assert rows["total, TRB"].notes["floor"] > 0
    for old, new in zip(before, pairs[0].student.network.parameters(), strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=1e-9)


def test_shorter_chunks_of_the_loss_need_less_memory():
    result = loss_memory_bench.run(Options(pair=TINY, rows=2, context=(640,)))
    alone, body = result.tables
    megabytes = {line.what: line.figure.median for line in alone.rows}
    assert megabytes["renormalised, chunks of 256"] < megabytes["renormalised, chunks of 1,024"]
    assert megabytes["renormalised, chunks of 512"] < megabytes["full, chunks of 512"]
    for line in alone.rows:
        assert line.figure.median >= line.notes["one_chunk_of_logits"] > 0
    assert body.rows[0].figure.median > 0


def test_text_and_json_say_the_same(monkeypatch, capsys):
    options = Options(pair=TINY, rows=2, context=(16,), new_tokens=4, repeats=1)
    result = step_bench.run(options)
    monkeypatch.setattr(step_bench, "run", lambda options: result)
    run_bench("step", options)
    text = capsys.readouterr().out
    run_bench("step", options, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["bench"] == "step"
    assert text.startswith("bench step: ")
    assert found["hardware"]["cpu"] in text.splitlines()[0]
    (table,) = found["tables"]
    assert (table["unit"], table["repeats"]) == ("seconds", 1)
    assert all(remark in text for remark in [*found["remarks"], *table["remarks"]])
    for line in table["rows"]:
        assert line["what"] in text
        assert all(math.isfinite(line[key]) for key in ("median", "low", "high"))
