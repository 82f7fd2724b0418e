import random

import pyarrow as pa
import pytest

from trb_lab.errors import UsageError
from trb_lab.tasks.hub_columns import parse_path, read_column


def test_against_plain_python() -> None:
    """Lists of any length, with entries that fit none, one or several times, over several chunks."""
    draws = random.Random(0)
    rows = [
        None
        if draws.random() < 0.1
        else [
            {"from": draws.choice(["human", "gpt", "system", None]), "value": f"{i}/{j}"}
            for j in range(draws.randrange(5))
        ]
        for i in range(300)
    ]
    kind = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
    chunks = pa.chunked_array([pa.array(rows[a:b], kind) for a, b in ((0, 100), (100, 101), (101, 300))])
    table = pa.table({"talk": chunks}).slice(7)
    expected = [
        next((entry["value"] for entry in row or [] if entry["from"] == "human"), None) for row in rows[7:]
    ]
    assert read_column(table, "talk[from=human].value", "prompt_column", "x") == expected
    whole = read_column(table, "talk[from=human]", "prompt_column", "x")
    assert [entry and entry["value"] for entry in whole] == expected


def test_keys_and_names_with_dots() -> None:
    table = pa.table({"a": [{"b": {"c": 1}}, {"b": None}], "a.b": [3, 4]})
    assert read_column(table, "a.b.c", "where", "x") == [1, None]
    assert read_column(table, "a.b", "where", "x") == [3, 4]


@pytest.mark.parametrize("path", ["", "a.", ".a", "a[b]", "a[b=c", "a]", "a[b=c]d"])
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(UsageError, match="is not a column path"):
        parse_path(path, "prompt_column")


def test_picking_out_of_what_is_no_list() -> None:
    with pytest.raises(UsageError, match="picks out of a list, and the column is string"):
        read_column(pa.table({"a": ["x"]}), "a[b=c]", "prompt_column", "x")
