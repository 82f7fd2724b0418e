"""Turns what pydantic found wrong into messages: where, what was given, what is allowed, what to do."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import ValidationError

from trb_lab.errors import UsageError, did_you_mean

from .layers import Draft, dotted
from .shape import Shape, describe, fields
from .yaml_io import KeyPath

_LEADING_KEY = re.compile(r"([a-z_]+(?:\.[a-z_0-9]+)+) ")


def written(value: Any) -> str:
    """A value as one would write it in YAML, on one line."""
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w./:+-]+", value) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(written(v) for v in value) + "]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return repr(value)


def problems(error: ValidationError, shape: Shape, draft: Draft) -> list[str]:
    """One message for each problem."""
    return [_problem(entry, shape, draft) for entry in error.errors(include_url=False)]


def raise_all(messages: list[str]) -> None:
    """Raise one UsageError that shows every message once, by file and line; nothing when there is none."""
    unique = sorted(dict.fromkeys(messages), key=_place)
    if unique:
        raise UsageError("\n".join(unique))


def _place(message: str) -> tuple[str, int]:
    at = re.match(r"(.*?):(\d+):", message)
    return (at.group(1), int(at.group(2))) if at else ("", 0)


def located(draft: Draft, path: KeyPath, text: str, about: KeyPath | None = None) -> str:
    """`file:line: key path: text`, with the key path as it was written (arms.trb.grid.warmup.kl_budget).

    `about` is the key path whose line is shown where that is another one.
    """
    layer, found = draft.origin(path if about is None else about)
    name = f"{layer.prefix}{dotted(path)}" if path else layer.prefix.rstrip(".")
    return f"{layer.where(found)}: {name}{': ' if name else ''}{text}"


def bool_problems(draft: Draft, shape: Shape) -> list[str]:
    """true and false where a number is meant: pydantic would read them as 1 and 0."""
    return [
        located(draft, path, f"{written(value)} is not allowed here. It takes {describe(leaf)}.")
        for path, leaf, value in _scalars(shape, draft.value, ())
        if isinstance(value, bool) and leaf is not None and leaf.types and bool not in leaf.types
    ]


def _scalars(shape: Shape | None, value: Any, path: KeyPath) -> list[tuple[KeyPath, Shape | None, Any]]:
    if shape is None or not isinstance(value, dict | list):
        return [(path, shape, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in items:
        found += _scalars(shape.child(key, value), inner, (*path, key))
    return found


def _problem(entry: Any, root: Shape, draft: Draft) -> str:
    """One message. `loc` names union members by kind, which no part of a key path."""
    path: KeyPath = ()
    shape: Shape | None = root
    parent: Shape | None = None
    block: Any = draft.value
    value: Any = draft.value
    passed_tag = False  # a kind may have a key of its own name: temperature
    for part in entry["loc"]:
        is_key = isinstance(value, dict) and part in value and value.get("kind") != part
        if (
            shape is not None
            and shape.form == "union"
            and not passed_tag
            and not is_key
            and part in dict(shape.kinds)
        ):
            passed_tag = True
            continue
        passed_tag = False
        parent, block = shape, value
        path = (*path, part)
        shape = shape.child(part, value) if shape is not None else None
        value = _get(value, part)
    text = _text(entry, path, shape, parent, block)
    if entry["type"] == "value_error":
        # A validator of a whole block opens its message with the key it is about.
        named = _LEADING_KEY.match(text)
        path = tuple(named.group(1).split(".")) if named and not path else path
        layer, found = draft.origin(path)
        if named:
            return f"{layer.where(found)}: {text}"
        # Or with a key of that block: `at_k asks for ...` under `eval`.
        first = text.split(" ")[0]
        return located(
            draft, path, text, (*path, first) if isinstance(value, dict) and first in value else None
        )
    if entry["type"] == "union_tag_invalid" and isinstance(value, dict):
        path = (*path, "kind")
    # What is missing is missing because of the kind: show where that was chosen.
    about = (
        (*path[:-1], "kind")
        if entry["type"] == "missing" and isinstance(block, dict) and "kind" in block
        else None
    )
    return located(draft, path, text, about)


def _get(value: Any, part: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    return value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else None


def _text(entry: Any, path: KeyPath, shape: Shape | None, parent: Shape | None, block: Any) -> str:
    kind, given = entry["type"], entry["input"]
    if kind == "extra_forbidden" and parent is not None:
        return _unknown_key(str(path[-1]), given, parent, block, path)
    if kind == "missing":
        return f"is missing. It takes {describe(shape)}.{_doc(shape)} Add `{dotted(path)}`."
    if kind == "union_tag_not_found" and shape is not None:
        return f"has no `kind`. Add one of: {', '.join(k for k, _ in shape.kinds)}."
    if kind == "union_tag_invalid" and shape is not None:
        kinds = [k for k, _ in shape.kinds]
        given_kind = given.get("kind") if isinstance(given, dict) else given
        hint = did_you_mean(str(given_kind), kinds)
        return f"unknown kind {written(given_kind)}. Kinds: {', '.join(kinds)}.{hint}"
    if kind == "value_error":
        return str(entry["ctx"]["error"])
    hint = ""
    if shape is not None and shape.choices:
        hint = did_you_mean(str(given), [str(c) for c in shape.choices])
    elif shape is not None and shape.names and isinstance(given, str):
        kinds = [k for k, _ in shape.kinds]
        hint = f" Write {{kind: {given}}}." if given in kinds else did_you_mean(given, shape.names)
    elif shape is not None and shape.form == "union" and isinstance(given, str):
        near = [k for k, _ in shape.kinds]
        hint = f" Write {{kind: {given}}}." if given in near else did_you_mean(given, near)
    elif (
        shape is not None
        and str in shape.types
        and isinstance(given, int | float)
        and not isinstance(given, bool)
    ):
        hint = f' Write it in quotes: "{given}".'
    return f"{written(given)} is not allowed here. It takes {describe(shape)}.{hint}"


def _doc(shape: Shape | None) -> str:
    first = shape.doc.split("\n")[0].strip() if shape else ""
    return f" {first.rstrip('.')}." if first else ""


def _unknown_key(key: str, given: Any, parent: Shape, block: Any, path: KeyPath) -> str:
    valid = sorted(parent.keys(block), key=lambda k: k != "kind")
    name = dotted(path[:-1]) or "this file"
    kind = parent.kind_of(block) if parent.form == "union" else None
    if kind is not None:
        default = "" if isinstance(block, dict) and "kind" in block else ", the default"
        name += f" (kind {kind}{default})"
    text = f"unknown key (given {written(given)}). Keys of {name}: {', '.join(valid)}."
    if "." in key:
        nested = "{".join(f"{part}: " for part in key.split(".")) + "..." + "}" * key.count(".")
        return f"{text} Dotted keys belong in a sweep's overrides and in --set; here write {nested}"
    others = [k for k, model in parent.kinds if key in fields(model)]
    if others:
        return f"{text} '{key}' belongs to kind {', '.join(others)}: set `kind`, or remove it."
    hint = did_you_mean(key, valid)
    if not hint and parent.kinds:
        elsewhere = {name: k for k, model in parent.kinds for name in fields(model) if name != "kind"}
        hint = did_you_mean(key, elsewhere)
        match = re.search(r"'(\w+)'", hint)
        if match:
            hint += f" It belongs to kind {elsewhere[match.group(1)]}."
    called_here = getattr(parent.model, "other_names", None)
    if called_here is not None:
        ours = called_here.get(key.replace("-", "_"))
        return f"{text} Did you mean '{ours}'?" if ours else text + hint
    return text + (hint or _lives_elsewhere(key))


def _lives_elsewhere(key: str) -> str:
    """Where in an experiment a key of that name is at home."""
    from .experiment import ExperimentSpec

    for block, shape in fields(ExperimentSpec).items():
        if shape.form == "block" and shape.model is not None and key in fields(shape.model):
            return f" Did you mean '{block}.{key}'?"
    return ""
