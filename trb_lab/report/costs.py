"""What a run's training cost, from its ledger: time and tokens through each model, evaluation left out.

Evaluation is the same for every arm and is no part of what an arm costs; its share would hide the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trb_lab.store.metrics import iter_lines
from trb_lab.store.run_dir import RunDir, read_json

QUANTITIES = ("seconds", "gpu_seconds", "teacher_tokens", "student_tokens")
COST_COLUMNS = ["run_id", *QUANTITIES]
EVALUATION = "eval"
"""Phase of the ledger that is left out."""


def training_cost(run: RunDir) -> list[dict[str, Any]]:
    """One row (COST_COLUMNS) of a completed run, none of a run that is not or that kept no ledger.

    The result's ledger counts; without one, the run's timings, where every step of them has its ledger.
    """
    result = read_json(run.result)
    if result is None:
        return []
    phases = (result.get("cost") or {}).get("phases") or {}
    ledgers = [phases] if phases else _lines(run, int(result.get("steps") or 0))
    return [{"run_id": run.run_id, **summed(ledgers)}] if ledgers else []


def summed(ledgers: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, float]:
    """Quantity -> its sum over all ledgers and their phases, evaluation left out."""
    kept = [cost for phases in ledgers for phase, cost in phases.items() if phase != EVALUATION]
    return {quantity: sum(float(cost.get(quantity) or 0.0) for cost in kept) for quantity in QUANTITIES}


def _lines(run: RunDir, steps: int) -> list[Mapping[str, Mapping[str, Any]]]:
    """The ledger of each step, as last timed where a resume repeated it, and those of SFT updates.

    Empty where a step has none: a sum over the others would make the run look cheap.
    """
    last = {line["step"]: line["cost"] for _, line in iter_lines(run.timing) if line.get("cost")}
    if not set(range(steps)) <= set(last):
        return []
    supervised = {}
    for number, (_, line) in enumerate(iter_lines(run.path / "sft.jsonl")):
        if line.get("cost"):
            supervised[line.get("update", line.get("step", number))] = line["cost"]
    return [*last.values(), *supervised.values()]
