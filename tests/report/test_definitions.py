"""Definitions with mistakes are refused in words; what a definition asks of its sources is what comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.report.synthetic import write_store
from trb_lab.errors import UsageError
from trb_lab.report import build_defined
from trb_lab.report.sources import open_sources
from trb_lab.spec.report import ReportSpec
from trb_lab.store.run_dir import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """18 trials of TRB and one arm each of plain OPD and teacher-forced, on two seeds."""
    root: Path = tmp_path_factory.mktemp("definitions") / "runs"
    return write_store(root, seeds=(0, 1), steps=30, failed=(), missing=())


def definition(blocks: list[dict[str, Any]] | None = None, **more: Any) -> ReportSpec:
    body: dict[str, Any] = {
        "name": "mine",
        "title": "Mine",
        "sources": {"main": {"sweep": "kl_budget"}},
        "blocks": blocks or [{"kind": "table", "table": "scores"}],
    }
    return ReportSpec.model_validate(body | more)


def cut(store: Store, **source: Any) -> list[tuple[str, str, int]]:
    spec = definition(sources={"main": {"sweep": "kl_budget", **source}})
    trials = open_sources(store, spec)["main"].data.trials
    return [(t["arm"], t["setting"], t["seed"]) for t in trials.to_dict("records")]


@pytest.mark.parametrize("value", [20, 20.0, [20], [20.0, 7]])
def test_numbers_are_compared_by_value(store: Store, value: Any) -> None:
    found = cut(store, arms=["trb"], where={"warmup.steps": value})
    assert {setting.split()[-1] for _, setting, _ in found} == {"steps=20"}
    assert len(found) == 6


def test_a_value_that_is_a_list_can_be_asked_for(store: Store) -> None:
    betas = open_sources(store, definition())["main"].data.plan["trials"][0]["spec"]["optim"]["betas"]
    assert len(cut(store, where={"optim.betas": list(betas)})) == 16


def test_what_a_source_has_not_is_told(store: Store) -> None:
    told = {
        "no arm 'tbr'. Did you mean 'trb'": {"arms": ["tbr"]},
        "no seed 7. Seeds: 0, 1": {"seeds": [7]},
        "no trial of kl_budget has the key 'warmup.kl_bugdet'. Did you mean 'warmup.kl_budget'": {
            "where": {"warmup.kl_bugdet": 0.1}
        },
        "warmup is a mapping. Name dotted keys instead: warmup.kind: trb": {
            "where": {"warmup": {"kind": "trb"}}
        },
        "the reference 'trb' is none of its arms": {"reference": "trb", "arms": ["opd"]},
        "no trial of kl_budget has all of it": {"arms": ["opd"], "where": {"warmup.kind": "trb"}},
    }
    for message, source in told.items():
        with pytest.raises(UsageError) as error:
            cut(store, **source)
        assert message in str(error.value)


@pytest.mark.parametrize(
    "body",
    [
        {"sources": {"../up": {"sweep": "kl_budget"}}},
        {"statistics": {"bootstrap_samples": 1}},
        {"statistics": {"bootstrap_seed": -1}},
        {"blocks": [{"kind": "table", "table": "scores", "rule": "paper"}]},
        {"blocks": [{"kind": "table", "table": "results", "columns": []}]},
        {"blocks": [{"kind": "findings", "sources": []}]},
        {"blocks": [{"kind": "findings"}, {"kind": "findings"}]},
    ],
    ids=lambda body: next(iter(body)),
)
def test_what_would_do_nothing_or_harm_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        definition(**body)


def test_a_misspelt_arm_is_told_and_one_that_has_not_run_is_not(store: Store) -> None:
    open_sources(store, definition(labels={"veto": "Veto"}))
    for spec in (
        definition(labels={"tbr": "TRB"}),
        definition([{"kind": "excerpt", "arms": ["opd", "tbr"]}]),
        definition([{"kind": "table", "rows": ["tbr"]}]),
    ):
        with pytest.raises(UsageError, match=r"there is no arm 'tbr'\. Did you mean 'trb'"):
            open_sources(store, spec)


def test_two_cuts_of_one_sweep_have_names_of_their_own(store: Store) -> None:
    sources = {f"seed{s}": {"sweep": "kl_budget", "seeds": [s]} for s in (0, 1)}
    labels = [s.label for s in open_sources(store, definition(sources=sources)).values()]
    assert labels == ["kl_budget (seed0)", "kl_budget (seed1)"]


def test_other_peoples_files_stay_and_ours_of_an_earlier_report_go(store: Store, tmp_path: Path) -> None:
    theirs = [tmp_path / "data.csv", tmp_path / "tables" / "mine.tex", tmp_path / "figures" / "mine.png"]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    both = [{"kind": "table", "table": "scores"}, {"kind": "table", "table": "health"}]
    build_defined(store, definition(both), "again", tmp_path)
    assert (tmp_path / "tables" / "health.csv").exists()
    build_defined(store, definition(both[:1]), "again", tmp_path)
    assert not (tmp_path / "tables" / "health.csv").exists()
    assert [path.read_text() for path in theirs] == ["mine"] * 3


def test_names_of_blocks_do_not_swallow_files(store: Store, tmp_path: Path) -> None:
    blocks = [
        {"kind": "table", "table": "scores", "name": "trials"},
        {"kind": "findings", "name": "said"},
        {"kind": "text", "name": "findings", "text": "Words of mine."},
    ]
    paths = build_defined(store, definition(blocks), "again", tmp_path)
    assert (tmp_path / "tables" / "trials.csv").exists()
    assert (tmp_path / "trials.csv").exists()
    told = paths["table"].read_text()
    assert "The reference arm, vanilla OPD" in told
    assert "Words of mine" not in told
