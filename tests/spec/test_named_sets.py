"""Short forms of data sets: what they stand for, how they merge, and what editors and messages say of them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from trb_lab.spec import load_experiment
from trb_lab.spec.dataset import ChampDataset, Dataset, EvalSetField, HubDataset, ReasoningGymDataset
from trb_lab.spec.named_sets import EVALUATION_SETS, dataset_forms, evaluation_forms
from trb_lab.spec.schema import json_schema

from .conftest import Write


@pytest.mark.parametrize("name", dataset_forms.names)
def test_every_name_of_a_data_set_is_valid(name: str) -> None:
    found = TypeAdapter(Dataset).validate_python(name)
    assert isinstance(found, HubDataset | ChampDataset | ReasoningGymDataset)


@pytest.mark.parametrize("name", evaluation_forms.names)
def test_every_name_of_an_evaluation_set_is_valid(name: str) -> None:
    found = TypeAdapter(EvalSetField).validate_python(name)
    assert found.name == name.removeprefix("arith/")
    if name in EVALUATION_SETS:
        assert found.dataset == TypeAdapter(Dataset).validate_python(name)


def test_a_named_set_in_a_file(write: Write) -> None:
    write(
        "a.yaml",
        "extends: base.yaml\ndataset: openthoughts3\n"
        "eval: {sets: [gsm8k, {name: aime24, dataset: aime24, samples: 32}]}\n",
    )
    write("b.yaml", "extends: a.yaml\ndataset: {limit: 100, where: {domain: math}}\n")
    spec = load_experiment("b.yaml")
    assert isinstance(spec.dataset, HubDataset)
    assert (spec.dataset.id, spec.dataset.limit) == ("open-thoughts/OpenThoughts3-1.2M", 100)
    assert (spec.dataset.unique, spec.dataset.where) == (True, {"domain": "math"})
    assert [(s.name, s.samples) for s in spec.eval.sets] == [("gsm8k", None), ("aime24", 32)]
    assert load_experiment("base.yaml", ["dataset=gsm_symbolic"]).dataset == ReasoningGymDataset(
        task="gsm_symbolic", num_examples=500, seed=1
    )


def test_the_table_is_not_shared_with_specs() -> None:
    """A block that one file changes must not change in the next file."""
    first: dict[str, Any] = dataset_forms("openthoughts3_math")
    first["where"]["domain"] = "code"
    assert dataset_forms("openthoughts3_math")["where"] == {"domain": "math"}


@pytest.mark.parametrize(
    ("where", "valid"),
    [
        ({"domain": "math"}, True),
        ({"domain": ["math", "code"], "difficulty": 7, "checked": True}, True),
        ({"domain": []}, False),
        ({"domain": None}, False),
        ({"domain": {"is": "math"}}, False),
        ({"domain": [["math"]]}, False),
    ],
)
def test_where_takes_plain_values(where: dict[str, Any], valid: bool) -> None:
    if valid:
        assert HubDataset(id="a/b", where=where).where == where
    else:
        with pytest.raises(ValidationError, match=r"where\.domain"):
            HubDataset(id="a/b", where=where)


def test_editors_offer_the_names() -> None:
    schema = json_schema("experiment")
    text, _ = schema["properties"]["dataset"]["anyOf"]
    assert text == {"type": "string", "enum": list(dataset_forms.names)}
    text, _ = schema["$defs"]["EvalSpec"]["properties"]["sets"]["items"]["anyOf"]
    assert text == {"type": "string", "enum": list(evaluation_forms.names)}
