"""The results table: layout, rules, what is missing, published rows, code versions, and the JSON beside it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.report.synthetic import SETS, TEN_ARMS, write_store
from trb_lab.errors import UsageError
from trb_lab.report.code_flags import FLAG, run_versions, with_code_flags
from trb_lab.report.judging import MARK
from trb_lab.report.render import to_csv, to_html, to_markdown
from trb_lab.report.results import results_table
from trb_lab.report.sidecar import to_sidecar
from trb_lab.report.sources import Source, open_sources
from trb_lab.report.stats import mean, t_interval
from trb_lab.report.tables import Cell, Table
from trb_lab.spec.report import ReportSpec, TableBlock
from trb_lab.store.identity import canonical_json
from trb_lab.store.run_dir import Store, read_json, write_json

SOURCES = {"large": {"sweep": "all", "label": "L"}, "small": {"sweep": "few", "label": "S: 0.6B"}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """`all`: ten arms, three seeds, item scores, one failed run; `few`: two of its arms, and SFT far better."""
    root: Path = tmp_path_factory.mktemp("results") / "runs"
    options: dict[str, Any] = {"steps": 30, "items": True, "missing": ()}
    write_store(root, name="few", arms={"opd": {}, "sft": {}}, failed=(), effects={"sft": 0.3}, **options)
    (root / "trials").rename(root / "kept")  # runs have the same names in both sweeps
    made = write_store(root, name="all", arms=TEN_ARMS, failed=(4,), **options)
    plan = read_json(made.sweep("few").plan)
    for trial in plan["trials"]:
        (root / "kept" / trial["run_id"]).rename(root / "trials" / f"few-{trial['run_id']}")
        trial["run_id"] = f"few-{trial['run_id']}"
    write_json(made.sweep("few").plan, plan)
    return made


def made(store: Store, sources: dict[str, Any] | None = None, **block: Any) -> tuple[Table, list[Source]]:
    body = {"kind": "table", "table": "results", **block}
    spec = ReportSpec.model_validate(
        {"name": "r", "title": "t", "sources": sources or SOURCES, "blocks": [body]}
    )
    opened = list(open_sources(store, spec).values())
    assert isinstance(spec.blocks[0], TableBlock)
    return results_table(opened, spec.blocks[0], spec), opened


def cell(table: Table, row: str, column: str) -> Cell:
    return next(r for r in table.rows if r.title == row).cells[table.columns.index(column)]


def test_sources_stand_side_by_side_and_arms_follow_the_sweep(store: Store) -> None:
    table, _ = made(store)
    per_source = ["Avg", *SETS, "difference", "seeds", "tried"]
    assert table.columns == [f"{label}: {c}" for label in ("L", "S: 0.6B") for c in per_source]
    assert table.groups == [("L", 7), ("S: 0.6B", 7)]
    assert table.short_columns == per_source * 2
    assert [r.title for r in table.rows] == [a["label"] for a in TEN_ARMS.values()]
    assert cell(table, "Veto", "S: 0.6B: Avg").note == "not in this sweep"
    assert cell(table, "Veto", "S: 0.6B: hard").text == "–"
    assert cell(table, "TRB", "L: Avg").note == "failed 1/18"
    assert cell(table, "TRB", "L: tried").text == "18"


@pytest.mark.parametrize("rule", ["paper", "fair", "final"])
def test_scores_are_the_rules_own_with_their_runs(store: Store, rule: str) -> None:
    table, sources = made(store, rule=rule)
    for arm in sources[0].arms:
        chosen = {"paper": arm.paper, "fair": arm.fair}.get(rule)
        scores = chosen.scores["mean"] if chosen else arm.final
        expected = t_interval(list(scores.values()))
        found = cell(table, arm.label, "L: Avg")
        assert (found.value, found.half_width) == pytest.approx((expected.mean, expected.half_width))
        runs = {run for s in arm.settings for run in s.run_ids.values()}
        assert set(found.run_ids) <= runs
        if rule == "final":
            by_set = [s.scores["hard"][seed] for s in arm.scored for seed in arm.final]
            assert cell(table, arm.label, "L: hard").value == pytest.approx(mean(by_set))
            assert len(found.run_ids) == len(by_set)
        if rule == "paper":
            assert len(found.run_ids) == len(scores)
    assert ("L: tried" in table.columns) == (rule != "final")


def test_differences_are_paired_marked_and_corrected_together(store: Store) -> None:
    table, sources = made(store, rule="final")
    opd, sft = (next(a for a in sources[1].arms if a.name == n) for n in ("opd", "sft"))
    found = cell(table, "SFT warmup", "S: 0.6B: difference")
    assert found.value == pytest.approx(mean(sft.final[s] - opd.final[s] for s in range(3)))
    assert found.mark == MARK
    assert set(found.run_ids) == set(opd.final_runs + sft.final_runs)
    assert cell(table, "Vanilla OPD", "L: difference").text == "–"
    assert any("10 comparisons (Holm)" in n for n in table.notes)
    assert any("2000 draws" in n for n in table.notes)
    assert any("L: Power: the difference between an arm and the reference" in n for n in table.notes)


def test_without_draws_differences_are_students(store: Store) -> None:
    block = {"kind": "table", "table": "results", "rule": "final"}
    spec = ReportSpec.model_validate(
        {
            "name": "r",
            "title": "t",
            "sources": {"s": {"sweep": "few"}},
            "blocks": [block],
            "statistics": {"bootstrap_samples": 0, "level": 0.1},
        }
    )
    sources = list(open_sources(store, spec).values())
    assert isinstance(spec.blocks[0], TableBlock)
    table = results_table(sources, spec.blocks[0], spec)
    opd, sft = sources[0].arms
    expected = t_interval([sft.final[s] - opd.final[s] for s in range(3)], 0.1)
    assert cell(table, "sft", "difference").half_width == pytest.approx(expected.half_width)
    assert any("90 % interval" in n for n in table.notes)


def test_rows_and_columns_are_chosen_and_ordered(store: Store) -> None:
    table, _ = made(store, rows=["trb", "opd"], columns=["hard", "mean"])
    assert [r.title for r in table.rows] == ["TRB", "Vanilla OPD"]
    assert table.short_columns == ["hard", "Avg"] * 2
    with pytest.raises(UsageError, match="there is no arm 'unheard'"):
        made(store, rows=["trb", "unheard"])
    with pytest.raises(UsageError, match="Did you mean 'hard'"):
        made(store, columns=["hrd"])


def published(**values: dict[str, float]) -> dict[str, Any]:
    return {"label": "Paper, table 1", "rows": [{"arm": "trb", "values": values}]}


def test_published_numbers_stand_only_below_their_own_sets(store: Store) -> None:
    ours = {"mean": 33.2, "easy": 60.0, "medium": 30.0, "hard": 9.1}
    theirs = {"mean": 44.4, "gsm8k": 70.1}
    table, _ = made(store, published=published(large=ours, small=theirs))
    row = table.rows[-1]
    assert (row.title, row.kind) == ("TRB (published)", "published")
    assert cell(table, row.title, "L: Avg").text == "33.2"
    assert all(c.text == "–" for c in row.cells[7:])
    assert any("no numbers for S: 0.6B" in n for n in table.notes)
    part, _ = made(store, published=published(large={"mean": 33.2, "hard": 9.1}))
    assert cell(part, row.title, "L: Avg").text == "–"
    assert cell(part, row.title, "L: hard").text == "9.1"
    none, _ = made(store, published=published(small=theirs))
    assert not any(r.kind == "published" for r in none.rows)
    assert any("nothing of Paper, table 1 is shown" in n for n in none.notes)
    with pytest.raises(UsageError, match="Did you mean 'large'"):
        made(store, published=published(larg=ours))


def test_mixed_code_versions_are_flagged_where_they_are(store: Store, tmp_path: Path) -> None:
    table, sources = made(store, rule="paper")
    versions = run_versions(sources)
    assert with_code_flags(table, versions) == table
    other = {r: "0.2.0+gabc" if r.startswith("few-sft") else v for r, v in versions.items()}
    flagged = with_code_flags(table, other)
    small = [c for c in table.columns if c.startswith("S: 0.6B")]
    assert flagged.flags == dict.fromkeys(small, FLAG)
    assert "0.1.0+ge4144b8a (3 runs), 0.2.0+gabc (3 runs)" in flagged.notes[-1]
    for text in (to_html(flagged, "t"), to_markdown(flagged)):
        assert f"difference{FLAG}" in text
    assert MARK in to_csv(made(store, rule="final")[0])


def test_the_json_names_every_run_and_what_it_is(store: Store) -> None:
    table, sources = made(store, rule="paper")
    by_name = {s.name: s for s in sources}
    text = to_sidecar(table, "results", by_name)
    assert text == to_sidecar(table, "results", by_name)
    found = json.loads(text)
    assert len(found["cells"]) == len(table.rows) * len(table.columns)
    first = found["cells"][0]
    assert (first["row"], first["column"], first["value"]) == (
        "Vanilla OPD",
        "L: Avg",
        pytest.approx(table.rows[0].cells[0].value),
    )
    run_id = first["runs"][0]
    run = found["runs"][run_id]
    assert {u["arm"] for u in run["used_as"]} == {"opd"}
    assert (run["state"], run["code_version"]) == ("completed", "0.1.0+ge4144b8a")
    assert run["config_sha256"] is None  # the identity of made-up runs is empty
    write_json(store.trial(run_id).config, {"identity": {"version": 2, "spec": {"lr": 0.001}}})
    reopened = {s.name: s for s in made(store, rule="paper")[1]}
    again = json.loads(to_sidecar(table, "results", reopened))["runs"][run_id]["config_sha256"]
    assert again == hashlib.sha256(canonical_json({"spec": {"lr": 0.001}, "version": 2}).encode()).hexdigest()
    assert {r for c in found["cells"] for r in c["runs"]} == set(found["runs"])
    assert found["statistics"]["correction"] == "holm"
