"""Where prompts (and reference answers) come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from .base import Spec
from .named_sets import dataset_forms, evaluation_forms


class ArithDataset(Spec):
    """The bundled task: multi-step arithmetic with written-out steps, generated from a seed.

    `train` and the test levels never share a problem, whatever their seeds.
    """

    kind: Literal["arith"] = "arith"
    split: Literal["train", "test"] = "train"
    level: Literal["easy", "medium", "hard"] | None = None
    """Difficulty of the test split; the train split mixes its own levels and takes none."""
    num_examples: int = Field(20_000, ge=1)
    seed: int = Field(0, ge=0)


class ReasoningGymDataset(Spec):
    """A task of the reasoning-gym package by name (extra `gym`)."""

    kind: Literal["reasoning_gym"] = "reasoning_gym"
    task: str
    """Name of the generator, for example gsm_symbolic."""
    num_examples: int = Field(1000, ge=1)
    seed: int = Field(0, ge=0)
    params: dict[str, Any] = {}
    """Further settings that the generator takes."""


class JsonlDataset(Spec):
    """A JSONL file: one object a line with a prompt and, optionally, an answer."""

    kind: Literal["jsonl"] = "jsonl"
    path: str
    """Absolute, or relative to the YAML file that names it."""
    prompt_key: str = "prompt"
    answer_key: str | None = "answer"
    limit: int | None = Field(None, ge=1)


class HubDataset(Spec):
    """A data set of the Hugging Face hub by id, with column names (extra `hub`).

    Read from files on this machine alone: a folder of that name, `$TRB_LAB_DATA/<owner>/<name>`, or the hub's cache,
    in this order. `trb-lab check --fetch FILE` fetches it ahead.
    """

    kind: Literal["hub"] = "hub"
    id: str
    """Hub id (owner/name), or a local folder in the layout of one."""
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    """Commit to pin."""
    prompt_column: str = "prompt"
    """Column of the problem; `conversations[from=human].value` picks out of a list of mappings."""
    answer_column: str | None = "answer"
    answer_after: str | None = Field(None, min_length=1)
    """The answer is what comes after the last such mark (GSM8K: `####`)."""
    where: dict[str, Any] = {}
    """Only rows whose column has this value, or one of these: `{domain: math}`."""
    unique: bool = False
    """Only the first row of each prompt."""
    shuffle_seed: int | None = Field(None, ge=0)
    """A random order, so that `limit` takes a random part; null keeps the rows' order."""
    unreadable_answers: Literal["refuse", "drop"] = "refuse"
    """What to do where math-verify cannot read a reference answer: refuse the set, or drop the problem and count it."""
    limit: int | None = Field(None, ge=1)
    """The first so many of what is left."""

    @field_validator("where")
    @classmethod
    def _plain_values(cls, where: dict[str, Any]) -> dict[str, Any]:
        for column, allowed in where.items():
            values = allowed if isinstance(allowed, list) else [allowed]
            if not values or not all(isinstance(v, str | int | float) for v in values):
                raise ValueError(
                    f"where.{column}: {allowed!r} is not allowed here. It takes a value (text, a number, "
                    "true or false), or a list of them."
                )
        return where


class ChampDataset(Spec):
    """CHAMP's competition problems from the package champ-dataset (extra `champ`), those whose answer can be graded."""

    kind: Literal["champ"] = "champ"
    limit: int | None = Field(None, ge=1)


Dataset = Annotated[
    Annotated[
        ArithDataset | ReasoningGymDataset | JsonlDataset | HubDataset | ChampDataset,
        Field(discriminator="kind"),
    ],
    BeforeValidator(dataset_forms, json_schema_input_type=str | dict[str, Any]),
]
"""A block with `kind`, or the name of a set in named_sets.py."""


class EvalSet(Spec):
    """A named evaluation set. Short forms stand for bundled and well-known ones: `arith/hard`, `gsm8k`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Column name in tables and metrics."""
    dataset: Dataset
    samples: int | None = Field(None, ge=1)
    """Samples of each problem; null takes eval.samples."""

    @field_validator("name")
    @classmethod
    def _not_the_mean(cls, name: str) -> str:
        if name == "mean":
            raise ValueError("an evaluation set cannot be called 'mean': the mean over sets has that name")
        return name


EvalSetField = Annotated[EvalSet, BeforeValidator(evaluation_forms, json_schema_input_type=str | EvalSet)]
