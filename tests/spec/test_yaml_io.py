"""Scalars as people mean them, line numbers, and what is refused."""

from __future__ import annotations

import pytest

from trb_lab.errors import UsageError
from trb_lab.spec.yaml_io import parse


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("3", 3),
        ("-3", -3),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("0x1f", "0x1f"),
        ("2026-01-01", "2026-01-01"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1e-4'", "1e-4"),
        ("!!str 5", "5"),
        ("[1, no, .5]", [1, "no", 0.5]),
    ],
)
def test_scalars_follow_yaml_1_2(written: str, value: object) -> None:
    found = parse(f"key: {written}", "f.yaml").value["key"]
    assert found == value
    assert type(found) is type(value)


def test_lines_are_kept_for_every_key_path() -> None:
    document = parse("a:\n  b: 1\n  c:\n    - x\n    - y\n", "f.yaml")
    assert document.lines[("a", "b")] == 2
    assert document.lines[("a", "c", 1)] == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "f.yaml:3: key 'a' is given twice (first in line 1)"),
        ("a: !!python/object/apply:os.system ['true']", "f.yaml:1: tag 'tag:yaml.org,2002:python/"),
        ("a: !!python/name:os.system ''", "f.yaml:1: tag 'tag:yaml.org,2002:python/"),
        ("a: &x [*x]", "f.yaml:1: an alias refers to the block that contains it"),
        ("a: [1", "f.yaml:1: not valid YAML"),
        ("a:\n\t- 1", "Indent with spaces"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("{[1]: 2}", "f.yaml:1: a key must be a plain word"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(text, "f.yaml")
    assert message in str(error.value)
