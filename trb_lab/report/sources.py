"""The sweeps that a report is about: each opened once, cut down to what the definition asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.spec.report import ReportSpec, SourceSpec
from trb_lab.store.run_dir import Store

from .arms import Arm, arms_of
from .collect import SweepData, collect
from .items import RunItems, collect_items
from .problems import Comparison, comparisons
from .settings import Setting, reference_setting, settings_of
from .setup_facts import flatten


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

    @property
    def reference(self) -> Setting | None:
        return reference_setting(self.settings)


def open_sources(store: Store, spec: ReportSpec) -> dict[str, Source]:
    """Every source of the definition. Raises UsageError for sweeps that the store has not, and for empty sources."""
    return {name: _open(store, spec, name, source) for name, source in spec.sources.items()}


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
    data = _labelled(_kept(data, source, name), spec.labels)
    return Source(name, source.label or found, store, data)


def _kept(data: SweepData, source: SourceSpec, name: str) -> SweepData:
    """Only the trials that the source asks for."""
    plan, trials = data.plan.get("trials", []), data.trials
    arms = list(dict.fromkeys(t["arm"] for t in plan))
    for arm in [*(source.arms or ()), *([source.reference] if source.reference else ())]:
        if arm not in arms:
            hint = did_you_mean(arm, arms)
            raise UsageError(
                f"sources.{name}: {data.name} has no arm '{arm}'.{hint} Arms: {', '.join(arms)}."
            )
    wanted = {key: value if isinstance(value, list) else [value] for key, value in source.where.items()}
    keep = [_fits(t, source, wanted) for t in plan]
    if all(keep):
        return data
    if not any(keep):
        raise UsageError(f"sources.{name}: no trial of {data.name} is of these arms, seeds and `where`.")
    kept = {t["run_id"] for t, k in zip(plan, keep, strict=True) if k}
    frames = {
        field: (frame := getattr(data, field))[frame["run_id"].isin(kept)].reset_index(drop=True)
        for field in ("curves", "checkpoints", "timing", "costs")
    }
    scores = data.scores[data.scores["run_id"].isin(kept | set(data.references["run_id"]))]
    return replace(
        data,
        plan={**data.plan, "trials": [t for t, k in zip(plan, keep, strict=True) if k]},
        trials=trials[keep].reset_index(drop=True),
        scores=scores.reset_index(drop=True),
        **frames,
    )


def _fits(trial: Mapping[str, Any], source: SourceSpec, wanted: Mapping[str, Sequence[Any]]) -> bool:
    if source.arms is not None and trial["arm"] not in source.arms:
        return False
    if source.seeds is not None and trial["seed"] not in source.seeds:
        return False
    flat = flatten(trial.get("spec") or {})
    return all(flat.get(key) in {flatten({"": v})[""] for v in values} for key, values in wanted.items())


def _labelled(data: SweepData, labels: Mapping[str, str]) -> SweepData:
    named = data.trials["arm"].map(labels)
    return (
        replace(data, trials=data.trials.assign(label=named.fillna(data.trials["label"]))) if labels else data
    )
