"""All searches of a sweep, beside the fleet that runs their trials."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from trb_lab.driver.budget import Budget, Meter, budget_text
from trb_lab.driver.cluster import places_of
from trb_lab.driver.plan import Plan
from trb_lab.driver.search_counts import counts_of
from trb_lab.driver.search_summary import summary, write_summary
from trb_lab.driver.searching import Search, Surroundings
from trb_lab.launch.base import JobStatus
from trb_lab.launch.follow import Fleet
from trb_lab.store.run_dir import RunDir, Store, read_json

_LOOK_AT_BUDGET_SECONDS = 5.0


def require_samplers(plan: Plan) -> None:
    """Raises MissingExtra or UsageError where a search that is to ask for more cannot propose anything."""
    for planned in plan.searches.values():
        if (
            sum(d.event == "proposal" and d.origin == "ask" for d in planned.decisions)
            < planned.arm.spec.trials
        ):
            from trb_lab.search.optuna import Asker

            Asker(planned.arm.spec)


class Searches:
    """What asks for trials as results come in; empty for a sweep without a search."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        *,
        retry: Collection[str] = (),
        places: Mapping[str, JobStatus] | None = None,
        budget: Budget | None = None,
        names: dict[str, str] | None = None,
    ) -> None:
        """Reads the runs of every search. `names` gets what each run that they start is called."""
        self.plan, self.store = plan, store
        self.check: Callable[[], object] = lambda: None
        """Raises where another driver has taken over."""
        self.purse = Purse(plan, store, budget) if budget is not None else None
        around = self._around = Surroundings(
            store,
            retry,
            places,
            frozenset(plan.trials),
            self.purse.spent_text if self.purse is not None else lambda: None,
            names if names is not None else {},
            lambda: self.check(),
        )
        with _no_collection():
            self.all = [Search(planned, around) for planned in plan.searches.values()]
        if self.purse is not None:
            self.purse.runs = self._runs

    def _runs(self) -> list[RunDir]:
        """Every run of the sweep."""
        asked = [run.run_dir for search in self.all for run in search.runs()]
        return list(
            {run.path: run for run in [*(t.run_dir for t in self.plan.trials.values()), *asked]}.values()
        )

    def as_of_now(self, anew: bool = False) -> Searches:
        """With what another driver has decided since these were read (`anew`: read the runs again in any case)."""
        now = {name: planned.as_of_now(self.store) for name, planned in self.plan.searches.items()}
        if not anew and all(now[name] is self.plan.searches[name] for name in now):
            return self
        return Searches(
            replace(self.plan, searches=now),
            self.store,
            retry=self._around.retry,
            places=places_of(self.store),
            budget=self.purse.budget if self.purse is not None else None,
            names=self._around.names,
        )

    def purse_text(self) -> str:
        """How much of the budget is spent; empty without one."""
        return (
            f"Budget: {budget_text(self.purse.budget, self.purse.spent())} spent."
            if self.purse is not None
            else ""
        )

    def preview(self, slots: int) -> list[str]:
        """What each of them would ask for next, if nothing new finished first."""
        return [line for search in self.all for line in search.upcoming(min(slots, search.spec.most_at_once))]

    @property
    def over(self) -> bool:
        """Whether none of them will start anything more."""
        return all(search.over for search in self.all)

    def begin(self, fleet: Fleet) -> None:
        for search in self.all:
            search.begin(fleet)

    def tick(self, fleet: Fleet) -> None:
        """After each look of the fleet."""
        directory = self.store.sweep(self.plan.sweep.name)
        for search in self.all:
            search.tick(fleet)
            if search.save():
                with contextlib.suppress(OSError):  # the end tries again, and tells
                    write_summary(search, directory, whole=False)

    def finish(self) -> list[str]:
        """Write down how they stand. Lines for what could not be written."""
        directory = self.store.sweep(self.plan.sweep.name)
        problems = []
        for search in self.all:
            search.save(now=True)
            try:
                write_summary(search, directory)
            except OSError as error:
                problems.append(f"The search's summary is not written: {error}")
            if search.view_problem is not None:
                problems.append(f"The search's views are not up to date: {search.view_problem}")
        return problems

    def lines(self) -> list[str]:
        """How each of them stands, in a sentence."""
        return [_line(search) for search in self.all]

    def as_json(self) -> dict[str, Any]:
        """By arm, as the summaries have it, without the candidates."""
        found = {}
        for search in self.all:
            told = summary(search, whole=False)
            found[search.arm.name] = {
                key: told[key]
                for key in (
                    "asked",
                    "known",
                    "grid",
                    "trials",
                    "counts",
                    "best",
                    "front",
                    "winners",
                    "over",
                    "stopped",
                )
            }
        return found


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without looks for garbage, of which ten thousand runs leave none: they would take a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _line(search: Search) -> str:
    return counts_of(search).sentence() + (f"; stopped: {search.stopped}" if search.stopped else "")


@dataclass
class Purse:
    """A budget, and how much of it is spent."""

    plan: Plan
    store: Store
    budget: Budget

    def __post_init__(self) -> None:
        created = (read_json(self.store.sweep(self.plan.sweep.name).plan) or {}).get("created", time.time())
        self._began = time.monotonic()
        self._meter = Meter(self.store, created)
        self._next_look = 0.0
        self._spent = 0.0
        self.runs: Callable[[], list[RunDir]] = list

    def spent(self) -> float:
        """In the budget's unit; looked up every few seconds."""
        if self.budget.unit == "h":
            return (time.monotonic() - self._began) / 3600
        if time.monotonic() >= self._next_look:
            self._spent = self._meter.spent(self.runs(), self.budget.unit)
            self._next_look = time.monotonic() + _LOOK_AT_BUDGET_SECONDS
        return self._spent

    def spent_text(self) -> str | None:
        """Why nothing more is started; None while there is something left."""
        spent = self.spent()
        if spent < self.budget.amount:
            return None
        return f"the budget is spent ({budget_text(self.budget, spent)})"
