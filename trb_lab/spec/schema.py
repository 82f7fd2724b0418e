"""JSON Schemas of the kinds of YAML, for completion and checks in editors.

They describe sparse files: a file may leave out what `extends`, the base or the defaults give, so nothing
but a sweep's own keys is required. `trb-lab check` judges the merged result. The committed copies are in
`spec/schemas/`; a test keeps them current (`python -m trb_lab.spec.schema` writes them again).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from trb_lab.errors import UsageError

from .cluster import ClusterProfile
from .experiment import ExperimentSpec
from .report import ReportSpec
from .shape import dotted_keys, shape_of
from .sweep import SweepSpec

FOLDER = Path(__file__).parent / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
SchemaName = Literal["experiment", "sweep", "cluster", "report"]
NAMES: tuple[SchemaName, ...] = get_args(SchemaName)


class _Generator(GenerateJsonSchema):
    """Before-validators here are short forms: text, or the long form (pydantic leaves that out)."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        inner = schema["schema"]
        if inner["type"] == "str":  # times, memory, variables: a number is taken as well
            return {"type": ["string", "number"]}
        text: JsonSchemaValue = {"type": "string"}
        names = getattr(schema["function"]["function"], "names", None)
        if names:
            text["enum"] = list(names)
        elif inner["type"] == "tagged-union":
            text["enum"] = [str(kind) for kind in inner["choices"]]
        return {"anyOf": [text, self.generate_inner(inner)]}


def json_schema(name: str) -> dict[str, Any]:
    """The schema of `experiment`, `sweep`, `cluster` or `report` files. Raises UsageError for another name."""
    if name == "experiment":
        schema = _sparse(ExperimentSpec.model_json_schema(schema_generator=_Generator))
        extends = {
            "type": "string",
            "description": "Experiment file that this one changes, relative to this file.",
        }
        schema["properties"] = {"extends": extends, **schema["properties"]}
    elif name == "sweep":
        schema = _sweep_schema()
    elif name == "report":
        schema = _sparse(ReportSpec.model_json_schema(schema_generator=_Generator))
        extends = {"type": "string", "description": "Report that this one changes, relative to this file."}
        schema["properties"] = {"extends": extends, **schema["properties"]}
    elif name == "cluster":
        schema = _sparse(ClusterProfile.model_json_schema(schema_generator=_Generator))
        extends = {"type": "string", "description": "Profile that this one changes, relative to this file."}
        schema["properties"] = {"extends": extends, **schema["properties"]}
    else:
        raise UsageError(f"there is no schema '{name}'. Schemas: {', '.join(NAMES)}.")
    return {
        "$schema": DIALECT,
        "title": f"trb-lab {name}",
        **{k: v for k, v in schema.items() if k != "title"},
    }


def _sweep_schema() -> dict[str, Any]:
    schema = SweepSpec.model_json_schema(schema_generator=_Generator)
    experiment = _sparse(ExperimentSpec.model_json_schema(schema_generator=_Generator))
    definitions = schema["$defs"]
    definitions.update(experiment.pop("$defs"))
    keys = dotted_keys(shape_of(ExperimentSpec))
    described = {key: {"description": doc} if doc else {} for key, doc in keys.items() if key != "seed"}
    blocks = {key: value for key, value in experiment["properties"].items() if key != "seed"}
    definitions["Overrides"] = {
        "type": "object",
        "description": "Changes to the base: nested mappings or dotted keys.",
        "properties": {**described, **blocks},
        "additionalProperties": False,
    }
    values = {key: {**text, "type": "array", "minItems": 1} for key, text in described.items()}
    arm = definitions["ArmSpec"]["properties"]
    arm["grid"] = {**arm["grid"], "properties": values, "additionalProperties": False}
    for owner in (arm, schema["properties"]):
        owner["overrides"] = {"$ref": "#/$defs/Overrides", "description": owner["overrides"]["description"]}
    # An arm without changes may be written `opd:` with nothing after it.
    schema["properties"]["arms"]["additionalProperties"] = {
        "anyOf": [{"$ref": "#/$defs/ArmSpec"}, {"type": "null"}]
    }
    return schema


def _sparse(schema: Any) -> Any:
    """The schema with nothing required, and unions that a block without `kind` may match in several ways."""
    if isinstance(schema, list):
        return [_sparse(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    sparse = {}
    for key, value in schema.items():
        # `required` and the like are words of the schema only where they are not names of properties.
        if key == "properties":
            sparse[key] = {name: _sparse(inner) for name, inner in value.items()}
        elif key == "oneOf":
            sparse["anyOf"] = _sparse(value)
        elif key not in ("required", "discriminator"):
            sparse[key] = _sparse(value)
    return sparse


def text(name: str) -> str:
    """The committed form."""
    return json.dumps(json_schema(name), indent=1, ensure_ascii=False) + "\n"


def write_all() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in NAMES:
        (FOLDER / f"{name}.schema.json").write_text(text(name), encoding="utf-8")


if __name__ == "__main__":
    write_all()
