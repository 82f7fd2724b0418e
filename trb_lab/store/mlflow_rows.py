"""What a run directory's files look like in MLflow: params, metric rows, a page of samples.."""

from __future__ import annotations

import bisect
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from .identity import flatten
from .mlflow_tracking import MetricRow

SAMPLE_ROWS = 60
SAMPLE_CHARACTERS = 4000
ERROR_CHARACTERS = 500

TOKEN_PHASES = ("rollout", "scoring", "objective")
"""Phases whose tokens may fall to zero in the midst of a run, which a chart should show."""

_SAMPLE_COLUMNS = ("source", "row", "prompt", "response", "answer", "gold", "correct")
_TABLE_COLUMNS = ("prompt", "response", "answer", "gold", "correct", "source", "row")
"""The first two are what MLflow lays tables of runs side by side by: a row a prompt, a column a run's response."""


@cache
def metric_name(text: str) -> str:
    """`text` with the characters that MLflow refuses in names turned into blanks or dashes."""
    return " ".join(re.sub(r"[^\w./ \-]", "-", text.replace("=", " ")).split())


def params(spec: Mapping[str, Any]) -> dict[str, str]:
    """Dotted key -> text. Strings as they are, everything else as JSON."""
    flat = flatten(dict(spec))
    return {
        metric_name(key): value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in flat.items()
    }


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)  # as JSON gives them: no bool, and no subclass


def step_times(timing: Iterable[tuple[int, Mapping[str, Any]]]) -> dict[int, int]:
    """Step -> time of its first line in timing.jsonl (pairs of iter_lines), in ms.

    The first line, because the file only grows: a step that is done again after a resume keeps its timestamp,
    so that its rows are stored once.
    """
    times: dict[int, int] = {}
    for _, line in timing:
        if "step" in line and "time" in line:
            times.setdefault(int(line["step"]), int(1000 * line["time"]))
    return times


def time_of(times: Mapping[int, int], step: int, start_ms: int) -> int:
    """Time of a step in ms; where its line is missing, that of the step before it, or the run's start."""
    if step in times:
        return times[step]
    steps = sorted(times)
    before = bisect.bisect_left(steps, step)
    return times[steps[before - 1]] if before else start_ms


def metric_rows(line: Mapping[str, Any], timestamp_ms: int) -> list[MetricRow]:
    """Rows of one line of metrics.jsonl. Evaluations are measured after update k, so they stand at k + 1."""
    step = int(line["step"])
    return [
        MetricRow(metric_name(key), float(value), timestamp_ms, step + 1 if key.startswith("eval/") else step)
        for key, value in line.items()
        if key != "step" and _is_number(value)
    ]


def new_timing(
    lines: Iterable[tuple[int, Mapping[str, Any]]], shown: int
) -> Iterator[tuple[int, list[MetricRow]]]:
    """Rows of the lines whose step lies past `shown`; none for a step that was done again after a resume.

    The first line of a step counts, as in step_times: clocks differ from attempt to attempt, and two rows at
    one step would make a zigzag of the chart.
    """
    for offset, line in lines:
        made = timing_rows(line) if int(line.get("step", -1)) > shown else []
        if made:
            shown = made[0].step
        yield offset, made


def timing_rows(line: Mapping[str, Any]) -> list[MetricRow]:
    """Rows `system/...` of one line of timing.jsonl, less costs that would only fill the page with flat charts."""
    if "step" not in line or "time" not in line:
        return []
    values = flatten({k: v for k, v in line.items() if k not in ("step", "time", "attempt")})
    when, step = int(1000 * line["time"]), int(line["step"])
    return [
        MetricRow(_system_name(key), float(value), when, step)
        for key, value in values.items()
        if _is_number(value) and (value or not _says_nothing_at_zero(key)) and not _is_repeated(key)
    ]


@cache
def _system_name(key: str) -> str:
    return metric_name("system/" + key.replace(".", "/"))


@cache
def _is_repeated(key: str) -> bool:
    """`cost.<phase>.seconds` is `seconds.<phase>` once more."""
    return key.startswith("cost.") and key.endswith(".seconds")


@cache
def _says_nothing_at_zero(key: str) -> bool:
    """A cost that a phase never has: GPU time without a GPU, tokens where no model runs."""
    kind, phase, *rest = key.split(".")
    return kind == "cost" and (phase not in TOKEN_PHASES or rest == ["gpu_seconds"])


def finished_ms(result: Mapping[str, Any], fallback_ms: int) -> int:
    """When result.json got its present content: set anew whenever a set is added to it."""
    return int(1000 * result["finished"]) if _is_number(result.get("finished")) else fallback_ms


def final_rows(result: Mapping[str, Any], fallback_ms: int) -> list[MetricRow]:
    """Rows `final/...` of result.json, at the run's last step.

    The step stays when a set is added, and MLflow then shows the row with the largest timestamp.
    """
    final = result.get("final") or {}
    values: dict[str, Any] = {"mean_pass_at_1": final.get("mean_pass_at_1")}
    values["seconds_total"] = result.get("seconds_total")
    for name, entries in (final.get("sets") or {}).items():
        values.update({f"{name}/{key}": value for key, value in entries.items()})
    when, step = finished_ms(result, fallback_ms), int(result.get("steps") or 0)
    return [
        MetricRow(metric_name(f"final/{key}"), float(value), when, step)
        for key, value in values.items()
        if _is_number(value)
    ]


def _cell(value: Any) -> str:
    return f"<td><pre>{html.escape('' if value is None else _cut(str(value)))}</pre></td>"


def _cut(text: str) -> str:
    return text if len(text) <= SAMPLE_CHARACTERS else text[:SAMPLE_CHARACTERS] + " ..."


def _first_samples(parquet: Path) -> tuple[list[str], list[dict[str, Any]], int]:
    """Columns, the first rows, and how many there are."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(parquet)
    columns = [c for c in _SAMPLE_COLUMNS if c in file.schema_arrow.names]
    batch = next(file.iter_batches(batch_size=SAMPLE_ROWS, columns=columns), None)
    return columns, batch.to_pylist() if batch is not None else [], file.metadata.num_rows


def samples_views(parquet: Path) -> dict[str, str]:
    """File suffix -> one file of samples.parquet as a page and as a table of MLflow's.

    Raises what pyarrow raises for a file that is not complete.
    """
    columns, rows, count = _first_samples(parquet)
    return {
        ".html": _samples_page(parquet.stem, columns, rows, count),
        ".json": _samples_table(columns, rows),
    }


def _samples_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """What `mlflow.log_table` would write: `columns` and `data`, a list a row."""
    order = [c for c in _TABLE_COLUMNS if c in columns]
    data = [[_cut(row[c]) if isinstance(row[c], str) else row[c] for c in order] for row in rows]
    return json.dumps({"columns": order, "data": data}, ensure_ascii=False)


def _samples_page(stem: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], count: int) -> str:
    """A small HTML table; text is escaped, nothing is executed."""
    head = "".join(f"<th>{c}</th>" for c in columns)
    body = "\n".join("<tr>" + "".join(_cell(row[c]) for c in columns) + "</tr>" for row in rows)
    note = f"{len(rows)} of {count} rows; samples.parquet holds all, with values a token."
    return (
        "<!doctype html><meta charset='utf-8'><style>body{font:13px sans-serif}"
        "table{border-collapse:collapse}"
        "td,th{border:1px solid #ccc;padding:4px;vertical-align:top;text-align:left}"
        "pre{white-space:pre-wrap;margin:0;max-width:60ch}</style>"
        f"<p>{html.escape(stem)}: {note}</p><table><tr>{head}</tr>\n{body}</table>\n"
    )
