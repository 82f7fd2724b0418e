"""Item scores of a run as a parquet data set: one file for each evaluation and set, written atomically.

With them, arms are compared problem by problem, and every score of a set can be computed again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .run_dir import RunDir

COLUMNS = ("step", "set", "problem", "sample", "correct", "reason", "answer", "tokens", "finished")
UNTRAINED = -1
"""Step of the scores of a model that was not trained (references)."""


def write_items(run_dir: RunDir, step: int, set_name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write one evaluation of one set: COLUMNS without step and set; a resumed run writes the same file again.

    `step` is that of the line of metrics.jsonl with the scores, or UNTRAINED.
    """
    import pyarrow as pa

    types = {
        "step": pa.int64(),
        "sample": pa.int64(),
        "correct": pa.bool_(),
        "tokens": pa.int64(),
        "finished": pa.bool_(),
    }
    schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
    full = [{"step": step, "set": set_name, **row} for row in rows]
    _write(
        run_dir,
        pa.table({name: [row[name] for row in full] for name in COLUMNS}, schema=schema),
        _file(step, set_name),
    )


def rename_set(run_dir: RunDir, old: str, new: str) -> None:
    """Give the item scores of a set another name, at every step.

    A step that has scores under the new name keeps those: an earlier call was cut short, and what the old name
    holds since then is not what it held.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in sorted(run_dir.items.glob("[!._]*.parquet")):
        stem, _, name = file.stem.partition("-")
        if name != old:
            continue
        target = f"{stem}-{new}.parquet"
        if not (run_dir.items / target).exists():
            table = pq.ParquetFile(file).read()
            column = pa.array([new] * table.num_rows, pa.string())
            _write(run_dir, table.set_column(table.column_names.index("set"), "set", column), target)
        file.unlink()


def _file(step: int, set_name: str) -> str:
    return f"{'untrained' if step == UNTRAINED else f'step_{step:06d}'}-{set_name}.parquet"


def _write(run_dir: RunDir, table: Any, name: str) -> None:
    import pyarrow.parquet as pq

    run_dir.items.mkdir(parents=True, exist_ok=True)
    # A leading underscore or dot hides a file from parquet readers: a torn one is never seen.
    temporary: Path = run_dir.items / f"_{name}.tmp"
    pq.write_table(table, temporary)
    os.replace(temporary, run_dir.items / name)
