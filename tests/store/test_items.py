"""Item scores: what is written is read back, again and again, under a new name where asked."""

import pandas as pd
import pyarrow.parquet as pq

from trb_lab.store.items import COLUMNS, UNTRAINED, rename_set, write_items
from trb_lab.store.run_dir import RunDir


def row(problem: str, sample: int, correct: bool) -> dict:
    reason, answer = ("correct", "5") if correct else ("unboxed", None)
    return {
        "problem": problem, "sample": sample, "correct": correct, "reason": reason, "answer": answer, "tokens": 7,
        "finished": True,
    }  # fmt: skip


def test_a_run_is_one_table_and_a_repeated_step_replaces_its_rows(tmp_path):
    run = RunDir(tmp_path)
    write_items(run, 19, "easy", [row("p/0", 0, True), row("p/0", 1, False)])
    write_items(run, 39, "hard-1", [row("p/0", 0, True)])
    write_items(run, 19, "easy", [row("p/0", 0, False), row("p/1", 0, False)])
    table = pd.read_parquet(run.items)
    assert list(table.columns) == list(COLUMNS)
    assert sorted(zip(table["step"], table["set"], table["problem"], table["correct"], strict=True)) == [
        (19, "easy", "p/0", False),
        (19, "easy", "p/1", False),
        (39, "hard-1", "p/0", True),
    ]
    assert sorted(p.name for p in run.items.iterdir()) == [
        "step_000019-easy.parquet",
        "step_000039-hard-1.parquet",
    ]


def test_types_hold_where_a_column_is_all_null(tmp_path):
    run = RunDir(tmp_path)
    write_items(run, UNTRAINED, "easy", [row("p/0", 0, False)])
    schema = pq.ParquetFile(run.items / "untrained-easy.parquet").schema_arrow
    found = {field.name: str(field.type) for field in schema}
    text, number = "string", "int64"
    assert found == {
        "step": number, "set": text, "problem": text, "sample": number, "correct": "bool", "reason": text,
        "answer": text, "tokens": number, "finished": "bool",
    }  # fmt: skip


def test_a_renamed_set_keeps_its_rows_even_when_the_renaming_was_cut_short(tmp_path):
    run = RunDir(tmp_path)
    for step in (2, 5):
        write_items(run, step, "easy", [row("p/0", 0, True)])
    write_items(run, 5, "easy-2", [row("p/0", 0, True)])
    rename_set(run, "easy", "easy@12")
    write_items(run, 5, "easy", [row("q/0", 0, False)])  # then killed: the whole is done again
    rename_set(run, "easy", "easy@12")
    table = pd.read_parquet(run.items)
    assert sorted(zip(table["step"], table["set"], table["problem"], strict=True)) == [
        (2, "easy@12", "p/0"),
        (5, "easy-2", "p/0"),
        (5, "easy@12", "p/0"),
    ]
