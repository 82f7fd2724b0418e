"""Columns whose numbers come from several versions of the code are flagged: they may differ for that reason alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from .collect import code_version
from .sources import Source
from .tables import Table

FLAG = "‡"


def run_versions(sources: Sequence[Source]) -> dict[str, str]:
    """Run id -> label of the code that made it, of trials and references; runs that do not say are absent."""
    found: dict[str, str] = {}
    for source in sources:
        trials = source.data.trials.dropna(subset=["code_version"])
        found |= {str(r): str(v) for r, v in zip(trials["run_id"], trials["code_version"], strict=True)}
        for run_id in source.data.references["run_id"]:
            version = code_version(source.store.reference(run_id))
            if version is not None:
                found[str(run_id)] = version
    return found


def with_code_flags(table: Table, versions: Mapping[str, str]) -> Table:
    """The table with FLAG on every column whose runs are of several versions, and notes that name them."""
    mixed: dict[tuple[str, ...], list[str]] = {}
    for index, column in enumerate(table.columns):
        runs = {r for row in table.rows for r in table.runs_behind(row, index)}
        counted = Counter(versions[r] for r in sorted(runs) if r in versions)
        if len(counted) > 1:
            told = tuple(f"{v} ({n} run{'s' * (n != 1)})" for v, n in sorted(counted.items()))
            mixed.setdefault(told, []).append(column)
    if not mixed:
        return table
    notes = [
        f"{FLAG} Made by several versions of the code, from which differences may come: {', '.join(told)}"
        + (f", in {', '.join(columns)}." if len(mixed) > 1 else ".")
        for told, columns in mixed.items()
    ]
    flags = {c: table.flags.get(c, "") + FLAG for columns in mixed.values() for c in columns}
    return replace(table, flags={**table.flags, **flags}, notes=[*table.notes, *notes])
