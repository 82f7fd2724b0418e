"""Layers of written values (a file, the file it extends, an arm's overrides, `--set`) and how they merge.

Mappings merge key by key, everything else is replaced whole; an override mapping that changes `kind` replaces
the whole block. Each layer remembers where its keys were written, so that a message can name file and line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trb_lab.errors import UsageError

from .shape import Shape, describe
from .yaml_io import KeyPath


@dataclass
class Layer:
    """Values as one place wrote them, in nested form, and where each key path stands."""

    value: dict[str, Any]
    source: str
    """File as shown to the user, or `--set`."""
    lines: dict[KeyPath, int] = field(default_factory=dict)
    """Key path in the built spec -> line of the source."""
    prefix: str = ""
    """What stands before the key path in the file: `arms.trb.grid.`."""

    def where(self, path: KeyPath) -> str:
        line = self.lines.get(path)
        return f"{self.source}:{line}" if line else self.source


@dataclass
class Draft:
    """Merged values before validation, with the layers they came from (the last one wins)."""

    value: dict[str, Any]
    layers: list[Layer]

    def over(self, shape: Shape, *layers: Layer) -> Draft:
        """This draft with further layers merged over it."""
        value = self.value
        for layer in layers:
            value = merge(shape, value, layer.value)
        return Draft(value, [*self.layers, *layers])

    def origin(self, path: KeyPath) -> tuple[Layer, KeyPath]:
        """The layer that wrote `path`, or failing that the longest prefix of it.

        What a later layer gave whole (a list, a value) hides whatever stood inside it before.
        """
        replaced = [i for i, layer in enumerate(self.layers) if _gives_whole(layer.value, path)]
        layers = self.layers[replaced[-1] if replaced else 0 :]
        for length in range(len(path), -1, -1):
            for layer in reversed(layers):
                if path[:length] in layer.lines:
                    return layer, path[:length]
        return self.layers[-1], ()


def _gives_whole(value: Any, path: KeyPath) -> bool:
    """Whether the value holds something at a part of the path that is no mapping, and so does not merge."""
    for part in path:
        if not isinstance(value, dict):
            return True
        if part not in value:
            return False
        value = value[part]
    return not isinstance(value, dict)


def dotted(path: KeyPath) -> str:
    """`warmup.kl_budget`, `eval.sets[0].name`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def merge(shape: Shape | None, base: Any, over: Any) -> Any:
    """`over` merged onto `base`; neither is changed. A short form in the base counts as its long form."""
    if not isinstance(over, dict):
        return over
    if shape is not None:
        base = shape.long_form(base)
    if not isinstance(base, dict):
        return over
    if shape is not None and shape.form == "union" and "kind" in over and over["kind"] != shape.kind_of(base):
        return over
    merged = dict(base)
    for key, value in over.items():
        if key in base and isinstance(value, dict):
            merged[key] = merge(shape.child(key, merged) if shape else None, base[key], value)
        else:
            merged[key] = value
    return merged


def nest(shape: Shape, layer: Layer) -> Layer:
    """A layer whose keys may be dotted, in nested form. The order of the keys does not matter.

    Raises UsageError for a key given twice in two spellings, and for a dotted key that leads through a list.
    """
    nested: dict[str, Any] = {}
    lines: dict[KeyPath, int] = {}
    for key in sorted(layer.value, key=lambda k: k.count(".")):
        parts = key.split(".")
        path: KeyPath = tuple(parts)
        for written, line in layer.lines.items():
            if written[:1] == (key,):
                lines[(*path, *written[1:])] = line
        where = f"{layer.where((key,))}: {layer.prefix}{key}"
        block: dict[str, Any] = nested
        block_shape: Shape | None = shape
        for depth, part in enumerate(parts[:-1]):
            child_shape = block_shape.child(part, block) if block_shape else None
            if child_shape and child_shape.form in ("list", "leaf"):
                name = ".".join(parts[: depth + 1])
                raise UsageError(
                    f"{where}: '{name}' is {describe(child_shape)}; it has no keys. Give it whole."
                )
            inner = block.get(part, {})
            if child_shape is not None:
                inner = child_shape.long_form(inner)
            block[part] = inner = dict(inner) if isinstance(inner, dict) else inner
            if not isinstance(inner, dict):
                raise UsageError(
                    f"{where}: '{'.'.join(parts[: depth + 1])}' is also given as {inner!r}. Keep one."
                )
            block, block_shape = inner, child_shape
        value, last = layer.value[key], parts[-1]
        if last in block:
            if not (isinstance(value, dict) and isinstance(block[last], dict)) or set(value) & set(
                block[last]
            ):
                raise UsageError(f"{where}: given twice in two spellings. Keep one.")
            value = {**block[last], **value}
        block[last] = dict(value) if isinstance(value, dict) else value
    return Layer(nested, layer.source, lines, layer.prefix)


def leaves(
    shape: Shape | None, value: Any, path: KeyPath = ()
) -> Iterator[tuple[KeyPath, Shape | None, Any]]:
    """Key path, shape and value of everything below the blocks of a nested value.

    Lists and free mappings are leaves.
    """
    if isinstance(value, dict) and value and shape is not None and shape.form in ("block", "union"):
        for key, inner in value.items():
            yield from leaves(shape.child(key, value), inner, (*path, key))
    else:
        yield path, shape, value


def with_kinds(shape: Shape | None, value: Any) -> Any:
    """The value with the default's `kind` written into blocks that name none (pydantic wants the tag)."""
    if shape is None:
        return value
    if shape.form == "list" and isinstance(value, list):
        return [with_kinds(shape.item, v) for v in value]
    if not isinstance(value, dict) or shape.form not in ("block", "union"):
        return value
    filled = {key: with_kinds(shape.child(key, value), inner) for key, inner in value.items()}
    if shape.form == "union" and "kind" not in filled and shape.default_kind is not None:
        filled["kind"] = shape.default_kind
    return filled


def resolve_paths(shape: Shape, value: Any, folder: Path) -> Any:
    """The value with paths made absolute against `folder`, that of the YAML file which names them.

    A data file's path always; a model name when it begins with `.`, `/` or `~`, or when there is a model
    folder of that name (else it is a bundled name or a hub id).
    """
    if not isinstance(value, dict):
        return value
    resolved = dict(value)
    for role in ("student", "teacher"):
        name = resolved.get(role)
        if isinstance(name, str):
            resolved[role] = _model_path(name, folder)
        elif isinstance(name, dict) and isinstance(name.get("name"), str):
            resolved[role] = {**name, "name": _model_path(name["name"], folder)}
    if isinstance(resolved.get("dataset"), dict):
        resolved["dataset"] = _dataset_path(resolved["dataset"], folder)
    evaluation = resolved.get("eval")
    if isinstance(evaluation, dict) and isinstance(evaluation.get("sets"), list):
        resolved["eval"] = {**evaluation, "sets": [_set_path(entry, folder) for entry in evaluation["sets"]]}
    return resolved


def _model_path(name: str, folder: Path) -> str:
    if name.startswith((".", "/", "~")) or (folder / name / "config.json").is_file():
        return str((folder / Path(name).expanduser()).resolve())
    return name


def _dataset_path(dataset: dict[str, Any], folder: Path) -> dict[str, Any]:
    path = dataset.get("path")
    return (
        {**dataset, "path": str((folder / Path(path).expanduser()).resolve())}
        if isinstance(path, str)
        else dataset
    )


def _set_path(entry: Any, folder: Path) -> Any:
    if isinstance(entry, dict) and isinstance(entry.get("dataset"), dict):
        return {**entry, "dataset": _dataset_path(entry["dataset"], folder)}
    return entry
