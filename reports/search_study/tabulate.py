"""Makes the tables of study.py from a store in which trb_table.yaml and lr_table.yaml have run.

trb-lab --store STORE sweep reports/search_study/trb_table.yaml
trb-lab --store STORE sweep reports/search_study/lr_table.yaml
python reports/search_study/tabulate.py STORE
"""

from __future__ import annotations

import csv
import statistics
import sys
from pathlib import Path

from trb_lab.store.metrics import read_metrics
from trb_lab.store.run_dir import Store, read_json

HERE = Path(__file__).parent
STOPS = (20, 40, 60)
COLUMNS = {
    "trb_table": {"kl_budget": "warmup.kl_budget", "steps": "warmup.steps", "anneal": "warmup.anneal.kind"},
    "lr_table": {"lr": "optim.lr", "kl_budget": "warmup.kl_budget", "steps": "warmup.steps"},
}
SEEDS = (0, 1)


def tabulate(store: Store, sweep: str) -> None:
    rows = []
    for planned in read_json(store.sweep(sweep).plan)["trials"]:
        run = store.trial(planned["run_id"])
        if planned["arm"] != "trb" or planned["seed"] not in SEEDS or not run.result.exists():
            continue
        setting = [at(planned["spec"], key) for key in COLUMNS[sweep].values()]
        names = list(planned["eval_sets"])
        scores = {
            line["step"] + 1: statistics.fmean(line[f"eval/{name}/pass_at_1"] for name in names)
            for line in read_metrics(run.metrics)
            if f"eval/{names[0]}/pass_at_1" in line
        }
        rows.append([*setting, planned["seed"], *(f"{scores[stop]:.6f}" for stop in STOPS)])
    with open(HERE / f"{sweep}.csv", "w", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow([*COLUMNS[sweep], "seed", *(f"score_{stop}" for stop in STOPS)])
        out.writerows(sorted(rows, key=str))
    print(f"{sweep}: {len(rows)} runs")


def at(tree: dict, dotted: str) -> object:
    """What a tree has at a dotted key."""
    found: object = tree
    for part in dotted.split("."):
        assert isinstance(found, dict)
        found = found[part]
    return found


if __name__ == "__main__":
    for name in COLUMNS:
        tabulate(Store.locate(sys.argv[1]), name)
