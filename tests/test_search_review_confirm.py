"""What a confirmation consists of when the sweep's file has changed since."""

from __future__ import annotations

from pathlib import Path

import pytest

from trb_lab.driver.budget import Budget

from .search_fakes import SearchLab, check, once, search_lab

pytestmark = pytest.mark.long

SPENT = Budget(1e-9, "cpuh")
Confirmed = dict[tuple[str, int | None], list[int]]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchLab:
    """A search that has confirmed its winner on the seeds 3 and 4."""
    found = search_lab(tmp_path, monkeypatch)
    found.search(trials=3, sampler="random", confirm={"seeds": 2})
    assert found.run() == 0
    assert confirmed(found) == rows_on(found, [3, 4])
    return found


def confirmed(lab: SearchLab) -> Confirmed:
    """(arm, candidate) -> seeds of its row, each with a value."""
    found = {}
    for row in lab.summary()["confirmation"]:
        seeds = [run["seed"] for run in row["runs"]]
        assert list(row["values"]["score"]) == [str(seed) for seed in seeds]
        found[row["arm"], row["number"]] = seeds
    return found


def rows_on(lab: SearchLab, seeds: list[int], reference: str = "opd") -> Confirmed:
    return {("trb", lab.summary()["best"]): seeds, (reference, None): seeds}


def run_ids(lab: SearchLab, arm: str) -> list[str]:
    """Of an arm's row of the confirmation."""
    rows = [row for row in lab.summary()["confirmation"] if row["arm"] == arm]
    return [run["run_id"] for row in rows for run in row["runs"]]


def test_a_fresh_seed_that_became_one_of_the_sweeps_confirms_nothing(lab: SearchLab) -> None:
    before = lab.stints()
    lab.amend({"seeds": [0, 1, 2, 3]})
    assert lab.run(budget=SPENT) == 0
    assert confirmed(lab) == rows_on(lab, [4])  # seed 5 has to wait for a budget
    assert lab.run() == 0
    check(lab, asked=3)
    assert confirmed(lab) == rows_on(lab, [4, 5])
    # Seed 5 of the winner and of the reference arm. Its seed 3 was there, and is of the sweep now.
    assert len(lab.stints()) == len(before) + 2
    assert set(lab.stints().values()) == {1}
    assert lab.candidates()[lab.summary()["best"]]["values"]["score"].keys() == {"0"}


def test_without_confirm_no_earlier_confirmation_is_told(lab: SearchLab) -> None:
    before, log = lab.stints(), len(lab.log)
    lab.search(confirm=None)
    assert lab.run() == 0
    assert lab.summary()["confirmation"] == []
    assert lab.summary()["winners"] == []
    assert lab.summary()["over"]
    lab.search(confirm={"seeds": 2})  # and back: it is known still
    assert lab.run() == 0
    assert confirmed(lab) == rows_on(lab, [3, 4])
    assert (lab.stints(), len(lab.log)) == (before, log)


def test_fewer_fresh_seeds_leave_the_others_out(lab: SearchLab) -> None:
    before = lab.stints()
    lab.search(confirm={"seeds": 1})
    assert lab.run() == 0
    assert confirmed(lab) == rows_on(lab, [3])
    assert lab.summary()["winners"] == [lab.summary()["best"]]
    assert lab.stints() == before


def test_another_reference_setting_runs_on_the_fresh_seeds(lab: SearchLab) -> None:
    before, winner, earlier = lab.stints(), run_ids(lab, "trb"), run_ids(lab, "opd")
    lab.amend({"arms/opd/overrides/optim": {"lr": 2e-5}})
    assert lab.run(budget=SPENT) == 0
    assert confirmed(lab) == {("trb", lab.summary()["best"]): [3, 4]}
    assert lab.run() == 0
    check(lab, asked=3)
    assert confirmed(lab) == rows_on(lab, [3, 4])
    assert run_ids(lab, "trb") == winner
    assert not set(run_ids(lab, "opd")) & set(earlier)
    assert {run: lab.stints()[run] for run in before} == before
    assert all(once(steps) for steps in lab.searched().values())


def test_another_reference_arm_runs_on_the_fresh_seeds(lab: SearchLab) -> None:
    before, winner = lab.stints(), run_ids(lab, "trb")
    slower = {"overrides": {"warmup": {"kind": "opd"}, "optim": {"lr": 2e-5}}}
    lab.amend({"arms/slower": slower, "report/reference": "slower"})
    assert lab.run() == 0
    check(lab, asked=3)
    assert confirmed(lab) == rows_on(lab, [3, 4], "slower")
    assert run_ids(lab, "trb") == winner
    assert {run: lab.stints()[run] for run in before} == before
