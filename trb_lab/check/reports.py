"""Whether a report's definition is valid, and which of its sweeps have run in this store."""

from __future__ import annotations

from pathlib import Path

from trb_lab.errors import did_you_mean
from trb_lab.spec import load_report
from trb_lab.spec.report import ReportSpec, SourceSpec
from trb_lab.store.run_dir import Store, read_json

from .findings import Findings


def check_report(path: Path, store: Store, findings: Findings) -> None:
    """Load it, and look for each source's sweep. Raises UsageError for a file with mistakes."""
    spec = load_report(path)
    findings.ok(
        "spec", f"report '{spec.name}' is valid: {len(spec.blocks)} blocks of {len(spec.sources)} sources"
    )
    for name, source in spec.sources.items():
        _source(name, source, spec, store, findings)


def _source(name: str, source: SourceSpec, spec: ReportSpec, store: Store, findings: Findings) -> None:
    known = [s.name for s in store.sweeps()]
    found = next((s for s in source.sweeps if s in known), None)
    if found is None:
        wanted = " or ".join(source.sweeps)
        hint = did_you_mean(source.sweeps[-1], known)
        findings.warn("sweep", f"source {name}: {wanted} has not run in {store.root}.{hint}")
        return
    plan = read_json(store.sweep(found).plan) or {}
    arms = list(dict.fromkeys(t["arm"] for t in plan.get("trials", [])))
    named = [*(source.arms or ()), *([source.reference] if source.reference else ())]
    absent = [arm for arm in named if arm not in arms]
    if absent:
        hint = did_you_mean(absent[0], arms)
        findings.fail(
            "sweep", f"source {name}: {found} has no arm '{absent[0]}'.{hint} Arms: {', '.join(arms)}."
        )
        return
    findings.ok("sweep", f"source {name}: {found}, {len(arms)} arms")
