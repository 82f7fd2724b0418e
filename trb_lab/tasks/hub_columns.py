"""Columns of hub data sets by path: plain names, keys of nested mappings, one entry out of a list of mappings.

`conversations[from=human].value` is the `value` of the first entry of the list `conversations` whose `from` is
`human`. Such a path is followed inside Arrow: the long entries beside the one that is wanted (28 GB of responses in
OpenThoughts3) never become Python objects.
"""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trb_lab.errors import UsageError, did_you_mean

_STEP = re.compile(r"(?P<name>[^.\[\]]+)(?:\[(?P<key>[^=\]]+)=(?P<value>[^\]]*)\])?(?:\.|$)")


def parse_path(path: str, setting: str) -> list[tuple[str, str | None, str | None]]:
    """(name, key, value) of each step of a path; key and value where one entry of a list is picked."""
    steps, end = [], 0
    while end < len(path) or not path:
        step = _STEP.match(path, end)
        if step is None or (step.end() == len(path) and path.endswith(".")):
            raise UsageError(
                f"{setting}: '{path}' is not a column path. Write a name, name.key, or name[key=value].key."
            )
        steps.append((step["name"], step["key"], step["value"]))
        end = step.end()
    return steps


def read_column(table: pa.Table, path: str, setting: str, source: str) -> list[Any]:
    """Values of a column path, one for each row; null where a list has no entry that fits.

    Args:
        setting: the key path of the spec that names the column, for error messages.
        source: what is read, for error messages.

    Raises:
        UsageError: there is no such column or key; the message names those that there are.
    """
    if path in table.column_names:  # a name may hold dots
        return table.column(path).to_pylist()
    steps = parse_path(path, setting)
    values: list[Any] = []
    name = steps[0][0]
    if name not in table.column_names:
        hint = " Set answer_column: null where there are no answers." if "answer" in setting else ""
        raise UsageError(
            f"{setting}: {source} has no column '{name}', but {', '.join(table.column_names)}."
            f"{did_you_mean(name, table.column_names)}{hint}"
        )
    for chunk in table.column(name).chunks:
        array: pa.Array = chunk
        for depth, (key, match_key, match_value) in enumerate(steps):
            where = f"{setting}: '{path}' of {source}"
            if depth > 0:
                array = _key(array, key, where)
            if match_key is not None:
                array = _entry(array, match_key, match_value or "", where)
        values += array.to_pylist()
    return values


def _key(array: pa.Array, key: str, where: str) -> pa.Array:
    if not pa.types.is_struct(array.type):
        raise UsageError(f"{where}: there is no '{key}' in {array.type}, which is no mapping.")
    names = [array.type.field(i).name for i in range(array.type.num_fields)]
    if key not in names:
        raise UsageError(f"{where}: no key '{key}', but {', '.join(names)}.{did_you_mean(key, names)}")
    return pc.struct_field(array, key)


def _entry(array: pa.Array, key: str, value: str, where: str) -> pa.Array:
    """The first entry of each row's list whose `key` is `value`; null where there is none."""
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        raise UsageError(f"{where}: [{key}={value}] picks out of a list, and the column is {array.type}.")
    rows, entries = pc.list_parent_indices(array), pc.list_flatten(array)
    fits = pc.fill_null(pc.equal(pc.cast(_key(entries, key, where), pa.string()), value), False)
    rows = rows.filter(fits).to_pylist()
    first: list[int | None] = [None] * len(array)
    for position in range(len(rows) - 1, -1, -1):
        first[rows[position]] = position
    return entries.filter(fits).take(pa.array(first, pa.int64()))
