"""Trials and evaluation sets that this sweep shares with others, or with itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.report.synthetic import SETS, write_store
from trb_lab.report import build_report
from trb_lab.report.collect import CURVE_COLUMNS, CURVE_SCORE, SweepData, collect
from trb_lab.report.narrative import counts, findings, power_note, shared_rows
from trb_lab.report.plot_curves import reference_score
from trb_lab.report.settings import differences, distinct, settings_of
from trb_lab.report.setup_facts import changed_settings
from trb_lab.report.tables import score_table
from trb_lab.store.run_dir import RunDir, Store, read_json, write_json

NAME = "kl_budget"
PRINTS = {name: f"print-of-{name}" for name in SETS}
TWO_ARMS: dict[str, dict[str, Any]] = {"opd": {"label": "vanilla OPD"}, "teacher_forced": {"label": "forced"}}


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = read_json(path)
    assert value is not None
    change(value)
    write_json(path, value)


def edit_sets(run: RunDir, change: Callable[[dict[str, Any]], None]) -> None:
    edit(run.result, lambda result: change(result["final"]["sets"]))


def with_fingerprints(store: Store) -> Store:
    """The plan and every result say what their sets hold."""

    def name_sets(plan: dict[str, Any]) -> None:
        for trial in plan["trials"]:
            trial["eval_sets"] = dict(PRINTS)

    def print_entries(sets: dict[str, Any]) -> None:
        for name, entry in sets.items():
            entry["fingerprint"] = PRINTS[name]

    edit(store.sweep(NAME).plan, name_sets)
    plan = read_json(store.sweep(NAME).plan) or {}
    for run in [*store.trials(), *(store.reference(r["run_id"]) for r in plan["references"])]:
        edit_sets(run, print_entries)
    return store


def two_arms(root: Path, **more: Any) -> Store:
    return write_store(root, arms=TWO_ARMS, failed=(), missing=(), **more)


def foreign(sets: dict[str, Any]) -> None:
    sets["foreign"] = {**sets["easy"], "pass_at_1": 0.0, "fingerprint": "other"}


def means(data: SweepData) -> dict[str, float]:
    return dict(zip(data.trials["run_id"], data.trials["score_mean"], strict=True))


@pytest.mark.parametrize("prints", [False, True])
def test_sets_of_other_sweeps_change_nothing(tmp_path: Path, prints: bool) -> None:
    store = two_arms(tmp_path)
    if prints:
        with_fingerprints(store)
    before = collect(store, NAME)
    teacher = store.reference("teacher-00000000a0")
    for run in (store.trials()[0], teacher):
        edit_sets(run, foreign)
        edit(run.result, lambda result: result["final"].update(mean_pass_at_1=0.01))
    after = collect(store, NAME)
    assert after.sets == after.mean_sets == list(SETS)
    assert means(after) == means(before)
    assert reference_score(after, "teacher") == reference_score(before, "teacher")
    rows = score_table(after, settings_of(after)).rows
    assert [c.text for r in rows for c in r.cells] == [
        c.text for r in score_table(before, settings_of(before)).rows for c in r.cells
    ]


def test_an_entry_is_known_by_its_fingerprint_whatever_its_key(tmp_path: Path) -> None:
    store = with_fingerprints(two_arms(tmp_path))
    before = collect(store, NAME)
    moved, absent = store.trials()[:2]

    def move(sets: dict[str, Any]) -> None:
        sets["easy@print-of-easy"] = sets.pop("easy")
        sets["easy"] = {**sets["medium"], "pass_at_1": 0.0, "fingerprint": "other"}

    edit_sets(moved, move)
    edit_sets(absent, lambda sets: sets["easy"].update(fingerprint="other"))
    after = collect(store, NAME)
    assert means(after)[moved.run_id] == means(before)[moved.run_id]
    assert math.isnan(means(after)[absent.run_id])
    assert after.sets == list(SETS)


def test_the_mean_covers_what_all_settings_have(tmp_path: Path) -> None:
    store = with_fingerprints(two_arms(tmp_path))

    def more_for_one_arm(plan: dict[str, Any]) -> None:
        for trial in plan["trials"]:
            trial["eval_sets"]["hard"] = "other" if trial["arm"] == "opd" else PRINTS["hard"]

    edit(store.sweep(NAME).plan, more_for_one_arm)
    data = collect(store, NAME)
    assert data.sets == ["easy", "medium", "hard@other", "hard@print-of-hard"]
    assert data.mean_sets == ["easy", "medium"]
    run = store.trials()[0]
    sets = json.loads(run.result.read_text())["final"]["sets"]
    expected = (sets["easy"]["pass_at_1"] + sets["medium"]["pass_at_1"]) / 2
    assert means(data)[run.run_id] == pytest.approx(expected)
    notes = " ".join(score_table(data, settings_of(data)).notes)
    assert "every setting has (easy, medium)" in notes
    build_report(store, NAME)


def test_nothing_is_compared_without_a_common_set(tmp_path: Path) -> None:
    store = with_fingerprints(two_arms(tmp_path))

    def disjoint(plan: dict[str, Any]) -> None:
        for trial in plan["trials"]:
            trial["eval_sets"] = {k: f"{trial['arm']}-{k}" for k in SETS}

    edit(store.sweep(NAME).plan, disjoint)
    paths = build_report(store, NAME)
    assert "no evaluation set in common" in paths["table"].read_text()
    assert collect(store, NAME).mean_sets == []


def test_curves_average_the_plans_sets_and_hold_no_more_than_is_read(tmp_path: Path) -> None:
    store = two_arms(tmp_path)
    run = store.trials()[0]
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    for line in lines:
        if "eval/mean/pass_at_1" in line:
            line |= {"eval/foreign/pass_at_1": 0.0, "eval/mean/pass_at_1": 0.01}
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = collect(store, NAME)
    curve = data.curves[data.curves["run_id"] == run.run_id].set_index("step")[CURVE_SCORE]
    assert curve[9] == pytest.approx(sum(lines[9][f"eval/{s}/pass_at_1"] for s in SETS) / 3)
    assert math.isnan(curve[8])
    assert set(data.curves.columns) <= {"run_id", "step", CURVE_SCORE, *CURVE_COLUMNS}


@pytest.mark.parametrize("ours", [False, True])
def test_a_curve_of_another_set_of_the_same_name_is_left_out(tmp_path: Path, ours: bool) -> None:
    """Which of two sets the name meant during training is told by the last line of the metrics."""
    store = with_fingerprints(two_arms(tmp_path))
    run = store.trials()[0]
    last = json.loads(run.metrics.read_text().splitlines()[-1])

    def add_another(sets: dict[str, Any]) -> None:
        trained = {"pass_at_1": last["eval/easy/pass_at_1"], "stderr": last.get("eval/easy/stderr")}
        mine, other = sets["easy"], {**sets["easy"], "pass_at_1": 0.01, "fingerprint": "other"}
        (mine if ours else other).update(trained)
        sets["easy"], sets["easy@print-of-easy"] = other, mine

    edit_sets(run, add_another)
    data = collect(store, NAME)
    curve = data.curves[data.curves["run_id"] == run.run_id][CURVE_SCORE]
    assert curve.notna().any() == ours


def planned_again(store: Store, arm: str, label: str | None = None) -> None:
    """A further arm whose trials are those of `arm`."""

    def add(plan: dict[str, Any]) -> None:
        again = [{**t, "arm": "again", "setting": "kl_budget=0"} for t in plan["trials"] if t["arm"] == arm]
        plan["trials"] += again
        plan["spec"]["arms"]["again"] = {"label": label or "again"}

    edit(store.sweep(NAME).plan, add)


def test_a_setting_of_the_references_own_runs_is_no_comparison(tmp_path: Path) -> None:
    store = two_arms(tmp_path)
    before = collect(store, NAME)
    told = findings(before, settings_of(before))
    planned_again(store, "opd")
    data = collect(store, NAME)
    settings = settings_of(data)
    assert findings(data, settings) == told
    assert "1 setting compared" in " ".join(told).replace("\u00a0", " ")
    assert power_note(differences(settings)) == power_note(differences(settings_of(before)))
    assert score_table(data, settings).rows[-1].cells[-2].text == "same runs"
    assert counts(data)["planned"] == counts(data)["completed"] == 6
    assert shared_rows(data) == "9 rows, 6 runs"
    assert shared_rows(before) == ""
    paths = build_report(store, NAME)
    for what in ("page", "markdown", "table"):
        assert "9 rows, 6 runs" in paths[what].read_text()


def test_settings_of_the_same_runs_are_tested_once(tmp_path: Path) -> None:
    store = two_arms(tmp_path)
    planned_again(store, "teacher_forced")
    settings = settings_of(collect(store, NAME))
    assert [s.key for s in distinct(settings)] == ["opd", "teacher_forced"]


def test_settings_keep_their_own_words_where_they_share_a_trial(tmp_path: Path) -> None:
    store = two_arms(tmp_path)
    planned_again(store, "opd")

    def other_words(plan: dict[str, Any]) -> None:
        plan["trials"][-1]["spec"] = {**plan["trials"][-1]["spec"], "note": "budget 0"}

    edit(store.sweep(NAME).plan, other_words)
    data = collect(store, NAME)
    changed = changed_settings(data, settings_of(data))
    assert changed["again: kl_budget=0"]["note"] == "budget 0"
    assert "note" not in changed["opd"]
