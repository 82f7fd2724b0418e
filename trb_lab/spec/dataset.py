"""Where prompts (and reference answers) come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from .base import Spec


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
    """A data set of the Hugging Face hub by id, with column names (extra `hub`)."""

    kind: Literal["hub"] = "hub"
    id: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    prompt_column: str = "prompt"
    answer_column: str | None = "answer"
    limit: int | None = Field(None, ge=1)


Dataset = Annotated[
    ArithDataset | ReasoningGymDataset | JsonlDataset | HubDataset, Field(discriminator="kind")
]


class EvalSet(Spec):
    """A named evaluation set. The short form `arith/hard` stands for a bundled test set."""

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


def _expand_bundled(value: Any) -> Any:
    """`arith/hard` -> the bundled test set of that level, 200 problems."""
    if isinstance(value, str) and value.startswith("arith/"):
        level = value.removeprefix("arith/")
        return {
            "name": level,
            "dataset": {"kind": "arith", "split": "test", "level": level, "num_examples": 200},
        }
    return value


EvalSetField = Annotated[EvalSet, BeforeValidator(_expand_bundled, json_schema_input_type=str | EvalSet)]
