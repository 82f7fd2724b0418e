"""A search through the real driver and store; workers compute a known function instead of training.

Workers and drivers are forked from the process that tests, which spares each of them a second of imports.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from trb_lab.errors import LabError
from trb_lab.launch import claim
from trb_lab.launch.local import ProcessLauncher
from trb_lab.search import optuna, optuna_file, optuna_journal, optuna_study
from trb_lab.search.optuna import Asker
from trb_lab.search.told import Told
from trb_lab.spec.search_arm import SearchArm
from trb_lab.spec.sweeps import expand_searches
from trb_lab.store.run_dir import RunDir, read_json
from trb_lab.store.search_log import Decision, decisions
from trb_lab.store.status import attempt_count, state_of

from . import known_function, sweep_fakes
from .forked_workers import fork_workers, forked
from .sweep_fakes import Lab

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
WARM = (optuna_file, optuna_journal, optuna_study)
"""Imported here, so that no child has to."""
ASHA = {"kind": "asha", "first": 2, "factor": 3}
"""Stops after 2 and 6 of 18 steps."""
STOPS = (2, 6)
STEPS = 18


class SearchLab(Lab):
    """A Lab whose sweep has a search."""

    def __init__(self, root: Path, parallel: int = 1, more: str = "      confirm: null") -> None:
        super().__init__(root)
        (root / "base.yaml").write_text(BASE)
        self.path.write_text(SEARCH.replace("PARALLEL", str(parallel)).replace("MORE", more))
        self.behave({"": {"function": 1}})
        self.audit = root / "audit"
        self.audit.mkdir()

    def run(self, **kwargs: Any) -> int:
        return sweep_fakes.sweep_module.run_sweep(self.path, self.store, launcher=quick_launcher, **kwargs)

    # --- what is written

    def amend(self, changes: Mapping[str, Any], path: Path | None = None) -> None:
        """Set keys of the sweep's YAML (or another's); a value of ... takes the key away."""
        path = path or self.path
        tree = yaml.safe_load(path.read_text())
        for key, value in changes.items():
            *parents, last = key.split("/")
            block = tree
            for parent in parents:
                block = block[parent]
            if value is ...:
                block.pop(last, None)
            else:
                block[last] = value
        path.write_text(yaml.safe_dump(tree, sort_keys=False))

    def search(self, **changes: Any) -> None:
        """Set keys of the arm's search."""
        self.amend({f"arms/trb/search/{key}": value for key, value in changes.items()})

    def base(self, **changes: Any) -> None:
        self.amend(changes, self.root / "base.yaml")

    # --- what became of it

    @property
    def log(self) -> list[Decision]:
        return list(decisions(self.store.sweep("found").search_log("trb")))

    def proposals(self) -> list[dict[str, Any]]:
        return [dict(d.params) for d in self.log if d.event == "proposal"]

    def summary(self, arm: str = "trb") -> dict[str, Any]:
        return read_json(self.store.sweep("found").search_summary(arm))

    def candidates(self) -> dict[int, dict[str, Any]]:
        """Of the summary, by number."""
        return {c["number"]: c for c in self.summary()["candidates"]}

    def run_of(self, number: int, seed: int = 0) -> RunDir:
        """The run of a candidate, as the last line about it has it."""
        rows = [row for d in self.log if d.number == number for row in d.rows if row["seed"] == seed]
        return self.store.trial(rows[-1]["run_id"])

    def searched(self) -> dict[str, list[int]]:
        """Run id of each of the search's runs -> the steps that workers made, in order."""
        wanted = {row["run_id"] for d in self.log for row in d.rows}
        return {run_id: self.steps_made(run_id) for run_id in sorted(wanted)}

    def steps_made(self, run_id: str) -> list[int]:
        path = self.audit / run_id
        return [int(line.split()[1]) for line in path.read_text().splitlines()] if path.exists() else []

    def stints(self) -> dict[str, int]:
        return {run.run_id: attempt_count(run) for run in self.store.trials()}

    # --- drivers that die

    def fork_driver(self, failpoint: str | None = None, **kwargs: Any) -> int:
        """A driver in a process of its own; its id. What it prints goes to driver.txt."""

        def drive() -> int:
            if failpoint is not None:
                os.environ["TRB_LAB_FAILPOINT"] = failpoint
            try:
                return self.run(**kwargs)
            except LabError as error:
                print(error)
                return error.exit_code

        with open(self.root / "driver.txt", "ab") as out:
            return forked(drive, out.fileno())

    def drive_to_the_end(self, hurt: Callable[[int], None], hurts: int = 8, **kwargs: Any) -> None:
        """Start drivers until one ends with 0; the first few have `hurt` called with their ids."""
        for count in range(hurts + 1):
            pid = self.fork_driver(**kwargs)
            if count < hurts:
                hurt(pid)
            code = self.code_of(pid)
            if code == 0:
                return
            assert code == -signal.SIGKILL, (self.root / "driver.txt").read_text()[-3000:]
        raise AssertionError("killed by somebody else")

    def code_of(self, pid: int) -> int:
        """How a forked driver ended."""
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def forget(self) -> None:
        """Everything that ran so far."""
        shutil.rmtree(self.store.root)
        shutil.rmtree(self.audit)
        self.audit.mkdir()


def killing(rng: random.Random, first: float, last: float) -> Callable[[int], None]:
    """Kills a driver some time after its start, unless it has ended by then."""

    def hurt(pid: int) -> None:
        time.sleep(rng.uniform(first, last))
        os.kill(pid, signal.SIGKILL)  # it is ours and not waited for yet: the number is nobody else's

    return hurt


def quick_launcher(slots: int | None) -> ProcessLauncher:
    found = sweep_fakes.launcher(slots)
    found.poll_seconds = 0.01
    return found


# --- what should come out


def plain_loop(lab: SearchLab, trials: int) -> list[dict[str, Any]]:
    """What asking and telling alone proposes, with the function called at once."""
    arm = expand_searches(lab.path)["trb"]
    asker, told, notes = Asker(arm.spec), [], {}
    for number in range(trials):
        proposal = asker.ask(number, told, notes)
        notes |= proposal.study_attrs
        value = known_function.final_score(spec_of(arm, number, proposal.params))
        told.append(Told(number, proposal.params, "complete", (value,), attrs=proposal.attrs))
    return [t.params for t in told]


def spec_of(arm: SearchArm, number: int, params: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    return arm.draft(number, params, seed).spec.model_dump(mode="json")


def check(lab: SearchLab, asked: int) -> None:
    """What holds of every search at its end, however it came there."""
    proposed = [d for d in lab.log if d.event == "proposal"]
    assert [d.number for d in proposed] == list(range(len(proposed)))
    assert sum(d.origin == "ask" for d in proposed) == asked
    summary = lab.summary()
    assert summary["over"]
    assert summary["asked"] == asked
    assert set(summary["counts"]) <= {"complete", "paused", "failed"}
    wanted = {row["run_id"] for d in lab.log for row in d.rows}
    assert wanted <= {run.run_id for run in lab.store.trials()}
    for run in lab.store.trials():
        assert claim.live_worker(run) is None
        steps = [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()]
        assert steps == list(range(len(steps)))
        if state_of(run) == "completed":
            assert len(steps) == STEPS


def once(steps: Sequence[int]) -> bool:
    """Whether no step was made twice, and none was left out."""
    return list(steps) == list(range(len(steps)))


def repeated(steps: Sequence[int]) -> Counter[int]:
    return Counter(steps) - Counter(set(steps))


def search_lab(root: Path, monkeypatch: Any, importance: bool = False, **kwargs: Any) -> SearchLab:
    """A SearchLab whose workers are forked; what they make is noted in its `audit`."""
    sweep_fakes.patch(monkeypatch.setattr)
    fork_workers(monkeypatch.setattr)
    if not importance:  # half a second at the end of every driver
        monkeypatch.setattr(optuna, "importance", lambda *_: {})
    lab = SearchLab(root, **kwargs)
    monkeypatch.setenv("FAKE_WORKER", str(lab.behaviour_file))
    monkeypatch.setenv("FAKE_WORKER_AUDIT", str(lab.audit))
    monkeypatch.setenv("PYTHONPATH", str(sweep_fakes.TESTS.parent))
    return lab
