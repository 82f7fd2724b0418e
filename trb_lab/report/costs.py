"""What a run's training cost, from its ledger: time and tokens through each model, evaluation left out.

Evaluation is the same for every arm and is no part of what an arm costs; its share would hide the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trb_lab.store.run_dir import RunDir, read_json

QUANTITIES = ("seconds", "gpu_seconds", "teacher_tokens", "student_tokens")
COST_COLUMNS = ["run_id", *QUANTITIES]
EVALUATION = "eval"
"""Phase of the ledger that is left out."""


def training_cost(run: RunDir, result: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """One row (COST_COLUMNS) of a completed run with a ledger; none of others, such as runs older than ledgers.

    `result` is its result.json where that has been read already.
    """
    found = result if result is not None else read_json(run.result) or {}
    phases = (found.get("cost") or {}).get("phases")
    return [{"run_id": run.run_id, **summed(phases)}] if phases else []


def summed(phases: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Quantity -> its sum over the phases, evaluation left out."""
    kept = [cost for phase, cost in phases.items() if phase != EVALUATION]
    return {quantity: sum(float(cost.get(quantity) or 0.0) for cost in kept) for quantity in QUANTITIES}
