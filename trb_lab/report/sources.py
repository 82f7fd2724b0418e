"""The sweeps that a report is about: each opened once, cut down to what the definition asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_args

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.spec.report import ExcerptBlock, ReportSpec, SourceSpec, TableBlock, block_name
from trb_lab.spec.warmup import ARM_SPECS
from trb_lab.store.run_dir import Store

from .arms import Arm, arms_of
from .collect import SweepData, collect
from .items import RunItems, collect_items
from .problems import Comparison, comparisons
from .settings import Setting, reference_setting, settings_of
from .source_filter import cut_down

KINDS = frozenset(str(get_args(arm.model_fields["kind"].annotation)[0]) for arm in ARM_SPECS)


@dataclass(frozen=True)
class Source:
    """One sweep as the report sees it."""

    name: str
    """Its key in the definition."""
    label: str
    store: Store
    data: SweepData

    @cached_property
    def settings(self) -> list[Setting]:
        """In the order of the plan."""
        return settings_of(self.data)

    @cached_property
    def items(self) -> dict[str, RunItems]:
        """Run id -> item scores, of completed trials that have any."""
        return collect_items(self.store, self.data)

    @cached_property
    def arms(self) -> list[Arm]:
        """In the order of the plan, with what both selection rules choose."""
        return arms_of(self.data, self.settings, self.items)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Settings with the reference, problem by problem."""
        return comparisons(self.data, self.settings, self.items)

    @cached_property
    def read_of_runs(self) -> dict[str, dict[str, Any]]:
        """Run id -> what sidecar.py has read of its files so far."""
        return {}

    def prepare(self) -> None:
        """Work out what nearly every part of a report asks for, so that forked processes inherit it."""
        _ = self.settings, self.data.begun

    @property
    def reference(self) -> Setting | None:
        return reference_setting(self.settings)


def open_sources(store: Store, spec: ReportSpec) -> dict[str, Source]:
    """Every source of the definition, under labels of their own.

    Raises UsageError for sweeps that the store has not, for empty sources, and for arms that nothing knows.
    """
    found = {name: _open(store, spec, name, source) for name, source in spec.sources.items()}
    labels = [source.label for source in found.values()]
    for name, source in found.items():
        if labels.count(source.label) > 1:  # two cuts of one sweep
            found[name] = replace(source, label=f"{source.label} ({name})")
    _refuse_misspelt(spec, found.values())
    return found


def _refuse_misspelt(spec: ReportSpec, sources: Iterable[Source]) -> None:
    """Arms that are neither in a source nor of a kind that there is: a definition may name arms that have not run."""
    arms = dict.fromkeys(arm for source in sources for arm in source.data.trials["arm"])
    named = {"labels": list(spec.labels)}
    for block in spec.blocks:
        place = f"block {block_name(block)}"
        if isinstance(block, ExcerptBlock):
            named[f"{place}: arms"] = list(block.arms or ())
        if isinstance(block, TableBlock):
            named[f"{place}: rows"] = list(block.rows or ())
            named[f"{place}: published"] = [r.arm for r in block.published.rows] if block.published else []
    for place, given in named.items():
        for arm in given:
            if arm not in arms and arm not in KINDS:
                hint = did_you_mean(arm, arms)
                raise UsageError(f"{place}: there is no arm '{arm}'.{hint} Arms: {', '.join(arms)}.")


def _open(store: Store, spec: ReportSpec, name: str, source: SourceSpec) -> Source:
    known = [s.name for s in store.sweeps()]
    found = next((sweep for sweep in source.sweeps if sweep in known), None)
    if found is None:
        wanted = " or ".join(f"'{s}'" for s in source.sweeps)
        hint = did_you_mean(source.sweeps[-1], known)
        raise UsageError(
            f"sources.{name}: there is no sweep {wanted} in {store.root}.{hint} Sweeps there: "
            f"{', '.join(known) or 'none yet'}. Run `trb-lab sweep sweeps/{source.sweeps[-1]}.yaml`, or name another "
            f"with --sweep {name}=SWEEP."
        )
    data = collect(store, found, source.reference)
    data = _labelled(cut_down(data, source, name), spec.labels)
    return Source(name, source.label or found, store, data)


def _labelled(data: SweepData, labels: Mapping[str, str]) -> SweepData:
    named = data.trials["arm"].map(labels)
    return (
        replace(data, trials=data.trials.assign(label=named.fillna(data.trials["label"]))) if labels else data
    )
