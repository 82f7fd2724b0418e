"""One run's files as columns and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trb_lab.store.items import COLUMNS as ITEM_COLUMNS
from trb_lab.store.metrics import iter_lines
from trb_lab.store.run_dir import RunDir
from trb_lab.store.samples import COLUMNS as SAMPLE_COLUMNS


@dataclass(frozen=True)
class Steps:
    """Numbers by step: `steps` int64 and increasing, each column float64 with NaN where a step has none."""

    steps: np.ndarray
    columns: Mapping[str, np.ndarray]


def flat(spec: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; of a list of evaluation sets or other mappings their names, as one text."""
    found: dict[str, Any] = {}
    for key, value in spec.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            found |= flat(value, name)
        elif isinstance(value, list):
            found[name] = ", ".join(
                str(v.get("name", v)) if isinstance(v, Mapping) else str(v) for v in value
            )
        else:
            found[name] = value
    return found


def fits(name: str, patterns: Sequence[str] | None) -> bool:
    """Whether one of the patterns names it; all names where it is None."""
    return patterns is None or any(name == p or fnmatchcase(name, p) for p in patterns)


def metric_columns(run: RunDir, patterns: Sequence[str] | None) -> Steps:
    """Columns of metrics.jsonl, in alphabetical order."""
    lines = [line for _, line in iter_lines(run.metrics) if "step" in line]
    return _columns(lines, patterns)


def timing_columns(run: RunDir, patterns: Sequence[str] | None) -> Steps:
    """Columns of timing.jsonl with `/` between the levels; of a step that was repeated the last line."""
    last: dict[int, dict[str, Any]] = {}
    for _, line in iter_lines(run.timing):
        if "step" in line:
            last[int(line["step"])] = dict(_leaves(line))
    return _columns([last[step] for step in sorted(last)], patterns)


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{prefix}{key}/")
        else:
            yield prefix + key, inner


def _columns(lines: Sequence[Mapping[str, Any]], patterns: Sequence[str] | None) -> Steps:
    names = sorted({name for line in lines for name in line} - {"step"})
    steps = np.array([line["step"] for line in lines], dtype=np.int64)
    columns = {n: np.array([line.get(n) for line in lines], dtype=float) for n in names if fits(n, patterns)}
    return Steps(steps, columns)


def stacked(parts: Sequence[tuple[Mapping[str, Any], Steps]], identity: Sequence[str]) -> pd.DataFrame:
    """One frame of all runs: identity, step, and every column that any of them has, in alphabetical order."""
    lengths = [len(found.steps) for _, found in parts]
    columns: dict[str, Any] = {}
    for name in identity:
        values = [named[name] for named, _ in parts]
        columns[name] = np.repeat(np.array(values, dtype=np.int64 if name == "seed" else object), lengths)
    columns["step"] = np.concatenate([np.empty(0, np.int64), *(found.steps for _, found in parts)])
    names = sorted({name for _, found in parts for name in found.columns})
    for name in names:
        columns[name] = np.concatenate(
            [
                found.columns[name] if name in found.columns else np.full(length, np.nan)
                for (_, found), length in zip(parts, lengths, strict=True)
            ]
        )
    return pd.DataFrame(columns)


def item_table(run: RunDir) -> pd.DataFrame | None:
    """All item scores of a run, ITEM_COLUMNS; None where it has none."""
    files = sorted(run.items.glob("[!._]*.parquet"))
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True) if files else None


def kept_samples(run: RunDir) -> dict[tuple[int, str], Path]:
    """(step, source) -> file."""
    return {_step_and_source(file.stem): file for file in sorted(run.samples.glob("[!._]*.parquet"))}


def sample_table(run: RunDir, step: int | None, source: str | None) -> pd.DataFrame | None:
    """Kept responses, SAMPLE_COLUMNS; None where the run has kept none of this step and source."""
    files = [
        file
        for (number, name), file in kept_samples(run).items()
        if step in (None, number) and source in (None, name)
    ]
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True) if files else None


def _step_and_source(stem: str) -> tuple[int, str]:
    """Of a file's name: `step_000040-rollout`; files of one source alone may leave it out."""
    step, _, source = stem.removeprefix("step_").partition("-")
    return int(step), source or "rollout"


__all__ = [
    "ITEM_COLUMNS",
    "SAMPLE_COLUMNS",
    "Steps",
    "fits",
    "flat",
    "item_table",
    "kept_samples",
    "metric_columns",
    "sample_table",
    "stacked",
    "timing_columns",
]
