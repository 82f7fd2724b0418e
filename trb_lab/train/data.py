"""The prompts of each step, as both models see them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from trb_lab.errors import LabError
from trb_lab.models.load import Pair
from trb_lab.rollout.engine import Draws, RolloutRequest
from trb_lab.spec import ExperimentSpec
from trb_lab.store.run_dir import RunDir, read_json, write_json
from trb_lab.tasks.datasets import PromptOrder, load_problems
from trb_lab.tasks.grading import Grader, check_golds
from trb_lab.tasks.problem import Problem
from trb_lab.tasks.prompts import encode_prompts


@dataclass(frozen=True)
class StepPrompts:
    """One step's rows: `samples_per_prompt` neighbouring rows for each prompt."""

    problems: list[Problem]
    request: RolloutRequest


class TrainingData:
    """Order and draws depend on the seed alone: the same prompts and uniforms for every arm."""

    def __init__(self, spec: ExperimentSpec, pair: Pair, grader: Grader) -> None:
        self.spec = spec
        problems = load_problems(spec.dataset)
        check_golds(problems, grader)  # a gold that cannot be read would be a reward of 0 without a word
        encoded = encode_prompts(
            problems,
            [(pair.student.tokenizer, spec.student), (pair.teacher.tokenizer, spec.teacher)],
            spec.prompt,
            spec.rollout.max_prompt_tokens,
        )
        self.problems = encoded.problems
        self.num_dropped = encoded.num_dropped
        self.student_ids, self.teacher_ids = encoded.token_ids
        self.order = PromptOrder(self.problems, spec.seed, spec.rollout.prompts_per_step)

    @property
    def rows(self) -> int:
        """Rollouts a step."""
        return self.spec.rollout.prompts_per_step * self.spec.rollout.samples_per_prompt

    def rows_at(self, step: int, samples: int) -> list[int]:
        """Index of the problem of each row, with `samples` neighbouring rows for each prompt of the step."""
        return [i for i in self.order.at(step) for _ in range(samples)]

    def facts(self) -> dict[str, Any]:
        """What data.json holds: sizes, and hashes of the prompts as texts and as each model's ids, in their order."""
        return {
            "problems": len(self.problems),
            "dropped": self.num_dropped,
            "prompts_sha256": _sha256(problem.prompt for problem in self.problems),
            "student_prompt_ids_sha256": _sha256(self.student_ids),
            "teacher_prompt_ids_sha256": _sha256(self.teacher_ids),
        }

    def record(self, run_dir: RunDir) -> None:
        """Write data.json. Raises LabError where an earlier attempt trained on other prompts."""
        facts, before = self.facts(), read_json(run_dir.data) or {}
        changed = [key for key in facts if key in before and before[key] != facts[key]]
        if "prompts_sha256" in changed:
            raise LabError(
                f"the prompts are not those that {run_dir.path} began with (data.json: {', '.join(changed)}). "
                "Put the old data back to go on, pin a hub data set with `revision`, or start a run of its own."
            )
        if changed:  # a template that writes the date, or another release of the tokenizer's library
            print(
                f"warning: the prompts' token ids are not those that the run began with ({', '.join(changed)})"
            )
        write_json(run_dir.data, facts)

    def prompts_at(self, step: int) -> StepPrompts:
        """The rows of 0-based `step`, with their keyed draws."""
        rollout = self.spec.rollout
        indices = self.rows_at(step, rollout.samples_per_prompt)
        request = RolloutRequest(
            [self.student_ids[i] for i in indices],
            [self.teacher_ids[i] for i in indices],
            Draws.keyed(self.spec.seed, "rollout", step, range(len(indices)), rollout.max_new_tokens),
        )
        return StepPrompts([self.problems[i] for i in indices], request)


def _sha256(entries: Iterable[str | list[int]]) -> str:
    """Hash of texts or id lists in their order, one JSON line each."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(json.dumps(entry).encode() + b"\n")
    return digest.hexdigest()
