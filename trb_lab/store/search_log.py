"""What a search decided: `search/ARM.jsonl` of a sweep, each line on disk before anything was started because of it.

Events, all with `context`, `time` and `rows`:

    proposal    a new candidate: number, origin (ask, grid, warm), params, attrs, study_attrs
    replicate   one more seed of a candidate: number
    confirm     the winners, on fresh seeds: numbers

`context` names what the search's trials have in common: lines of another context belong to another base
experiment, and are left alone. `rows` are plan rows as in plan.json, for the runs that the event is about.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .run_dir import append_line

Event = Literal["proposal", "replicate", "confirm"]


@dataclass(frozen=True)
class Decision:
    """One line."""

    event: Event
    context: str
    rows: tuple[dict[str, Any], ...]
    time: float = field(default_factory=time.time)
    number: int | None = None
    """The candidate's, but for `confirm`."""
    numbers: tuple[int, ...] = ()
    """The winners' (`confirm` alone)."""
    origin: Literal["ask", "grid", "warm"] = "ask"
    params: Mapping[str, Any] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """What the sampler noted about the candidate."""
    study_attrs: Mapping[str, Any] = field(default_factory=dict)
    """What the sampler has noted about the whole search by then."""


def append(path: Path, decision: Decision) -> None:
    """Write a line; it is on disk before this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    value = {key: v for key, v in vars(decision).items() if v not in (None, (), {})}
    append_line(path, json.dumps(value, allow_nan=False, ensure_ascii=False))


def decisions(path: Path, context: str | None = None) -> Iterator[Decision]:
    """Every whole line, in order; of one context where it is given."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            value: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(line).items()}
            found = Decision(**value)
        except (ValueError, TypeError):  # torn by a death
            continue
        if context is None or found.context == context:
            yield found


def rows_of(found: Sequence[Decision]) -> list[dict[str, Any]]:
    """The plan rows of decisions, each run of a candidate once."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for decision in found:
        for row in decision.rows:
            rows.setdefault((row["arm"], row["setting"], row["run_id"]), row)
    return list(rows.values())
