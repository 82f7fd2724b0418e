"""Safe YAML with the scalars people expect, line numbers, and no duplicate keys.

YAML 1.1 reads `1e-4` as text, `no` as False and `12:30` as 750; here the scalars are those of YAML 1.2's core
schema. Nothing in a file is executed: unknown tags are errors.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trb_lab.errors import UsageError, nearest

KeyPath = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULL = {"", "~", "null", "Null", "NULL"}
_STR_TAG = "tag:yaml.org,2002:str"


@dataclass
class Document:
    """A parsed file: its value, and the 1-based line of every key path in it."""

    value: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)


def scalar(text: str) -> Any:
    """The value of a plain (unquoted) scalar in YAML 1.2's core schema."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL_FLOAT.fullmatch(text):
        return float(text.replace(".", "").lower())
    return text


MAX_NODES = 100_000
"""Values in one file; a few lines of nested aliases would make billions."""


class _Builder:
    """Turns composed nodes into plain values and notes lines."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[KeyPath, int] = {}
        self.open_nodes: set[int] = set()
        self.num_nodes = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise UsageError(
                f"{self.source}: more than {MAX_NODES} values: aliases multiply a block. Write it out."
            )
        if id(node) in self.open_nodes:
            raise UsageError(
                f"{self.source}:{line}: an alias refers to the block that contains it. Write it out."
            )
        self.open_nodes.add(id(node))
        try:
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(node, line)
            if isinstance(node, yaml.SequenceNode):
                self._refuse_tag(node, "tag:yaml.org,2002:seq", line)
                return [self.build(child, (*path, i)) for i, child in enumerate(node.value)]
            assert isinstance(node, yaml.MappingNode)
            self._refuse_tag(node, "tag:yaml.org,2002:map", line)
            return self._mapping(node, path)
        finally:
            self.open_nodes.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        built: dict[str, Any] = {}
        first_line: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise UsageError(f"{self.source}:{line}: a key must be a plain word.")
            key = key_node.value
            if key in built:
                raise UsageError(
                    f"{self.source}:{line}: key '{key}' is given twice (first in line {first_line[key]}). "
                    "Keep one."
                )
            first_line[key] = self.lines[(*path, key)] = line
            built[key] = self.build(value_node, (*path, key))
        return built

    def _scalar(self, node: yaml.ScalarNode, line: int) -> Any:
        self._refuse_tag(node, _STR_TAG, line)
        quoted = node.style is not None
        return node.value if quoted or node.tag == _STR_TAG else scalar(node.value)

    def _refuse_tag(self, node: yaml.Node, expected: str, line: int) -> None:
        if node.tag not in (expected, "?"):
            raise UsageError(f"{self.source}:{line}: tag '{node.tag}' is not allowed. Write a plain value.")


class _Loader(yaml.SafeLoader):
    """Only composes nodes. Implicit resolution is off, so an explicit tag is told from none."""

    yaml_implicit_resolvers: dict[Hashable, list[Any]] = {}

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return "?"
        return super().resolve(kind, value, implicit)


def parse(text: str, source: str) -> Document:
    """Parse one YAML document. `source` names it in messages. Raises UsageError with file and line."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        problem = error.problem or error.context or "not YAML"
        hint = " Indent with spaces." if "'\\t'" in problem else ""
        raise UsageError(f"{source}{line}: not valid YAML: {problem}.{hint}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{source}: not valid YAML: {error}") from None
    if node is None:
        return Document(None)
    builder = _Builder(source)
    value = builder.build(node, ())
    return Document(value, builder.lines)


def shown(path: Path) -> str:
    """The path as a person would type it here: relative to the working directory where that is shorter."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def read(path: Path) -> Document:
    """Parse a file. Raises UsageError; for a missing file it names the nearest existing one."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{shown(path)} does not exist.{_nearest_file(path)}") from None
    except IsADirectoryError:
        raise UsageError(f"{shown(path)} is a folder: name a YAML file in it.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{shown(path)} is not a text file (UTF-8).") from None
    return parse(text, shown(path))


def _nearest_file(path: Path) -> str:
    folders = [Path("experiments"), Path("sweeps"), path.parent]
    found = {p.stem: p for folder in folders for p in sorted(folder.glob("*.y*ml"))}
    match = nearest(path.stem, found)
    if match:
        return f" Did you mean {shown(found[match])}?"
    here = ", ".join(shown(p) for p in sorted(found.values())[:8])
    return f" YAML files near it: {here}." if here else ""
