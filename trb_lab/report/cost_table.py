"""Score and cost of each setting side by side."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from trb_lab.spec.report import StatisticsSpec

from .collect import MEAN, SweepData
from .costs import QUANTITIES
from .judging import coverage
from .settings import Setting
from .stats import mean, t_interval
from .tables import Cell, Row, Table, interval_text

TITLES = {
    "seconds": "seconds",
    "gpu_seconds": "GPU-seconds",
    "teacher_tokens": "teacher tokens",
    "student_tokens": "student tokens",
}


def mean_costs(data: SweepData, setting: Setting) -> dict[str, float]:
    """Quantity -> mean over the setting's completed seeds; empty where one of them has no ledger."""
    runs = [run for seed, run in setting.run_ids.items() if setting.states[seed] == "completed"]
    ledgers: pd.DataFrame = data.costs[data.costs["run_id"].isin(runs)]
    if ledgers.empty or len(ledgers) < len(set(runs)):
        return {}
    return {quantity: mean(map(float, ledgers[quantity])) for quantity in QUANTITIES}


def cost_table(
    data: SweepData, settings: Sequence[Setting], statistics: StatisticsSpec | None = None
) -> Table | None:
    """None where no completed run has a ledger."""
    judged = statistics or StatisticsSpec()
    costs = {s.key: mean_costs(data, s) for s in settings}
    known = [c for c in costs.values() if c]
    if not known:
        return None
    shown = [q for q in QUANTITIES if q != "gpu_seconds" or any(c[q] for c in known)]
    name = f"{MEAN} score" if len(data.mean_sets) > 1 else "score"
    rows = []
    for setting in settings:
        found = costs[setting.key]
        cells = [_score(setting, judged.level)]
        runs = tuple(r for seed, r in sorted(setting.run_ids.items()) if setting.states[seed] == "completed")
        cells += [Cell(quantity(found[q]), found[q], run_ids=runs) if found else Cell("–") for q in shown]
        cells.append(Cell(str(setting.completed), float(setting.completed), note=setting.problems))
        rows.append(Row(setting.title, "baseline" if setting.is_reference else "arm", cells))
    notes = [
        f"Score: pass@1 in percent at the end of training, with its {coverage(judged)} interval over seeds. Cost: "
        "means over the same seeds, of training alone (evaluation is left out: it is the same for every arm); SFT "
        "warmup counts.",
        "Tokens are positions that went through a model, prompts included. Seconds depend on the machine and on what "
        "else ran there; tokens do not.",
    ]
    absent = [s.title for s in settings if s.completed and not costs[s.key]]
    if absent:
        notes.append(
            f"Without a cost ledger for every finished seed: {', '.join(absent)}. Runs made before ledgers were kept "
            "have none."
        )
    return Table("Score and cost", [name, *(TITLES[q] for q in shown), "seeds"], rows, notes)


def _score(setting: Setting, level: float) -> Cell:
    values = list(setting.mean_scores().values())
    if not values:
        return Cell(setting.problems or "missing")
    interval = t_interval(values, level)
    return Cell(interval_text(interval), interval.mean, interval.half_width, run_ids=setting.runs_of())


def quantity(value: float) -> str:
    """A count or a time with three digits that matter: `0.52`, `71.4`, `830`, `12.3 k`, `4.56 M`."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")):
        if value >= size:
            return f"{value / (1e3 if unit == ' k' else size):.3g}{unit}"
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
