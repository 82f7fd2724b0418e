"""What must be true after every case, whatever befell it."""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING

from trb_lab.launch import claim
from trb_lab.launch.batches import BatchFiles
from trb_lab.store.run_dir import RunDir
from trb_lab.store.status import attempts, state_of

from ..launch.fake_worker import chain
from ..slurm_fakes.world import ACTIVE
from .catalogue import STEPS

if TYPE_CHECKING:
    from .case import Case


def check(case: Case) -> None:
    """Raises AssertionError for the first that does not hold."""
    one_terminal_result_each(case)
    metrics_have_every_step_once(case)
    never_two_writers(case)
    weights_are_those_of_an_undisturbed_run(case)
    nobody_is_left(case)
    a_second_sweep_does_nothing(case)


def one_terminal_result_each(case: Case) -> None:
    planned = {run.run_id for run in case.runs}
    assert {run.run_id for run in case.store.trials()} == planned
    for run in case.everything():
        assert state_of(run) == "completed", run.run_id
        result = json.loads(run.result.read_text())
        assert (result["run_id"], result["state"]) == (run.run_id, "completed")
        ends = [e for e in attempts(run) if e["event"] == "end" and e.get("state") == "completed"]
        assert len(ends) <= 1, f"{run.run_id} was completed {len(ends)} times"


def metrics_have_every_step_once(case: Case) -> None:
    for run in case.runs:
        steps = [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()]
        assert steps == list(range(STEPS)), f"{run.run_id}: steps {steps}"


def never_two_writers(case: Case) -> None:
    """Workers of a trial follow one another: none goes on after the next has begun.

    One that lives on without its cluster's knowledge may be in the middle of a write when it loses its lease; that
    one line goes into a file that nobody sees.
    """
    slack = 1 if case._has("node lost, processes live on") else 0
    for run in case.runs:
        audit = case.audit / run.run_id
        lines = audit.read_text().splitlines() if audit.exists() else []
        turns = [(pid, len(list(group))) for pid, group in groupby(line.split()[0] for line in lines)]
        began: list[str] = []
        extra = 0
        for pid, length in turns:
            if pid in began:  # and another one has written in between
                extra += length if pid != began[-1] else 0
            else:
                began.append(pid)
        assert extra <= slack, f"{run.run_id}: workers took turns: {turns}"


def weights_are_those_of_an_undisturbed_run(case: Case) -> None:
    """Of fake workers, whose weights can be told beforehand; real ones are compared in undisturbed.py."""
    for run in case.runs if not case.scenario.real else ():
        expected = chain(run.run_id, STEPS)
        assert _final(run) == expected[-1], f"{run.run_id}: other weights"
        values = [json.loads(line)["train/reverse_kl"] for line in run.metrics.read_text().splitlines()]
        assert values == [int(weights[:8], 16) / 2**32 for weights in expected]


def _final(run: RunDir) -> str:
    return (run.checkpoints / f"step_{STEPS:06d}" / "student.safetensors").read_text()


def nobody_is_left(case: Case) -> None:
    for run in case.everything():
        case._wait(lambda run=run: claim.live_worker(run) is None, f"the end of {run.run_id}'s worker")
    if case.cluster is not None:
        case._wait(lambda: all(state not in ACTIVE for state in case.ours().values()), "the queue to empty")


def a_second_sweep_does_nothing(case: Case) -> None:
    before = case.submissions(), [len(attempts(run)) for run in case.everything()]
    assert case.sweep_again() == 0
    assert (case.submissions(), [len(attempts(run)) for run in case.everything()]) == before
    open_batches = [batch for batch in BatchFiles(case.store).open() if batch.what == "trials"]
    assert not open_batches, f"batches are never closed: {open_batches}"
