"""The prompts of each step, as both models see them."""

from __future__ import annotations

from dataclasses import dataclass

from trb_lab.models.load import Pair
from trb_lab.rollout.engine import Draws, RolloutRequest
from trb_lab.spec import ExperimentSpec
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

    def prompts_at(self, step: int) -> StepPrompts:
        """The rows of 0-based `step`, with their keyed draws."""
        rollout = self.spec.rollout
        indices = [i for i in self.order.at(step) for _ in range(rollout.samples_per_prompt)]
        request = RolloutRequest(
            [self.student_ids[i] for i in indices],
            [self.teacher_ids[i] for i in indices],
            Draws.keyed(self.spec.seed, "rollout", step, range(len(indices)), rollout.max_new_tokens),
        )
        return StepPrompts([self.problems[i] for i in indices], request)
