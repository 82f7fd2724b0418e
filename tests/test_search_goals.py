"""What a search looks for: metrics, costs, several goals, constraints."""

from __future__ import annotations

from pathlib import Path

import pytest

from trb_lab.errors import UsageError
from trb_lab.search.pareto import front
from trb_lab.store.metrics import read_metrics

from .search_fakes import SearchLab, check, search_lab

pytestmark = pytest.mark.long


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchLab:
    found = search_lab(tmp_path, monkeypatch)
    found.amend({"seeds": [0]})
    found.search(trials=8, sampler="random")
    return found


def logged(lab: SearchLab, number: int, metric: str) -> list[float]:
    return [line[metric] for line in read_metrics(lab.run_of(number).metrics)]


def test_a_metric_of_the_steps_is_minimised(lab: SearchLab) -> None:
    lab.search(metric="train/reverse_kl", direction="minimize")
    assert lab.run() == 0
    check(lab, asked=8)
    last = {number: logged(lab, number, "train/reverse_kl")[-1] for number in range(8)}
    assert lab.summary()["best"] == min(last, key=last.__getitem__)
    assert lab.candidates()[3]["mean"] == {"train/reverse_kl": last[3]}


def test_settings_outside_the_constraints_are_never_best(lab: SearchLab) -> None:
    assert lab.run() == 0
    largest = {number: max(logged(lab, number, "train/reverse_kl")) for number in range(8)}
    scores = {number: c["mean"]["score"] for number, c in lab.candidates().items()}
    bound = sorted(largest.values())[3]
    lab.search(constraints={"train/reverse_kl": {"at_most": bound}}, confirm={"seeds": 1})
    assert lab.run() == 0  # what is known is judged anew
    inside = [number for number in largest if largest[number] <= bound]
    assert len(inside) == 4
    assert [n for n, c in lab.candidates().items() if c["feasible"]] == inside
    assert lab.summary()["best"] == max(inside, key=scores.__getitem__)
    assert lab.summary()["winners"] == [lab.summary()["best"]]
    assert lab.candidates()[0]["constraints"] == {"train/reverse_kl": pytest.approx(largest[0])}


def test_no_setting_inside_the_constraints_is_no_winner(lab: SearchLab) -> None:
    lab.search(constraints={"train/reverse_kl": {"at_most": -1.0}}, confirm={"seeds": 1})
    assert lab.run() == 0
    check(lab, asked=8)
    assert lab.summary()["best"] is None
    assert lab.summary()["winners"] == []
    assert lab.summary()["over"]


def test_two_goals_have_a_front(lab: SearchLab) -> None:
    goals = [{"metric": "score"}, {"metric": "cost/seconds", "direction": "minimize"}]
    lab.search(
        objectives=goals, sampler={"kind": "tpe", "startup_trials": 4}, confirm={"seeds": 1, "settings": 2}
    )
    assert lab.run() == 0
    check(lab, asked=8)
    summary = lab.summary()
    points = {n: [c["mean"]["score"], c["mean"]["cost/seconds"]] for n, c in lab.candidates().items()}
    for number, (_, seconds) in points.items():
        assert seconds == 10 + lab.proposals()[number]["warmup.steps"]
    assert summary["front"] == front(points, ["maximize", "minimize"])
    assert summary["best"] is None
    assert summary["winners"] == summary["front"][:2]
    assert lab.candidates()[0]["stops"] == {}


def test_a_metric_that_no_run_has_ends_the_command_and_loses_nothing(lab: SearchLab) -> None:
    lab.search(metric="train/reverse_kll")
    with pytest.raises(UsageError, match=r"no such metric.*train/reverse_kl\b.*It has: .*rollout/reward"):
        lab.run()
    pid = lab.fork_driver()
    assert lab.code_of(pid) == 2
    assert len(lab.log) == 1
    before = lab.attempts()
    lab.search(metric="train/reverse_kl")
    assert lab.run() == 0
    check(lab, asked=8)
    assert lab.attempts() == before + 7
    lab.search(constraints={"policy/kl": {"at_most": 1.0}})
    with pytest.raises(UsageError, match="wants `policy/kl`"):
        lab.run()
    assert lab.attempts() == before + 7
