"""A report from a notebook is the command's report, with its tables as frames."""

from __future__ import annotations

from pathlib import Path

import pytest

import trb_lab as lab
from trb_lab.bench.synthetic_store import SETS, write_synthetic_store
from trb_lab.errors import UsageError
from trb_lab.store.run_dir import Store

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_synthetic_store(
        tmp_path_factory.mktemp("made") / "runs", runs=6, steps=20, seeds=2, name="made_up"
    )


def test_tables_figures_and_page(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab.report("made_up", tmp_path / "out", store=store)
    assert made.page == tmp_path / "out" / "report.html"
    assert next(iter(made.tables)) == "scores"
    scores = made.tables["scores"]
    assert set(SETS) < set(scores.columns)
    assert {path.suffix for path in made.figures.values()} <= {".png", ".svg"}
    assert all(path.is_file() for path in made.figures.values())
    assert "learning_curves" in made.figures
    monkeypatch.chdir(tmp_path)
    shown = made._repr_html_()
    assert "<table" in shown
    assert '<a href="out/report.html">' in shown


def test_a_definition_takes_another_sweep(store: Store, tmp_path: Path) -> None:
    definition = tmp_path / "mine.yaml"
    definition.write_text(
        "name: mine\ntitle: Mine\nsources: {main: {sweep: nowhere}}\nblocks: [{kind: table, table: scores}]\n"
    )
    made = lab.report(definition, tmp_path / "out", store=store, sweeps={"main": "made_up"})
    assert list(made.tables) == ["scores"]
    with pytest.raises(UsageError, match=r"no source 'mian'\. Did you mean 'main'\?"):
        lab.report(definition, tmp_path / "out", store=store, sweeps={"mian": "made_up"})


def test_what_is_not_there_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match=r"no sweep 'made_upp' .* Did you mean 'made_up'\?"):
        lab.report("made_upp", store=store)
    with pytest.raises(UsageError, match="changes a report's definition"):
        lab.report("made_up", store=store, sets=["title=x"])
