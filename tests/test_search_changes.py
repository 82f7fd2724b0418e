"""The sweep's file changes between two commands: nothing is lost, and what counts is what it says now."""

from __future__ import annotations

from pathlib import Path

import pytest

from trb_lab.store.status import state_of

from .search_fakes import ASHA, SearchLab, check, once, search_lab

pytestmark = pytest.mark.long


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchLab:
    found = search_lab(tmp_path, monkeypatch)
    found.amend({"seeds": [0]})
    found.search(trials=6, sampler="random")
    assert found.run() == 0
    return found


def test_a_narrower_space_leaves_the_others_out(lab: SearchLab, capsys: pytest.CaptureFixture[str]) -> None:
    before, stints = lab.proposals(), lab.stints()
    lab.search(**{"space": {**SPACE, "warmup.steps": {"kind": "int", "low": 2, "high": 9}}})
    outside = [n for n, params in enumerate(before) if params["warmup.steps"] > 9]
    assert 0 < len(outside) < 6
    assert lab.run() == 0
    assert lab.summary()["left_out"] == len(outside)
    assert lab.summary()["asked"] == 6
    assert outside[0] not in lab.candidates()
    assert len(lab.proposals()) == 6 + len(outside)
    assert lab.proposals()[:6] == before
    assert {run: lab.stints()[run] for run in stints} == stints
    log = len(lab.log)
    lab.search(space=SPACE)  # and back: all of them count again
    assert lab.run() == 0
    assert lab.summary()["left_out"] == 0
    assert lab.summary()["asked"] == 6 + len(outside)
    assert len(lab.log) == log


SPACE = {
    "warmup.kl_budget": {"kind": "float", "low": 0.01, "high": 1.0, "log": True},
    "warmup.steps": {"kind": "int", "low": 2, "high": 18},
    "warmup.anneal": {"kind": "choice", "values": ["linear", "cosine"]},
}


def test_a_choice_that_is_no_longer_there_leaves_its_settings_out(lab: SearchLab) -> None:
    lab.search(
        space={**SPACE, "warmup.anneal": {"kind": "choice", "values": ["cosine", "constant"]}},
        sampler={"kind": "tpe", "startup_trials": 2},
    )
    assert lab.run() == 0
    assert lab.summary()["asked"] == 6
    assert lab.summary()["left_out"] > 0
    assert {c["params"]["warmup.anneal"] for c in lab.candidates().values()} <= {"cosine", "constant"}


def test_another_parameter_makes_another_search(lab: SearchLab) -> None:
    before = lab.proposals()
    lab.search(space={**SPACE, "optim.lr": {"kind": "float", "low": 1e-6, "high": 1e-4, "log": True}})
    assert lab.run() == 0
    assert lab.proposals()[:6] == before
    assert lab.summary()["asked"] == 6
    assert lab.summary()["known"] == 6  # those that ran are settings of the wider space, too
    assert all("optim.lr" in c["params"] for c in lab.candidates().values())


def test_another_base_begins_anew_and_going_back_finds_everything(
    lab: SearchLab, capsys: pytest.CaptureFixture[str]
) -> None:
    text = lab.store.sweep("found").search_log("trb").read_text()
    attempts = lab.attempts()
    lab.base(optim={"lr": 2e-5})
    capsys.readouterr()
    assert lab.run() == 0
    assert "7 no longer planned (kept)" in capsys.readouterr().out
    assert lab.store.sweep("found").search_log("trb").read_text().startswith(text)
    assert [d.number for d in lab.log] == [*range(6), *range(6)]
    assert len({d.context for d in lab.log}) == 2
    assert lab.proposals()[6:] == lab.proposals()[:6]  # random, with the same seed
    assert lab.attempts() == 2 * attempts
    lab.base(optim=...)
    assert lab.run() == 0
    assert lab.attempts() == 2 * attempts
    assert lab.summary()["asked"] == 6
    assert lab.candidates()[0]["runs"][0]["run_id"] == lab.log[0].rows[0]["run_id"]


def test_fewer_trials_ask_nothing_and_more_go_on(lab: SearchLab) -> None:
    before = lab.proposals()
    lab.search(trials=3)
    assert lab.run() == 0
    assert lab.proposals() == before
    assert (lab.summary()["asked"], lab.summary()["trials"]) == (6, 3)
    assert lab.summary()["over"]
    lab.search(trials=8)
    assert lab.run() == 0
    check(lab, asked=8)
    assert lab.proposals()[:6] == before


def test_other_seeds_leave_values_as_they_are(lab: SearchLab) -> None:
    values = {n: c["mean"] for n, c in lab.candidates().items()}
    lab.amend({"seeds": [1, 0]})
    lab.search(trials=8)
    assert lab.run() == 0
    check(lab, asked=8)
    assert {n: lab.candidates()[n]["mean"] for n in values} == values
    assert list(lab.candidates()[7]["values"]["score"]) == ["1"]


def test_another_sampler_goes_on_from_the_same_results(lab: SearchLab) -> None:
    for trials, sampler in ((7, "qmc"), (8, "tpe"), (9, "random")):
        lab.search(trials=trials, sampler=sampler)
        assert lab.run() == 0
    check(lab, asked=9)


def test_pruning_that_comes_later_pauses_only_what_is_new(lab: SearchLab) -> None:
    lab.search(trials=12, pruning=ASHA)
    assert lab.run() == 0
    check(lab, asked=12)
    assert all(state_of(lab.run_of(n)) == "completed" for n in range(6))
    assert all(once(steps) for steps in lab.searched().values())
    assert any(state_of(lab.run_of(n)) == "paused" for n in range(6, 12))


def test_a_torn_log_line_is_asked_for_again(lab: SearchLab) -> None:
    proposals, attempts = lab.proposals(), lab.attempts()
    log = lab.store.sweep("found").search_log("trb")
    log.write_bytes(log.read_bytes()[:-40])
    assert lab.run() == 0
    check(lab, asked=6)
    assert (lab.proposals(), lab.attempts()) == (proposals, attempts)
