"""What can be told of a plan beside its rows: what changed, how far its searches are, how long the rest will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trb_lab.driver.changes import Changes, changes_of
from trb_lab.driver.estimate import Estimate, estimate
from trb_lab.driver.plan import Plan
from trb_lab.driver.search_counts import SearchCounts, count_search, counts_of
from trb_lab.driver.search_state import SearchState
from trb_lab.launch.base import JobStatus
from trb_lab.store.run_dir import Store


@dataclass(frozen=True)
class Outlook:
    """See outlook_of."""

    changes: Changes
    searches: Mapping[str, SearchCounts]
    """By arm."""
    estimate: Estimate
    slots: int | None
    """Runs at once; None where nobody knows yet."""


def outlook_of(
    plan: Plan,
    store: Store,
    places: Mapping[str, JobStatus] | None = None,
    *,
    searches: Sequence[SearchState] | None = None,
    slots: int | None = None,
    on_gpu: bool | None = None,
) -> Outlook:
    """Read what there is to say about a plan. Changes nothing.

    `searches` are those of the plan where somebody has read them already. `places` tells what a cluster holds;
    `on_gpu` what a spec with `device: auto` gets here (None: as runs before had).
    """
    if searches is None:
        counts = {name: count_search(search, store, plan.trials) for name, search in plan.searches.items()}
    else:
        counts = {search.arm.name: counts_of(search) for search in searches}
    return Outlook(changes_of(plan, store, places), counts, estimate(plan, store, counts, on_gpu), slots)
