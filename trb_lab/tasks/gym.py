r"""Problems from the reasoning-gym package (extra `gym`), by the name of its generator.

Responses are graded like all others, by math-verify on the boxed answer, so a task fits when its answers are
numbers or formulas. Tasks whose answers are grids, boards or free text have scorers of their own in the
package, which are not used: `check_golds` refuses answers that math-verify cannot read.
"""

from __future__ import annotations

import dataclasses
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from trb_lab.errors import MissingExtra, UsageError, did_you_mean
from trb_lab.spec.dataset import ReasoningGymDataset

from .problem import Problem, answer_text

BOX_INSTRUCTION = r"Put the final answer in \boxed{}."
"""Added to questions that do not ask for a box themselves."""

UNREPEATABLE = {"time_intervals": "its problems depend on today's date"}
"""Tasks that give other problems for the same seed on another day."""


def gym_version() -> str:
    """`reasoning-gym-<version>`: the package's release decides what a seed gives."""
    try:
        return f"reasoning-gym-{version('reasoning-gym')}"
    except PackageNotFoundError:
        raise MissingExtra("A dataset of kind reasoning_gym", "gym") from None


def load_gym(spec: ReasoningGymDataset, source: str) -> list[Problem]:
    """The first `num_examples` problems of the task for this seed."""
    generated = _create(spec, source)
    problems = []
    for index in range(spec.num_examples):
        item = generated[index]
        answer = _answer(item)
        question = item["question"].strip()
        prompt = question if "\\boxed" in question else f"{question}\n{BOX_INSTRUCTION}"
        steps = (item.get("metadata") or {}).get("answer_cot")
        solution = boxed_solution(steps, answer) if isinstance(steps, str) and answer is not None else None
        problems.append(Problem(prompt, answer, f"{spec.task}/{spec.seed}/{index}", solution))
    return problems


def boxed_solution(steps: str, answer: str) -> str:
    r"""Worked steps ending in `\boxed{answer}`; GSM8K's closing line `#### 12` is replaced by it."""
    steps = re.sub(r"\n?#### *[^\n]*\s*$", "", steps).rstrip()
    return f"{steps}\n\\boxed{{{answer}}}"


def _answer(item: dict[str, Any]) -> str | None:
    try:
        return answer_text(item.get("answer"))
    except ValueError:
        return str(item["answer"])


def _create(spec: ReasoningGymDataset, source: str) -> Any:
    """The package's data set object for the spec, with its complaints turned into ours."""
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ModuleNotFoundError:
        raise MissingExtra("A dataset of kind reasoning_gym", "gym") from None
    if spec.task not in DATASETS:
        near = did_you_mean(spec.task, DATASETS) or f" There are: {', '.join(sorted(DATASETS))}."
        raise UsageError(f"{source}.task: reasoning-gym has no task '{spec.task}'.{near}")
    if spec.task in UNREPEATABLE:
        raise UsageError(f"{source}.task: '{spec.task}' cannot be repeated: {UNREPEATABLE[spec.task]}.")
    config_class = DATASETS[spec.task][1]
    fields = [f.name for f in dataclasses.fields(config_class) if f.name not in ("seed", "size")]
    for name in spec.params:
        if name not in fields:
            raise UsageError(
                f"{source}.params: '{spec.task}' has no '{name}', but {', '.join(fields) or 'none'}."
                f"{did_you_mean(name, fields)}"
            )
    try:
        return create_dataset(spec.task, size=spec.num_examples, seed=spec.seed, **spec.params)
    except (AssertionError, TypeError, ValueError) as error:
        raise UsageError(f"{source}.params: '{spec.task}' refuses {spec.params}: {error}") from None
