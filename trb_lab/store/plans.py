"""A sweep's plan as its files have it: what the YAML named, and what its searches have come to ask for since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .run_dir import SweepDir, read_json
from .search_log import Decision, decisions, rows_of


def planned(sweep: SweepDir, logs: Mapping[str, Sequence[Decision]] | None = None) -> dict[str, Any] | None:
    """plan.json with the rows of its searches at the end of `trials`; None where there is no plan.

    `logs` are those that were read already, by arm.

    Such rows have a key `search`: {"arm", "number", "role": "select" or "confirm"}.
    """
    plan: dict[str, Any] | None = read_json(sweep.plan)
    if plan is None:
        return None
    found = []
    for arm, search in plan.get("searches", {}).items():
        log = logs[arm] if logs is not None and arm in logs else list(decisions(sweep.search_log(arm)))
        found += rows_of([decision for decision in log if decision.context == search["context"]])
    return {**plan, "trials": [*plan["trials"], *found]} if found else plan


def plan_files(sweep: SweepDir) -> list[Path]:
    """The files that `planned` reads: it tells the same as long as none of them changes."""
    return [sweep.plan, *sorted(p for p in sweep.searches.glob("*.jsonl"))]
