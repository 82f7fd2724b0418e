"""The sweeps of a store as a frame."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from trb_lab.store.plans import planned
from trb_lab.store.run_dir import Store
from trb_lab.store.status import TrialState, state_of


def sweep_frame(store: Store) -> pd.DataFrame:
    """Columns sweep, question, created, trials and one a state, in the order of the names."""
    rows: list[dict[str, Any]] = []
    for sweep in store.sweeps():
        plan = planned(sweep) or {}
        ids = dict.fromkeys(row["run_id"] for row in plan.get("trials", []))
        counts = Counter(str(state_of(store.trial(run_id))) for run_id in ids)
        created = pd.Timestamp(plan.get("created") or 0, unit="s", tz="UTC").floor("s")
        head = {
            "sweep": sweep.name,
            "question": plan.get("question", ""),
            "created": created,
            "trials": len(ids),
        }
        rows.append(head | {str(state): counts[str(state)] for state in TrialState})
    return pd.DataFrame(rows, columns=["sweep", "question", "created", "trials", *map(str, TrialState)])
