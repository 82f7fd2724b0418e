"""A table as JSON: every cell with its numbers and the runs that it was made from, and what those runs are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from trb_lab.spec.report import StatisticsSpec
from trb_lab.store.identity import canonical_json
from trb_lab.store.run_dir import RunDir, read_json

from .collect import code_version
from .sources import Source
from .tables import Row, Table

FORMAT = 1


def to_sidecar(
    table: Table, name: str, sources: Mapping[str, Source], statistics: StatisticsSpec | None = None
) -> str:
    """JSON with sorted keys. Only runs of these sources are told of."""
    cells = [
        _cell(table, row, index, column) for row in table.rows for index, column in enumerate(table.columns)
    ]
    known = _known_runs(list(sources.values()))
    read = next(iter(sources.values())).read_of_runs
    wanted = sorted({run for cell in cells for run in cell["runs"]} & set(known))
    content = {
        "format": FORMAT,
        "name": name,
        "title": table.title,
        "notes": table.notes,
        "columns": [{"name": c, "flag": table.flags.get(c, "")} for c in table.columns],
        "groups": [{"title": title, "columns": span} for title, span in table.groups],
        "rows": [{"title": r.title, "kind": r.kind} for r in table.rows],
        "cells": cells,
        "runs": {run: known[run][0] | _from_files(known[run][1], read) for run in wanted},
        "statistics": (statistics or StatisticsSpec()).model_dump(mode="json"),
    }
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _cell(table: Table, row: Row, index: int, column: str) -> dict[str, Any]:
    cell = row.cells[index]
    return {
        "row": row.title,
        "column": column,
        "text": cell.text,
        "value": _rounded(cell.value),
        "half_width": _rounded(cell.half_width),
        "bold": cell.bold,
        "second": cell.second,
        "mark": cell.mark,
        "note": cell.note,
        "runs": sorted(set(table.runs_behind(row, index))),
    }


def _rounded(value: float | None) -> float | None:
    """Ten digits: what the last ones are depends on the machine."""
    return None if value is None else float(f"{value:.10g}")


def _known_runs(sources: Sequence[Source]) -> dict[str, tuple[dict[str, Any], RunDir]]:
    """Run id -> what the sweeps say of it, and its folder. `used_as`: once a source, arm and setting that has it."""
    found: dict[str, tuple[dict[str, Any], RunDir]] = {}

    def add(run: RunDir, seed: int | None, state: Any, use: dict[str, str]) -> None:
        told: dict[str, Any] = {"seed": seed, "state": str(state), "used_as": []}
        found.setdefault(run.run_id, (told, run))[0]["used_as"].append(use)

    for source in sources:
        where = {"source": source.name, "sweep": source.data.name}
        for row in source.data.trials.to_dict("records"):
            use = {**where, "arm": str(row["arm"]), "setting": str(row["setting"])}
            add(source.store.trial(str(row["run_id"])), int(row["seed"]), row["state"], use)
        for row in source.data.references.to_dict("records"):
            use = {**where, "role": str(row["role"])}
            add(source.store.reference(str(row["run_id"])), None, row["state"], use)
    return found


def _from_files(run: RunDir, read: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """config: sha256 of the identity, of which the run id holds the first ten digits; null where a run has none.

    `read` keeps what has been read: mostly all tables are of the same runs.
    """
    if run.run_id in read:
        return read[run.run_id]
    identity = (read_json(run.config) or {}).get("identity")
    data = read_json(run.data) or {}
    sets = ((read_json(run.result) or {}).get("final") or {}).get("sets") or {}
    read[run.run_id] = {
        "config_sha256": hashlib.sha256(canonical_json(identity).encode()).hexdigest() if identity else None,
        "code_version": code_version(run),
        "prompts_sha256": data.get("prompts_sha256"),
        "evaluation_sets": {name: entry.get("fingerprint") for name, entry in sorted(sets.items())},
    }
    return read[run.run_id]
