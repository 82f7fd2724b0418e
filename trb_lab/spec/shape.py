"""What may be written at each key path, read off the pydantic models: one declaration serves validation,
merging, `--set` and error messages.

A shape is a block (fixed keys), a union (blocks told apart by `kind`), a list, a free mapping, or a leaf.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

Expand = Callable[[Any], Any]


@dataclass(frozen=True)
class Shape:
    """One key path. Only the fields of its `form` are set."""

    form: Literal["block", "union", "list", "map", "leaf"]
    model: type[BaseModel] | None = None
    """block: the spec class."""
    kinds: tuple[tuple[str, type[BaseModel]], ...] = ()
    """union: kind -> spec class, in the order of declaration."""
    default_kind: str | None = None
    """union: the kind of the field's default, which a block without `kind` takes."""
    item: Shape | None = None
    """list: shape of an entry; map: shape of a value (None for anything)."""
    expand: Expand | None = None
    """Turns the short form (text) into the long one; the identity for other values."""
    names: tuple[str, ...] = ()
    """The short forms, where they are listed."""
    types: tuple[type, ...] = ()
    """leaf: accepted Python types."""
    choices: tuple[Any, ...] = ()
    """leaf: the only values allowed, where they are listed."""
    bounds: str = ""
    """leaf: in words, ` of at least 1`."""
    nullable: bool = False
    required: bool = False
    doc: str = ""

    def kind_of(self, value: Any) -> str | None:
        """union: the kind that a written block has, the default's where it names none."""
        given = value.get("kind", self.default_kind) if isinstance(value, dict) else self.default_kind
        return given if isinstance(given, str) else None

    def model_for(self, value: Any) -> type[BaseModel] | None:
        """The spec class that reads this written block; None for a leaf or an unknown kind."""
        return self.model if self.form == "block" else dict(self.kinds).get(self.kind_of(value) or "")

    def keys(self, value: Any) -> dict[str, Shape]:
        """The keys that this written block may have."""
        model = self.model_for(value)
        return fields(model) if model else {}

    def child(self, key: str | int, value: Any = None) -> Shape | None:
        """Shape of a key of this block (of the kind that `value` has, else of any kind that knows it)."""
        if self.form in ("list", "map"):
            return self.item
        known = self.keys(value)
        if key in known:
            return known[str(key)]
        for _, model in self.kinds:
            if key in fields(model):
                return fields(model)[str(key)]
        return None

    def long_form(self, value: Any) -> Any:
        return self.expand(value) if self.expand and isinstance(value, str) else value


@cache
def fields(model: type[BaseModel]) -> dict[str, Shape]:
    """Shapes of a spec class's keys."""
    return {name: _of_field(info) for name, info in model.model_fields.items()}


@cache
def shape_of(model: type[BaseModel]) -> Shape:
    """The shape of a whole file."""
    return Shape("block", model=model)


def _of_field(info: FieldInfo) -> Shape:
    default = None if info.default is PydanticUndefined else info.default
    return _of(
        info.annotation,
        [*info.metadata],
        required=info.is_required(),
        doc=info.description or "",
        default_kind=getattr(default, "kind", None),
    )


def _of(annotation: Any, metadata: list[Any], **common: Any) -> Shape:
    """Shape of a type annotation; `metadata` is what Annotated layers around it said."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        inner, *more = typing.get_args(annotation)
        return _of(inner, [*metadata, *more], **common)
    before = next((m.func for m in metadata if isinstance(m, BeforeValidator)), None)
    if before is not None:
        common["expand"] = before
        common["names"] = getattr(before, "names", ())
    if origin in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(annotation) if a is not type(None)]
        common["nullable"] = len(options) < len(typing.get_args(annotation))
        if len(options) == 1:
            return _of(options[0], metadata, **common)
        if not all(isinstance(o, type) and issubclass(o, BaseModel) for o in options):
            return Shape("leaf", types=(), **common)  # a name or a list of them: pydantic tells which it is
        return Shape("union", kinds=tuple(_kinds(options)), **common)
    if origin is Literal:
        choices = typing.get_args(annotation)
        return Shape("leaf", types=tuple({type(c) for c in choices}), choices=choices, **common)
    if origin in (list, tuple):
        return Shape("list", item=_of(typing.get_args(annotation)[0], []), bounds=_bounds(metadata), **common)
    if origin is dict or annotation is dict:
        value_type = typing.get_args(annotation)[1]
        return Shape("map", item=None if value_type is Any else _of(value_type, []), **common)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return Shape("block", model=annotation, **common)
    return Shape("leaf", types=() if annotation is Any else (annotation,), bounds=_bounds(metadata), **common)


def _kinds(models: list[Any]) -> list[tuple[str, type[BaseModel]]]:
    return [
        (str(kind), model)
        for model in models
        for kind in typing.get_args(model.model_fields["kind"].annotation)
    ]


def _bounds(metadata: list[Any]) -> str:
    """Bounds in words, from annotated-types constraints."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [
        f"{text} {getattr(m, name):g}" for m in metadata for name, text in words.items() if hasattr(m, name)
    ]
    entries = [
        f"at least {m.min_length} of them" for m in metadata if hasattr(m, "min_length") and m.min_length
    ]
    if any(getattr(m, "pattern", None) for m in metadata):
        entries.append("letters, digits, '.', '_' and '-' only")
    return " and ".join([*found, *entries])


def describe(shape: Shape | None) -> str:
    """What a value may be, in words: `a whole number, at least 1, or null`."""
    if shape is None:
        return "any value"
    if shape.form == "block":
        text = f"a mapping with keys {', '.join(shape.keys({}))}"
    elif shape.form == "union":
        text = f"a mapping with `kind`, one of {', '.join(k for k, _ in shape.kinds)}"
    elif shape.form == "list":
        entry = describe(shape.item)
        text = "a list" if entry == "any value" else f"a list, each entry {entry}"
    elif shape.form == "map":
        text = "a mapping"
    elif shape.choices:
        text = f"one of {', '.join(str(c) for c in shape.choices)}"
    else:
        names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        text = " or ".join(names.get(t, t.__name__) for t in shape.types) or "any value"
    if shape.expand and shape.form in ("block", "union"):
        if shape.names:
            text = f"a name ({', '.join(shape.names)}), or {text}"
        elif shape.form == "block":
            text = f"a name, or {text}"
        else:
            text = f"one of {', '.join(k for k, _ in shape.kinds)}, or {text}"
    if shape.bounds:
        text += f", {shape.bounds}"
    return f"{text}, or null" if shape.nullable else text


def dotted_keys(shape: Shape, prefix: str = "") -> dict[str, str]:
    """Every dotted key of a file (of every kind of each union) -> its description."""
    found: dict[str, str] = {}
    written: list[Any] = [{"kind": kind} for kind, _ in shape.kinds] if shape.form == "union" else [{}]
    for value in written:
        for key, child in shape.keys(value).items():
            name = f"{prefix}{key}"
            found.setdefault(name, child.doc)
            for inner, doc in dotted_keys(child, f"{name}.").items():
                found.setdefault(inner, doc)
    return found
