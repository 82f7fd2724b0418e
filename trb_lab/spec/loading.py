"""Experiment files to specs: `extends`, `--set`, paths, validation.

load_experiment("experiments/arith.yaml", ["warmup.kl_budget=0.05", "seed=3"]) -> ExperimentSpec
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from trb_lab.errors import UsageError

from . import explain
from .experiment import ExperimentSpec
from .layers import Draft, Layer, merge, nest, resolve_paths, with_kinds
from .shape import Shape, shape_of
from .yaml_io import Document, parse, read, scalar, shown

EXTENDS = "extends"
SpecT = TypeVar("SpecT", bound=BaseModel)


def load_experiment(path: Path | str, sets: Sequence[str] = ()) -> ExperimentSpec:
    """Read, merge and validate an experiment file. Raises UsageError with every problem of the file."""
    draft = read_experiment(Path(path))
    if sets:
        draft = draft.over(shape_of(ExperimentSpec), set_layer(sets))
    return build(draft)


def kind_of_file(path: Path | str) -> Literal["experiment", "sweep", "report"]:
    """What a YAML file describes, told by its keys: a sweep has `arms` or `base`, a report `blocks` or `sources`."""
    value = read(Path(path)).value
    keys = value.keys() if isinstance(value, dict) else ()
    if "blocks" in keys or "sources" in keys:
        return "report"
    return "sweep" if "arms" in keys or "base" in keys else "experiment"


def read_experiment(path: Path) -> Draft:
    """The merged values of a file and of what it extends, not validated (a sweep may complete them)."""
    shape = shape_of(ExperimentSpec)
    wanted = "an experiment: name, student, teacher, dataset, ..."
    layers = read_layers(path, shape, wanted, _refuse_sweep)
    return Draft(merged_layers(shape, layers), layers)


def load_spec(
    model: type[SpecT],
    path: Path,
    wanted: str,
    refuse: Callable[[dict[str, Any], str], None],
    sets: Sequence[str] = (),
) -> SpecT:
    """A file that holds one spec, with what it `extends` and `--set` changes; `wanted` and `refuse` as in read_layers.

    Raises UsageError with every problem of the file.
    """
    shape = shape_of(model)
    layers = read_layers(path, shape, wanted, refuse)
    draft = Draft(merged_layers(shape, layers), layers)
    if sets:
        draft = draft.over(shape, set_layer(sets))
    messages = explain.bool_problems(draft, shape)
    try:
        spec = model.model_validate(draft.value)
    except ValidationError as error:
        explain.raise_all(messages + explain.problems(error, shape, draft))
        raise
    explain.raise_all(messages)
    return spec


def merged_layers(shape: Shape, layers: Sequence[Layer]) -> dict[str, Any]:
    """The values of all layers, the last one on top."""
    value: dict[str, Any] = {}
    for layer in layers:
        value = merge(shape, value, layer.value)
    return value


def build(draft: Draft) -> ExperimentSpec:
    """Validate. Raises UsageError with one message for each problem."""
    spec, messages = try_build(draft)
    explain.raise_all(messages)
    assert spec is not None
    return spec


def try_build(draft: Draft) -> tuple[ExperimentSpec | None, list[str]]:
    """The spec, or the messages that say why there is none."""
    shape = shape_of(ExperimentSpec)
    filled = Draft(with_kinds(shape, draft.value), draft.layers)
    messages = explain.bool_problems(filled, shape)
    try:
        spec = ExperimentSpec.model_validate(filled.value)
    except ValidationError as error:
        return None, messages + explain.problems(error, shape, draft)
    return (None, messages) if messages else (spec, [])


def top_mapping(document: Document, source: str, wanted: str) -> dict[str, Any]:
    """The document's value where it is a mapping; else a UsageError that says what belongs there."""
    if document.value is None:
        raise UsageError(f"{source} is empty. It should hold {wanted}.")
    if not isinstance(document.value, dict):
        raise UsageError(f"{source}:1: the file should be a mapping (key: value), {wanted}.")
    return document.value


def read_layers(
    path: Path,
    shape: Shape,
    wanted: str,
    refuse: Callable[[dict[str, Any], str], None],
    above: tuple[Path, ...] = (),
) -> list[Layer]:
    """A file and what it extends, the deepest base first.

    `wanted` names what the file should hold; `refuse(value, source)` raises where it holds something else.
    `above` are the files that led here.
    """
    real = path.resolve()
    if real in above:
        cycle = " -> ".join(shown(p) for p in (*above[above.index(real) :], real))
        raise UsageError(f"{shown(path)}: `extends` goes in a circle: {cycle}. Remove one of them.")
    document, source = read(path), shown(path)
    value = dict(top_mapping(document, source, wanted))
    refuse(value, source)
    base = value.pop(EXTENDS, None)
    layer = Layer(resolve_paths(shape, value, real.parent), source, document.lines)
    if base is None:
        return [layer]
    where = f"{source}:{document.lines[(EXTENDS,)]}: {EXTENDS}"
    if not isinstance(base, str):
        raise UsageError(f"{where}: {explain.written(base)} is not allowed here. It takes one file name.")
    try:
        return [*read_layers(real.parent / base, shape, wanted, refuse, (*above, real)), layer]
    except UsageError as error:
        if str(error).startswith(f"{shown(real.parent / base)} does not exist"):
            raise UsageError(f"{where}: {error}") from None
        raise


def _refuse_sweep(value: dict[str, Any], source: str) -> None:
    if "arms" in value:
        raise UsageError(
            f"{source} is a sweep, and an experiment is wanted here. Run it with: trb-lab sweep {source}"
        )


def set_layer(sets: Sequence[str]) -> Layer:
    """`--set key=value` texts as a layer, typed by the schema. Of a key given twice the last counts."""
    shape = shape_of(ExperimentSpec)
    values: dict[str, Any] = {}
    for text in sets:
        key, separator, raw = text.partition("=")
        if not separator or not key.strip():
            raise UsageError(f"--set {text}: write key=value, for example --set warmup.kl_budget=0.05")
        values[key.strip()] = _typed(_leaf_shape(shape, key.strip()), raw.strip(), f"--set {text}")
    layer = Layer(values, "--set", {(key,): 0 for key in values})
    nested = nest(shape, layer)
    return Layer(resolve_paths(shape, nested.value, Path.cwd()), nested.source, nested.lines)


def _leaf_shape(shape: Shape, key: str) -> Shape | None:
    at: Shape | None = shape
    for part in key.split("."):
        at = at.child(part) if at is not None else None
    return at


def _typed(shape: Shape | None, raw: str, source: str) -> Any:
    """A --set value: text stays text where the schema wants text, everything else is YAML."""
    is_text = shape is not None and (shape.types == (str,) or shape.expand is not None)
    if is_text and not raw.startswith(("{", "[", '"', "'")):
        assert shape is not None
        return None if scalar(raw) is None and shape.nullable else raw
    return parse(raw, source).value
