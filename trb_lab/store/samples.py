"""Sample responses of a run as a parquet data set: one file for each step and source, written atomically."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .run_dir import RunDir

COLUMNS = (
    "step",
    "source",
    "row",
    "prompt",
    "response",
    "answer",
    "gold",
    "correct",
    "tokens",
    "student_logprob",
    "teacher_logprob",
    "behavior_logprob",
    "redraw_probability",
    "redrawn",
)


def write_samples(run_dir: RunDir, step: int, source: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows (COLUMNS without step, source and row); a resumed run writes the same file again."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    full = [{"step": step, "source": source, "row": i, **row} for i, row in enumerate(rows)]
    numbers = pa.list_(pa.float32())
    types = {
        "step": pa.int64(),
        "row": pa.int64(),
        "correct": pa.bool_(),
        "tokens": pa.list_(pa.string()),
        **dict.fromkeys(COLUMNS[-5:-1], numbers),
        "redrawn": pa.list_(pa.bool_()),
    }
    schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
    table = pa.table({name: [row.get(name) for row in full] for name in COLUMNS}, schema=schema)
    run_dir.samples.mkdir(parents=True, exist_ok=True)
    # A leading underscore or dot hides a file from parquet readers: a torn one is never seen.
    temporary = run_dir.samples / f"_{source}-{step:06d}.tmp"
    pq.write_table(table, temporary)
    os.replace(temporary, run_dir.samples / f"step_{step:06d}-{source}.parquet")
