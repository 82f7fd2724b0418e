"""A sweep with a search, as a driver would leave its plan and its log; runs are made with fakes.py."""

from __future__ import annotations

from typing import Any, Literal

from trb_lab.store import search_log
from trb_lab.store.run_dir import RunDir, Store, write_json
from trb_lab.store.search_log import Decision
from trb_lab.store.status import begin_attempt, end_attempt

from .fakes import checkpoint, make_run, train

SWEEP = "find"
CONTEXT = "c0ffee"
STEPS = 10


def row(
    run_id: str,
    arm: str,
    setting: str,
    seed: int,
    number: int | None = None,
    role: Literal["select", "confirm"] | None = None,
) -> dict[str, Any]:
    """A row of plan.json; of a search's log where it has a role."""
    found = {"run_id": run_id, "arm": arm, "setting": setting, "seed": seed, "overrides": {}, "eval_sets": {}}
    searched = {"search": {"arm": "trb", "number": number, "role": role}} if role is not None else {}
    return {**found, "spec": {"steps": STEPS}, **searched}


def write_searched_plan(store: Store, context: str = CONTEXT, trials: int = 40) -> None:
    """A fixed arm `opd` and the search of `trb`."""
    arms = {"opd": {}, "trb": {"search": {"trials": trials}}}
    plan = {
        "name": SWEEP,
        "question": "which?",
        "spec": {"seeds": [0], "base": "b.yaml", "arms": arms},
        "trials": [row("opd-s0", "opd", "", 0)],
        "searches": {"trb": {"context": context}},
    }
    write_json(store.sweep(SWEEP).plan, plan)


def propose(store: Store, number: int, origin: Any = "ask", context: str = CONTEXT) -> str:
    """A candidate of one run, logged; the run's id."""
    run_id = f"trb-{number}"
    setting = f"#{number} kl_budget={number / 100}"
    rows = (row(run_id, "trb", setting, 0, number, "select"),)
    decision = Decision("proposal", context, rows, number=number, origin=origin)
    search_log.append(store.sweep(SWEEP).search_log("trb"), decision)
    return run_id


def confirm(store: Store, number: int) -> tuple[str, str]:
    """A winner and the reference on a fresh seed; their run ids."""
    winner, reference = f"trb-{number}-fresh", "opd-fresh"
    rows = (
        row(winner, "trb", f"#{number} kl_budget={number / 100}", 7, number, "confirm"),
        row(reference, "opd", "", 7, None, "confirm"),
    )
    search_log.append(
        store.sweep(SWEEP).search_log("trb"), Decision("confirm", CONTEXT, rows, numbers=(number,))
    )
    return winner, reference


def paused_run(store: Store, run_id: str, steps: int = 4) -> RunDir:
    """A run that has paused after some steps."""
    run = make_run(store, run_id)
    attempt = begin_attempt(run)
    checkpoint(run, steps, train(run, 0, steps))
    end_attempt(run, attempt, "paused")
    return run
