"""The committed JSON Schemas are current, and shipped YAML points to them and loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trb_lab.spec import expand_sweep, load_experiment
from trb_lab.spec.schema import FOLDER, json_schema, text
from trb_lab.spec.yaml_io import parse

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
HEADINGS = ("Question:", "Command:", "Hardware:", "Minutes:", "Expected:")


@pytest.mark.parametrize("name", ["experiment", "sweep"])
def test_committed_schemas_are_current(name: str) -> None:
    committed = (FOLDER / f"{name}.schema.json").read_text()
    assert committed == text(name), "write them again: python -m trb_lab.spec.schema"


@pytest.mark.parametrize("path", EXPERIMENTS + SWEEPS, ids=lambda p: p.name)
def test_shipped_yaml_opens_with_its_schema_and_header(path: Path) -> None:
    first, *rest = path.read_text().splitlines()
    kind = "sweep" if path in SWEEPS else "experiment"
    reference = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / reference).resolve() == FOLDER / f"{kind}.schema.json"
    header = "\n".join(line for line in rest if line.startswith("#"))
    assert all(heading in header for heading in HEADINGS)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.name)
def test_shipped_experiments_load(path: Path) -> None:
    assert load_experiment(path).name == path.stem


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.name)
def test_shipped_sweeps_expand(path: Path) -> None:
    assert expand_sweep(path)


def accepts(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """The part of JSON Schema that ours use."""
    if "$ref" in schema:
        return accepts(root["$defs"][schema["$ref"].rsplit("/", 1)[1]], value, root)
    if "anyOf" in schema:
        return any(accepts(option, value, root) for option in schema["anyOf"])
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    types = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "null": type(None),
    }
    if not isinstance(value, types.get(schema.get("type", ""), object)):
        return False
    if isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        return all(
            accepts(known[key], inner, root)
            if key in known
            else others is not False and accepts(others if isinstance(others, dict) else {}, inner, root)
            for key, inner in value.items()
        ) and all(key in value for key in schema.get("required", []))
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        return all(accepts(schema["items"], inner, root) for inner in value)
    return True


@pytest.mark.parametrize("path", EXPERIMENTS + SWEEPS, ids=lambda p: p.name)
def test_schemas_accept_shipped_yaml(path: Path) -> None:
    schema = json_schema("sweep" if path in SWEEPS else "experiment")
    assert accepts(schema, parse(path.read_text(), path.name).value, schema)


@pytest.mark.parametrize(
    ("written", "valid"),
    [
        ("extends: base.yaml\nwarmup: {kl_budget: 0.1}", True),
        ("warmup: {anneal: cosine}\nstudent: x\neval: {sets: [arith/hard]}", True),
        ("warmup: {anneal: {kind: step, stages: 2}}\nstudent: {name: x}", True),
        ("dataset: {num_examples: 3}", True),
        ("warmup: {anneal: cosin}", False),
        ("warmup: {kl_budgett: 1}", False),
        ("warmup: {kind: opd, steps: 3}", False),
        ("stepz: 3", False),
    ],
)
def test_sparse_experiments(written: str, valid: bool) -> None:
    schema = json_schema("experiment")
    assert accepts(schema, parse(written, "f").value, schema) is valid


@pytest.mark.parametrize(
    ("arm", "valid"),
    [
        ("", True),
        ("{grid: {warmup.kl_budget: [1, 2]}}", True),
        ("{overrides: {warmup.kind: opd, steps: 3, warmup: {kind: opd}}}", True),
        ("{grid: {warmup.kl_budgett: [1, 2]}}", False),
        ("{overrides: {warmupp.kind: opd}}", False),
        ("{overrides: {seed: 1}}", False),
    ],
)
def test_arms(arm: str, valid: bool) -> None:
    schema = json_schema("sweep")
    written = f"name: a\nquestion: b\nbase: c\nseeds: [0]\narms: {{x: {arm}}}"
    assert accepts(schema, parse(written, "f").value, schema) is valid


def test_fields_carry_their_descriptions() -> None:
    budget = json_schema("experiment")["$defs"]["TrbWarmup"]["properties"]["kl_budget"]
    assert "in nats" in budget["description"]
    assert "in nats" in json.dumps(json_schema("sweep")["$defs"]["ArmSpec"]["properties"]["grid"])
