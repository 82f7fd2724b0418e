"""Is a search by TPE worth more than one by random draws, at equal cost? Replays searches on a table of finished runs.

    python reports/search_study/study.py            # writes results.csv, summary.csv and regret.png beside it

A search sees the scores of one training seed, as a search with `seeds: 1` does, and is judged by the other training
seeds of what it would choose: the mean regret against the setting that is best by those. So nothing is chosen and
judged by the same runs. Proposals are rounded to the nearest setting of the table; the cost of a search is the training
steps that it takes (a setting that is proposed again costs nothing again, as in a store).
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trb_lab.search.optuna import Asker
from trb_lab.search.pruning import Standing, may_go_on, next_stop
from trb_lab.search.racing import interval
from trb_lab.search.told import Told
from trb_lab.spec.search import SearchSpec

HERE = Path(__file__).parent
STOPS, STEPS = (20, 40), 60
SEARCH_SEEDS = range(60)
MOST_ASKS = 100
"""A search that has settled proposes what it knows again and again, at no cost."""
TABLES: dict[str, dict[str, Any]] = {
    "trb_table": {
        "kl_budget": {"kind": "float", "low": 0.01, "high": 3.0, "log": True},
        "steps": {"kind": "float", "low": 5, "high": 40, "log": True},
        "anneal": {"kind": "choice", "values": ["linear", "cosine", "constant"]},
    },
    "lr_table": {
        "lr": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True},
        "kl_budget": {"kind": "float", "low": 0.01, "high": 1.0, "log": True},
        "steps": {"kind": "float", "low": 10, "high": 40, "log": True},
    },
}
"""File -> the space that is searched. In the first nothing matters much, in the second the learning rate does."""
ASHA = {"kind": "asha", "first": 20, "factor": 3}
STRATEGIES: dict[str, dict[str, Any]] = {
    "random": {"sampler": "random"},
    "qmc": {"sampler": "qmc"},
    "tpe": {"sampler": "tpe"},
    "random + asha": {"sampler": "random", "pruning": ASHA},
    "tpe + asha": {"sampler": "tpe", "pruning": ASHA},
}
Setting = tuple[Any, ...]


class Table:
    """Score of a setting with a seed after so many steps."""

    def __init__(self, name: str) -> None:
        self.name, self.space = name, TABLES[name]
        self.scores: dict[tuple[Setting, int], dict[int, float]] = {}
        with open(HERE / f"{name}.csv", newline="") as f:
            for row in csv.DictReader(f):
                setting = tuple(
                    row[key] if parameter["kind"] == "choice" else float(row[key])
                    for key, parameter in self.space.items()
                )
                found = {stop: float(row[f"score_{stop}"]) for stop in (*STOPS, STEPS)}
                self.scores[setting, int(row["seed"])] = found
        self.seeds = sorted({seed for _, seed in self.scores})
        whole = {s for s, _ in self.scores if all((s, seed) in self.scores for seed in self.seeds)}
        self.settings = sorted(whole)
        self.budget_steps = len(self.settings) * STEPS // 3

    def nearest(self, params: dict[str, Any]) -> Setting:
        """The setting of the table next to a proposal, on logarithmic scales."""

        def distance(setting: Setting) -> float:
            apart = 0.0
            for (key, parameter), value in zip(self.space.items(), setting, strict=True):
                if parameter["kind"] == "choice":
                    apart += 0 if value == params[key] else 10
                else:
                    apart += abs(math.log(params[key] / value)) / math.log(
                        parameter["high"] / parameter["low"]
                    )
            return apart

        return min(self.settings, key=distance)

    def truth(self, setting: Setting, seen: int) -> float:
        """Mean over the seeds that a search does not see."""
        return statistics.fmean(self.scores[setting, s][STEPS] for s in self.seeds if s != seen)


@dataclass
class Replay:
    """One search, one setting at a time."""

    table: Table
    spec: SearchSpec
    seen: int
    cost: int = 0
    trained: dict[Setting, int] = field(default_factory=dict)
    """Steps that each setting has been trained for."""
    proposals: list[tuple[dict[str, Any], Setting, int]] = field(default_factory=list)
    """Parameters, setting, steps that it may train."""

    def run(self) -> Iterator[tuple[int, Setting | None]]:
        """(cost so far, what would be chosen then) after each decision."""
        asker, notes = Asker(self.spec), {}
        while self.cost < self.table.budget_steps and len(self.proposals) < MOST_ASKS:
            number = self._promoted()
            if number is None:
                proposal = asker.ask(len(self.proposals), self._told(), notes)
                notes |= proposal.study_attrs
                first = STOPS[0] if self.spec.pruning is not None else STEPS
                self.proposals.append((proposal.params, self.table.nearest(proposal.params), first))
                self._train(self.proposals[-1][1], first)
            else:
                params, setting, allowed = self.proposals[number]
                further = next_stop(STOPS[:1], STEPS, allowed)
                self.proposals[number] = (params, setting, further)
                self._train(setting, further)
            yield self.cost, self._chosen()

    def _train(self, setting: Setting, until: int) -> None:
        before = self.trained.get(setting, 0)
        self.cost += max(0, until - before)
        self.trained[setting] = max(before, until)

    def _score(self, setting: Setting, steps: int) -> float:
        return self.table.scores[setting, self.seen][steps]

    def _promoted(self) -> int | None:
        if self.spec.pruning is None:
            return None
        standings = [
            Standing(n, {STOPS[0]: self._score(setting, STOPS[0])}, allowed)
            for n, (_, setting, allowed) in enumerate(self.proposals)
        ]
        found = may_go_on(self.spec.pruning, STOPS[:1], STEPS, standings, "maximize")
        return found[0] if found else None

    def _told(self) -> list[Told]:
        found = []
        for number, (params, setting, allowed) in enumerate(self.proposals):
            stops = {STOPS[0]: self._score(setting, STOPS[0])}
            if allowed == STEPS:
                value = (self._score(setting, STEPS),)
                found.append(Told(number, params, "complete", value, stops))
            else:
                found.append(Told(number, params, "pruned", (), stops))
        return found

    def _chosen(self) -> Setting | None:
        """The best by what the search has seen."""
        whole = [setting for setting, steps in self.trained.items() if steps == STEPS]
        return max(whole, key=lambda s: (self._score(s, STEPS), s), default=None)


def replay_all(table: Table) -> list[dict[str, Any]]:
    rows = []
    for search_seed in SEARCH_SEEDS:
        seen = table.seeds[search_seed % len(table.seeds)]
        best = max(table.truth(s, seen) for s in table.settings)
        for name, given in STRATEGIES.items():
            spec = SearchSpec.model_validate(
                {**given, "space": table.space, "trials": 10**6, "seed": search_seed}
            )
            last: dict[int, float] = {}
            for cost, chosen in Replay(table, spec, seen).run():
                if chosen is not None and cost <= table.budget_steps:
                    last[cost] = best - table.truth(chosen, seen)
            for cost, regret in last.items():
                rows.append(
                    {
                        "table": table.name,
                        "strategy": name,
                        "search_seed": search_seed,
                        "cost_steps": cost,
                        "regret": regret,
                    }
                )
    return rows


def at_cost(rows: list[dict[str, Any]], strategy: str, cost: int) -> dict[int, float]:
    """Search seed -> regret once so much was spent; seeds that have chosen nothing by then are absent."""
    found: dict[int, float] = {}
    for row in rows:
        if row["strategy"] == strategy and row["cost_steps"] <= cost:
            found[row["search_seed"]] = row["regret"]
    return found


def summarise(rows: list[dict[str, Any]], table: Table) -> list[dict[str, Any]]:
    """Mean regret in points, and its paired difference from random draws, with 95 % intervals over search seeds."""
    found = []
    for cost in costs_of(table):
        base = at_cost(rows, "random", cost)
        for name in STRATEGIES:
            regrets = at_cost(rows, name, cost)
            gaps = [100 * (regrets[s] - base[s]) for s in regrets if s in base]
            points = [100 * r for r in regrets.values()]
            low, high = interval(points) or (math.nan, math.nan)
            gap = interval(gaps) if name != "random" else None
            found.append(
                {
                    "table": table.name, "cost_steps": cost, "strategy": name, "searches": len(points),
                    "regret_points": round(statistics.fmean(points), 3),
                    "low": round(low, 3), "high": round(high, 3),
                    "against_random": round(statistics.fmean(gaps), 3) if gap else "",
                    "against_low": round(gap[0], 3) if gap else "", "against_high": round(gap[1], 3) if gap else "",
                }
            )  # fmt: skip
    return found


def compared(rows: list[dict[str, Any]], tables: list[Table]) -> list[dict[str, Any]]:
    """The regret of each search at the costs that are compared."""
    return [
        {
            "table": table.name,
            "strategy": name,
            "cost_steps": cost,
            "search_seed": seed,
            "regret": f"{regret:.6f}",
        }
        for table in tables
        for name in STRATEGIES
        for cost in costs_of(table)
        for seed, regret in at_cost([row for row in rows if row["table"] == table.name], name, cost).items()
    ]


def costs_of(table: Table) -> tuple[int, ...]:
    """Costs at which the strategies are compared, in training steps: up to a third of the table."""
    return table.budget_steps // 4, table.budget_steps // 2, table.budget_steps


def draw(rows: list[dict[str, Any]], tables: list[Table]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(tables), figsize=(9, 3.4), constrained_layout=True)
    colours = ["#0072B2", "#56B4E9", "#D55E00", "#009E73", "#CC79A7"]
    for axis, table in zip(axes, tables, strict=True):
        own = [row for row in rows if row["table"] == table.name]
        costs = range(2 * STEPS, table.budget_steps + 1, STEPS // 3)
        for name, colour in zip(STRATEGIES, colours, strict=True):
            means = [100 * statistics.fmean(at_cost(own, name, cost).values()) for cost in costs]
            axis.plot([cost / STEPS for cost in costs], means, label=name, color=colour, lw=1.6)
        axis.set_title(table.name, fontsize=9)
        axis.set_xlabel("cost (whole runs)")
        axis.set_ylabel("regret of the choice (points)")
        axis.set_ylim(bottom=0)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(HERE / "regret.png", dpi=140)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="") as f:
        out = csv.DictWriter(f, list(rows[0]), lineterminator="\n")
        out.writeheader()
        out.writerows(rows)


def describe(table: Table) -> str:
    """How much there is to find in a table, beside the noise of a seed."""
    scores = [[100 * table.scores[s, seed][STEPS] for seed in table.seeds] for s in table.settings]
    means = [statistics.fmean(row) for row in scores]
    noise = math.sqrt(statistics.fmean(statistics.variance(row) for row in scores))
    return (
        f"{table.name}: {len(means)} settings x {len(table.seeds)} seeds, mean {statistics.fmean(means):.1f} %; "
        f"sd of the settings' means {statistics.stdev(means):.2f} points, of one seed {noise:.2f}"
    )


def main() -> None:
    tables = [Table(name) for name in TABLES]
    rows, found = [], []
    for table in tables:
        print(describe(table))
        replayed = replay_all(table)
        rows += replayed
        found += summarise(replayed, table)
    write(HERE / "results.csv", compared(rows, tables))
    write(HERE / "summary.csv", found)
    draw(rows, tables)
    for row in found:
        print(row)


if __name__ == "__main__":
    main()
