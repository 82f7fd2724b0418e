"""Searches through the real driver, launcher and store; workers compute a known function instead of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trb_lab.search.optuna import Asker
from trb_lab.search.told import Told
from trb_lab.spec.sweeps import expand_searches
from trb_lab.store.metrics import read_metrics
from trb_lab.store.plans import planned
from trb_lab.store.run_dir import read_json
from trb_lab.store.search_log import Decision, decisions
from trb_lab.store.status import attempt_count, state_of

from . import known_function
from .sweep_fakes import Lab, patch

BASE = """
name: base
student: ./student
teacher: ./teacher
dataset: {kind: arith}
steps: 18
eval: {sets: [arith/easy], every: 2}
"""

SEARCH = """
name: found
question: which setting?
base: base.yaml
seeds: [0, 1, 2]
parallel: PARALLEL
arms:
  opd: {overrides: {warmup: {kind: opd}}}
  trb:
    overrides: {warmup: {kind: trb}}
    search:
      trials: 9
      sampler: {kind: tpe, startup_trials: 3}
      space:
        warmup.kl_budget: {kind: float, low: 0.01, high: 1.0, log: true}
        warmup.steps: {kind: int, low: 2, high: 18}
        warmup.anneal: {kind: choice, values: [linear, cosine]}
      parallel: PARALLEL
MORE
report: {reference: opd, references: false}
"""


class SearchLab(Lab):
    """A Lab whose sweep has a search."""

    def __init__(self, root: Path, parallel: int = 1, more: str = "      confirm: null") -> None:
        super().__init__(root)
        (root / "base.yaml").write_text(BASE)
        self.path.write_text(SEARCH.replace("PARALLEL", str(parallel)).replace("MORE", more))
        self.behave({"": {"function": 1}})

    @property
    def log(self) -> list[Decision]:
        return list(decisions(self.store.sweep("found").search_log("trb")))

    def proposals(self) -> list[dict[str, Any]]:
        return [dict(d.params) for d in self.log if d.event == "proposal"]

    def summary(self) -> dict[str, Any]:
        return read_json(self.store.sweep("found").search_summary("trb"))


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    patch(monkeypatch.setattr)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


@pytest.fixture
def lab(tmp_path: Path, patched: None, monkeypatch: pytest.MonkeyPatch) -> SearchLab:
    found = SearchLab(tmp_path)
    monkeypatch.setenv("FAKE_WORKER", str(found.behaviour_file))
    return found


def plain_loop(lab: SearchLab, trials: int) -> list[dict[str, Any]]:
    """What asking and telling alone proposes, with the function called at once."""
    arm = expand_searches(lab.path)["trb"]
    asker, told, notes = Asker(arm.spec), [], {}
    for number in range(trials):
        proposal = asker.ask(number, told, notes)
        notes |= proposal.study_attrs
        spec = arm.draft(number, proposal.params, 0).spec.model_dump(mode="json")
        value = known_function.final_score(spec)
        told.append(Told(number, proposal.params, "complete", (value,), attrs=proposal.attrs))
    return [t.params for t in told]


def test_the_driver_proposes_what_a_plain_loop_does(lab: SearchLab) -> None:
    assert lab.run() == 0
    assert lab.proposals() == plain_loop(lab, 9)
    assert lab.summary()["counts"] == {"complete": 9}
    assert all(attempt_count(run) == 1 for run in lab.store.trials())


def test_a_second_run_asks_and_runs_nothing(lab: SearchLab) -> None:
    assert lab.run() == 0
    before, log = lab.attempts(), lab.store.sweep("found").search_log("trb").read_text()
    for view in ("search_study", "search_values", "search_summary"):
        getattr(lab.store.sweep("found"), view)("trb").unlink()
    assert lab.run() == 0
    assert lab.attempts() == before
    assert lab.store.sweep("found").search_log("trb").read_text() == log
    assert lab.summary()["counts"] == {"complete": 9}
    assert lab.store.sweep("found").search_study("trb").exists()
