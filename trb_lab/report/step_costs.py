"""What training had cost by each step: the ledger of a run added up along its training."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from trb_lab.store.metrics import read_metrics
from trb_lab.store.run_dir import RunDir

from .costs import QUANTITIES, summed, training_cost


def costs_by_update(run: RunDir) -> dict[int, dict[str, float]]:
    """Updates made -> quantity -> its sum until then, evaluation left out; empty where a step has no ledger, or the run
    has not completed.

    What was spent before the first step (an SFT warmup) counts from the start: it is what the run's ledger has beyond
    its steps. A step that was repeated after a resume counts as last timed, as in the ledger.
    """
    total = training_cost(run)
    steps: dict[int, Mapping[str, Any]] = {}
    for line in read_metrics(run.timing):
        if "step" in line:
            steps[int(line["step"])] = line.get("cost") or {}
    if not total or not steps or not all(steps.values()) or sorted(steps) != list(range(len(steps))):
        return {}
    spent = [summed(steps[s]) for s in sorted(steps)]
    found: dict[int, dict[str, float]] = {k + 1: {} for k in range(len(spent))}
    for quantity in QUANTITIES:
        sums = list(accumulate(s[quantity] for s in spent))
        before = max(0.0, float(total[0][quantity]) - sums[-1])
        for k, value in enumerate(sums):
            found[k + 1][quantity] = before + value
    return found
