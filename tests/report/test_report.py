from __future__ import annotations

import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.synthetic import ARMS, write_store
from trb_lab.errors import UsageError
from trb_lab.report import build_report
from trb_lab.report.collect import collect
from trb_lab.report.narrative import counts, findings
from trb_lab.report.render import to_html, to_markdown, to_text
from trb_lab.report.settings import settings_of
from trb_lab.report.tables import score_table
from trb_lab.store.run_dir import Store

Built = tuple[Store, dict[str, Path]]
FIGURES = ["score_by_budget", "learning_curves", "trust_region", "early_rollouts"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_planned_trial_is_a_row(built: Built) -> None:
    data = collect(built[0], "kl_budget")
    assert len(data.trials) == 24
    shown = {state: count for state, count in counts(data).items() if count}
    assert shown == {"planned": 24, "completed": 22, "failed": 1, "missing": 1}
    failed = data.trials[data.trials["state"] == "failed"].iloc[0]
    assert failed["error"] == "train/loss is nan at step 20 <b>"
    assert failed["steps_done"] == 20


def test_failed_and_missing_seeds_show_in_their_cells(built: Built) -> None:
    data = collect(built[0], "kl_budget")
    rows = {r.title: r for r in score_table(data, settings_of(data)).rows}
    assert {c.note for c in rows["TRB kl_budget=0.005 steps=10"].cells[:4]} == {"failed 1/3"}
    assert {c.note for c in rows["TRB kl_budget=0.005 steps=20"].cells[:4]} == {"missing 1/3"}
    assert rows["vanilla OPD"].cells[0].note == ""


def test_a_setting_without_any_finished_seed_says_failed(tmp_path: Path) -> None:
    store = write_store(tmp_path, arms={"opd": {}, "teacher_forced": {}}, failed=(3, 4, 5), missing=())
    data = collect(store, "kl_budget")
    table = score_table(data, settings_of(data))
    row = table.rows[-1]
    assert [c.text for c in row.cells[:4]] == ["failed"] * 4
    assert "| failed |" in to_markdown(table)
    assert 'class="absent">failed' in to_html(table, "t")
    assert to_text(table).splitlines()[-1].endswith("failed")


def test_text_fits_a_terminal_whatever_the_columns(built: Built) -> None:
    assert max(map(len, built[1]["table"].read_text().splitlines())) <= 120
    data = collect(built[0], "kl_budget")
    assert max(map(len, to_text(score_table(data, settings_of(data)), width=70).splitlines())) <= 70


def test_all_files_are_there_and_every_run_id_is_in_the_page(built: Built) -> None:
    store, paths = built
    page = paths["page"].read_text()
    for trial in collect(store, "kl_budget").trials["run_id"]:
        assert trial in page
    for name in FIGURES:
        for suffix in ("svg", "png", "csv"):
            assert (paths["page"].parent / "figures" / f"{name}.{suffix}").stat().st_size > 100
        assert f"figures/{name}.svg" in paths["markdown"].read_text()


def test_page_is_self_contained_and_escapes_what_people_wrote(built: Built) -> None:
    page = built[1]["page"].read_text()
    assert not re.findall(r"https?:", page)
    assert not re.findall(r"<(?:link|img|iframe)\b|\bsrc=|@import", page)
    assert page.count("<script>") == 1  # our own; none from the question, prompts or errors
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert "nan at step 20 &lt;b&gt;" in page
    assert "<script>" not in built[1]["markdown"].read_text()


def test_ids_in_the_page_are_unique_and_links_lead_somewhere(built: Built) -> None:
    page = built[1]["page"].read_text()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    targets = re.findall(r'href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page)
    assert set(targets) <= set(ids)
    for link in re.findall(r'href="([^"#]+)"', page):
        assert (built[1]["page"].parent / link).exists()


def test_same_runs_same_bytes_also_after_the_report_is_gone(built: Built, tmp_path: Path) -> None:
    store = Store(tmp_path / "moved")
    shutil.copytree(built[0].root, store.root)
    shutil.rmtree(store.sweep("kl_budget").report)
    build_report(store, "kl_budget")
    before, after = contents(built[1]["page"].parent), contents(store.sweep("kl_budget").report)
    assert before.keys() == after.keys()
    assert [k for k in before if before[k] != after[k]] == []


def test_excerpts_stand_side_by_side_with_redrawn_tokens_marked(built: Built) -> None:
    page = built[1]["page"].read_text()
    assert page.count('<div class="pair">') == 3
    assert (
        'class="m2" title="redraw probability 0.62, student log-prob -0.50, teacher log-prob -0.20">19</span>'
        in page
    )
    assert 'class="m1"' in page
    assert "✗ wrong" in page


def test_csv_holds_the_numbers_of_the_table(built: Built) -> None:
    store, paths = built
    with open(paths["scores_csv"]) as f:
        rows = {r["title"]: r for r in csv.DictReader(f)}
    data = collect(store, "kl_budget")
    expected = data.trials[data.trials["arm"] == "opd"]["score_mean"].mean()
    assert float(rows["vanilla OPD"]["mean"]) == pytest.approx(expected, rel=1e-5)
    assert rows["TRB kl_budget=0.005 steps=10"]["mean_note"] == "failed 1/3"
    assert rows["teacher"]["kind"] == "reference"


def test_no_winner_is_named_without_significance(tmp_path: Path) -> None:
    store = write_store(tmp_path, failed=(), missing=())
    data = collect(store, "kl_budget")
    text = " ".join(findings(data, settings_of(data))).replace("\u00a0", " ")
    assert "No setting differs from vanilla OPD at the 5 % level with 3 seeds" in text
    assert "7" in text
    assert "95 % interval" in text
    assert not re.search(r"\b(best|better|winner|wins|beats)\b", text)


def test_a_large_difference_is_told_with_its_interval(tmp_path: Path) -> None:
    arms = {"opd": {"label": "vanilla OPD"}, "teacher_forced": {"label": "teacher-forced"}}
    store = write_store(tmp_path, arms=arms, failed=(), missing=(), effects={"teacher_forced": -0.2})
    data = collect(store, "kl_budget")
    text = " ".join(findings(data, settings_of(data))).replace("\u00a0", " ")
    assert re.search(
        r"Different from vanilla OPD at the 5 % level.*teacher-forced by -\d+\.\d points \(95 %", text
    )


def test_one_seed_gives_no_interval_and_no_bold(tmp_path: Path) -> None:
    store = write_store(tmp_path, seeds=(0,), failed=(), missing=())
    data = collect(store, "kl_budget")
    settings = settings_of(data)
    table = score_table(data, settings)
    assert not any(c.bold for r in table.rows for c in r.cells)
    assert "±" not in to_text(table).split("vanilla OPD", 2)[-1]
    assert any("there is no interval" in p for p in findings(data, settings))
    build_report(store, "kl_budget")


def test_partial_sweep_with_a_torn_line(tmp_path: Path) -> None:
    store = write_store(tmp_path, failed=(), missing=tuple(range(4, 24)))
    shutil.rmtree(store.reference("teacher-00000000a0").path)
    run = store.trials()[0]
    run.result.unlink()
    with open(run.metrics, "a") as f:
        f.write('{"step": 60, "train/lo')
    data = collect(store, "kl_budget")
    assert {k: n for k, n in counts(data).items() if n} == {
        "planned": 24,
        "completed": 3,
        "interrupted": 1,
        "missing": 20,
    }
    paths = build_report(store, "kl_budget")
    assert "This sweep is not finished: 21 of 24" in paths["page"].read_text()
    assert "missing" in paths["table"].read_text()


def test_a_sweep_of_which_nothing_has_begun(tmp_path: Path) -> None:
    store = write_store(tmp_path, failed=(), missing=tuple(range(24)))
    shutil.rmtree(store.root / "references")
    paths = build_report(store, "kl_budget", tmp_path / "elsewhere")
    assert paths["page"].parent == tmp_path / "elsewhere"
    assert "missing" in paths["table"].read_text()
    assert not list((tmp_path / "elsewhere" / "figures").glob("*"))


def test_mixed_code_versions_are_flagged(tmp_path: Path) -> None:
    store = write_store(tmp_path, arms={"opd": ARMS["opd"]}, failed=(), missing=())
    run = store.trials()[0]
    run.provenance.write_text('{"code": {"label": "0.1.0+g0000000000.dirty"}}')
    paths = build_report(store, "kl_budget")
    assert "Mixed code versions" in paths["page"].read_text()
    assert "0.1.0+g0000000000.dirty" in paths["markdown"].read_text()


def test_unknown_sweep_names_the_nearest_and_all(built: Built) -> None:
    with pytest.raises(UsageError, match=r"kl_bugdet.*Did you mean 'kl_budget'\?.*Sweeps here: kl_budget"):
        build_report(built[0], "kl_bugdet")


def test_a_table_of_the_reference_alone_compares_nothing(built: Built) -> None:
    data = collect(built[0], "kl_budget")
    alone = replace(data, trials=data.trials[data.trials["arm"] == data.reference_arm])
    told = findings(alone, settings_of(alone))
    assert not any("can be told from" in text or "there is no interval" in text for text in told)
