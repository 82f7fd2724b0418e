"""Labels, titles and values as people may write them, and which setting stands for the reference."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.report.synthetic import write_store
from trb_lab.report import build_report
from trb_lab.report.collect import collect
from trb_lab.report.plot_curves import drawn_settings
from trb_lab.report.plot_learning import learning_figure
from trb_lab.report.plot_request import Request
from trb_lab.report.plot_venue import style
from trb_lab.report.render import code_span
from trb_lab.report.settings import Setting, reference_setting, settings_of
from trb_lab.report.setup_facts import changed_settings
from trb_lab.report.tables import score_table
from trb_lab.store.run_dir import read_json, write_json

NAME = "kl_budget"


def test_a_label_that_looks_like_mathematics_is_plain_text(tmp_path: Path) -> None:
    arms = {
        "opd": {"label": r"OPD $\frac{$"},
        "trb": {"label": r"TRB $\eps$", "grid": {"warmup.kl_budget": [0.1]}},
    }
    store = write_store(tmp_path, arms=arms, seeds=(0, 1), failed=(), missing=())
    paths = build_report(store, NAME)
    assert r"TRB $\eps$" in paths["page"].read_text()
    assert (paths["page"].parent / "figures" / "trust_region.svg").exists()
    svg = (paths["page"].parent / "figures" / "trust_region.svg").read_text()
    assert "mathdefault" not in svg  # matplotlib notes each text that it draws in a comment


def test_arms_with_the_same_label_keep_their_rows(tmp_path: Path) -> None:
    arms = {
        "opd": {"label": "same"},
        "teacher_forced": {"label": "same"},
        "trb": {"label": "TRB", "grid": {"warmup.kl_budget": [0.1]}},
    }
    store = write_store(tmp_path, arms=arms, seeds=(0, 1), failed=(), missing=())
    data = collect(store, NAME)
    settings = settings_of(data)
    assert [s.title for s in settings] == ["same (opd)", "same (teacher_forced)", "TRB kl_budget=0.1"]
    assert list(changed_settings(data, settings)) == [s.key for s in settings]
    titles = [r.title for r in score_table(data, settings).rows]
    assert len(titles) == len(set(titles)) == 5
    told = build_report(store, NAME)["markdown"].read_text().split("## What each setting changes")[1]
    assert "- same (opd): " in told
    assert "- same (teacher\\_forced): " in told


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("a = 1", "`a = 1`"),
        ("a `b` c", "``a `b` c``"),
        ("``x`", "``` ``x` ```"),
        ("one\n\n# two", "`one\\n\\n# two`"),
    ],
)
def test_a_code_span_holds_whatever_it_is_given(text: str, span: str) -> None:
    assert code_span(text) == span


@pytest.mark.parametrize("lower", [None, 0, 1])
def test_curves_and_table_have_one_reference(tmp_path: Path, lower: int | None) -> None:
    """The second setting of the reference arm is drawn as any other, also where it scored higher."""
    arms = {"trb": {"grid": {"warmup.kl_budget": [0.05, 0.1]}}, "teacher_forced": {}}
    store = write_store(tmp_path, arms=arms, failed=(), missing=())
    plan = read_json(store.sweep(NAME).plan) or {}
    plan["spec"]["report"]["reference"] = "trb"
    write_json(store.sweep(NAME).plan, plan)
    data = collect(store, NAME)
    keys = ["trb: kl_budget=0.05", "trb: kl_budget=0.1"]
    if lower is not None:
        runs = {s.key: set(s.run_ids.values()) for s in settings_of(data)}[keys[lower]]
        data.trials.loc[data.trials["run_id"].isin(runs), "score_mean"] -= 0.3
    settings = settings_of(data)
    reference = reference_setting(settings)
    assert reference is not None
    assert reference.key == keys[0]
    assert [s.key for s in settings if s.is_reference] == [keys[0]]
    assert drawn_settings(data, settings)[0].key == keys[0]
    assert [r.kind for r in score_table(data, settings).rows[2:]] == ["baseline", "arm", "arm"]
    with style():
        figure = learning_figure(data, settings, Request(tmp_path, "learning_curves"))
    assert figure is not None
    with open(tmp_path / figure.csv) as f:
        gaps = {row["setting"] for row in csv.DictReader(f) if row["value"] == "difference"}
    assert gaps == {keys[1], "teacher_forced"}


@pytest.mark.parametrize("state", ["failed", "cancelled", "interrupted", "running", "missing"])
def test_cells_say_what_became_of_a_trial(state: str) -> None:
    """Cancelled is no failure, and an interrupted trial does not run."""
    setting = Setting(
        key="trb",
        arm="trb",
        title="TRB",
        kind="trb",
        kl_budget=0.1,
        horizon_steps=25,
        run_ids={0: "a", 1: "b"},
        states={0: "completed", 1: state},
        scores={},
        is_reference=False,
    )
    assert setting.problems == f"{state} 1/2"
