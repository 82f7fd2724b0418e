"""Reports of sweeps with every kind of arm: the selection table, figures, horizons."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.report.synthetic import SETS, TEN_ARMS, write_store
from trb_lab.report import build_report
from trb_lab.report.arms import Arm, arms_of
from trb_lab.report.collect import MEAN, collect
from trb_lab.report.items import collect_items
from trb_lab.report.narrative import findings
from trb_lab.report.plot_budget import bars, limits, series_of
from trb_lab.report.plot_curves import drawn_settings, early_steps, line_styles
from trb_lab.report.selection_table import optimism, selection_table
from trb_lab.report.settings import settings_of
from trb_lab.report.stats import Interval, mean
from trb_lab.report.tables import health_table
from trb_lab.store.run_dir import Store, read_json, write_json

Built = tuple[Store, dict[str, Path]]
NAME = "baselines"


def arms_in(store: Store, name: str = NAME) -> list[Arm]:
    data = collect(store, name)
    return arms_of(data, settings_of(data), collect_items(store, data))


def test_each_arm_is_one_row_and_tries_its_grid_times_its_checkpoints(ten_arms: Built) -> None:
    data = collect(ten_arms[0], NAME)
    arms = arms_in(ten_arms[0])
    table = selection_table(data, arms)
    assert table is not None
    assert [r.title for r in table.rows] == [a["label"] for a in TEN_ARMS.values()]
    tried = {a.name: a.paper_tried for a in arms}
    assert tried == {a.name: a.fair_tried for a in arms}
    assert (tried["opd"], tried["trb"], tried["skd"]) == (3, 18, 6)
    assert sum(n for _, n in table.groups) == len(table.columns) == len(table.rows[0].cells)
    assert table.columns[:4] == ["paper: Avg", *(f"paper: {s}" for s in SETS)]
    assert not any(c.bold for r in table.rows for c in r.cells)


def test_the_papers_score_is_the_best_checkpoint_of_the_metrics(ten_arms: Built) -> None:
    store = ten_arms[0]
    plan = read_json(store.sweep(NAME).plan)
    found: dict[tuple[str, int], list[float]] = {}
    for trial in plan["trials"]:
        if trial["arm"] == "skd":
            for text in store.trial(trial["run_id"]).metrics.read_text().splitlines():
                line = json.loads(text)
                if "eval/mean/pass_at_1" in line:
                    found.setdefault((trial["setting"], line["step"] + 1), []).append(
                        line["eval/mean/pass_at_1"]
                    )
    best = max(found, key=lambda k: mean(found[k]))
    arm = next(a for a in arms_in(store) if a.name == "skd")
    assert arm.paper is not None
    assert arm.describe(arm.paper) == f"{best[0]}, {best[1]} updates"
    assert mean(arm.paper.scores[MEAN].values()) == pytest.approx(mean(found[best]))


def test_final_is_the_mean_over_settings_and_seeds_that_all_have(ten_arms: Built) -> None:
    data = collect(ten_arms[0], NAME)
    arm = next(a for a in arms_in(ten_arms[0]) if a.name == "fixed_epsilon")
    rows = data.trials[data.trials["arm"] == "fixed_epsilon"]
    assert arm.final == pytest.approx(rows.groupby("seed")["score_mean"].mean().to_dict())
    trb = next(a for a in arms_in(ten_arms[0]) if a.name == "trb")
    assert set(trb.final) == {0}  # seed 1 of one setting never began
    assert trb.problems == "missing 1/12"


def test_csv_and_text_hold_both_rules(ten_arms: Built) -> None:
    with open(ten_arms[1]["selection_csv"]) as f:
        rows = {r["title"]: r for r in csv.DictReader(f)}
    arm = next(a for a in arms_in(ten_arms[0]) if a.name == "sft")
    assert arm.paper is not None
    assert arm.fair is not None
    expected = mean(arm.paper.scores[MEAN].values()), mean(arm.fair.scores[MEAN].values())
    row = rows["SFT warmup"]
    assert (float(row["paper: Avg"]), float(row["fair: Avg"])) == pytest.approx(expected, rel=1e-5)
    assert float(row["fair: optimism"]) == pytest.approx(expected[0] - expected[1], abs=1e-6)
    assert optimism(arm.paper, arm.fair) == pytest.approx(expected[0] - expected[1])
    text = ten_arms[1]["table"].read_text()
    assert max(map(len, text.splitlines())) <= 120
    assert "Two selection rules" in text
    page = ten_arms[1]["page"].read_text()
    assert '<th scope="colgroup" colspan="5">paper&#x27;s rule</th>' in page
    for target in ("selection", "problems", "cost", "health"):
        assert f'<h2 id="{target}">' in page


def test_runs_without_item_scores_are_compared_at_the_final_checkpoint(tmp_path: Path) -> None:
    arms: dict[str, dict[str, Any]] = {"opd": {}, "veto": {"label": "Veto"}}
    store = write_store(tmp_path, arms=arms, steps=20, failed=(), missing=())
    data = collect(store, "kl_budget")
    found = arms_in(store, "kl_budget")
    table = selection_table(data, found)
    assert table is not None
    assert [a.fair for a in found] == [None, None]
    assert all(a.paper_tried == 2 for a in found)
    row = dict(zip(table.columns, table.rows[1].cells, strict=True))
    assert row["fair: Avg"].note == "no item scores"
    assert row["fair: vs opd"].text.endswith(" (final)")
    gap = mean(found[1].final.values()) - mean(found[0].final.values())
    assert row["fair: vs opd"].value == pytest.approx(gap)
    assert "opd, Veto" in table.notes[-1]
    paths = build_report(store, "kl_budget")
    assert not {"problems_csv", "cost_csv"} & set(paths)
    assert not (paths["page"].parent / "problems.csv").exists()


def test_one_seed_gives_no_interval_no_winner_and_a_warning(tmp_path: Path) -> None:
    arms: dict[str, dict[str, Any]] = {"opd": {}, "sft": {}}
    store = write_store(
        tmp_path, arms=arms, seeds=(0,), steps=30, items=True, failed=(), missing=(), effects={"sft": 0.3}
    )
    data = collect(store, "kl_budget")
    found = arms_in(store, "kl_budget")
    table = selection_table(data, found)
    assert table is not None
    assert not any(c.half_width for r in table.rows for c in r.cells)
    assert any("one finished seed" in n for n in table.notes)
    told = " ".join(findings(data, settings_of(data), found))
    assert "Under the fair rule no arm can be told from opd" in told


def test_a_large_difference_is_told_under_the_fair_rule(tmp_path: Path) -> None:
    arms: dict[str, dict[str, Any]] = {"opd": {}, "sft": {"label": "SFT"}, "veto": {}}
    store = write_store(
        tmp_path, arms=arms, steps=30, items=True, failed=(), missing=(), effects={"sft": -0.35}
    )
    data = collect(store, "kl_budget")
    told = " ".join(findings(data, settings_of(data), arms_in(store, "kl_budget"))).replace("\u00a0", " ")
    assert (
        "Under the fair rule, different from opd at the 5 % level, corrected for 2 arms (Holm): SFT by -"
        in told
    )


def test_horizons_are_what_each_arm_says_of_itself(ten_arms: Built) -> None:
    data = collect(ten_arms[0], NAME)
    horizons = dict(zip(data.trials["kind"], data.trials["horizon_steps"], strict=True))
    assert horizons["opd"] == horizons["sft"] == 0
    assert all(horizons[k] == 30 for k in ("fixed_epsilon", "skd", "veto"))
    assert all(horizons[k] == 20 for k in ("trb", "saki", "teacher_forced", "mixture", "temperature"))
    settings = settings_of(data)
    assert early_steps(settings) == 20
    rows = {r.title: r for r in health_table(data, settings).rows}
    assert rows["SKD top_k=15"].cells[3].text == "–"
    assert rows["SKD top_k=15"].cells[2].text != "–"
    assert rows["SFT warmup"].cells[2].text == "–"


def test_an_arm_that_is_not_installed_here_is_reported_all_the_same(tmp_path: Path) -> None:
    arms: dict[str, dict[str, Any]] = {"opd": {}, "mixture": {"label": "Foreign"}, "veto": {}}
    store = write_store(tmp_path, arms=arms, seeds=(0, 1), steps=20, failed=(), missing=())
    plan = read_json(store.sweep("kl_budget").plan)
    for trial in plan["trials"]:
        if trial["arm"] == "mixture":
            trial["spec"]["warmup"] = {"kind": "foreign", "steps": 7, "strength": 2.0}
        if trial["arm"] == "veto":
            trial["spec"]["warmup"] = {"kind": "other", "steps": None}
    write_json(store.sweep("kl_budget").plan, plan)
    data = collect(store, "kl_budget")
    assert data.trials["horizon_steps"].tolist() == [0, 0, 7, 7, 0, 0]
    assert "Foreign" in build_report(store, "kl_budget")["page"].read_text()


def test_budgets_that_are_annealed_and_fixed_ones_have_lines_of_their_own(ten_arms: Built) -> None:
    data = collect(ten_arms[0], NAME)
    series = series_of(data, settings_of(data))
    assert list(series) == [
        "TRB, horizon 10 steps",
        "TRB, horizon 20 steps",
        "Fixed-eps, whole run",
        "SAKI, horizon 20 steps",
    ]
    with open(ten_arms[1]["page"].parent / "figures" / "trust_region.csv") as f:
        drawn = {row["setting"].partition(":")[0] for row in csv.DictReader(f)}
    assert drawn == {"trb", "opd"}


def test_all_ten_arms_are_drawn_and_look_different(ten_arms: Built) -> None:
    data = collect(ten_arms[0], NAME)
    chosen = drawn_settings(data, settings_of(data))
    assert [s.arm for s in chosen] == list(TEN_ARMS)
    styles = line_styles(chosen)
    assert len({s.colour for s in styles.values()}) == len({s.marker for s in styles.values()}) == 10


def test_no_interval_leaves_the_axes() -> None:
    intervals = [
        Interval(0.9, 0.7, 2),
        Interval(0.5, 0.05, 3),
        Interval(0.2, None, 1),
        Interval(0.02, 0.1, 3),
    ]
    rows = [{"pass_at_1": v.mean, "half_width": v.half_width, "num_seeds": v.n} for v in intervals]
    low, high = limits(rows)
    below, above = bars(intervals)
    for v, down, up in zip(intervals, below, above, strict=True):
        assert low < 100 * v.mean - down
        assert 100 * v.mean + up < high
    assert below == pytest.approx([70, 5, 0, 2])
    assert above == pytest.approx([10, 5, 0, 10])
