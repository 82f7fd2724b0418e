"""What a benchmark runs on: a pair on its device, and the same prompts and draws for every contestant."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from trb_lab.errors import UsageError
from trb_lab.models.load import Pair, load_pair, pick_device, pick_dtype
from trb_lab.policy.behaviors import StepBehavior, trust_region_rollouts
from trb_lab.rollout.blocks import BlockChooser, CostTable
from trb_lab.rollout.engine import Draws, Keep, RolloutRequest
from trb_lab.spec.experiment import ModelSpec, PromptSpec

from .options import BUNDLED, Options, default_pair
from .phases import PhasedEngine
from .random_pair import random_pair, random_prompts

MAX_PROMPT_TOKENS = 32
TOP_K = 16
"""The loss's support: rollouts record it, as they do in training."""


@dataclass(frozen=True)
class Setting:
    """Models on their device, and their prompts."""

    pair: Pair
    student_prompts: list[list[int]]
    teacher_prompts: list[list[int]]
    max_new_tokens: int
    keep: Keep

    @property
    def device(self) -> torch.device:
        return self.pair.student.device

    @property
    def rows(self) -> int:
        return len(self.student_prompts)

    @cached_property
    def engine(self) -> PhasedEngine:
        """One for the setting: its caches and captured passes are kept, as in training."""
        return PhasedEngine(self.pair, self.rows)

    def request(self, repeat: int, block_tokens: int | None = None) -> RolloutRequest:
        """The prompts with the draws of one repeat: the same for all contestants."""
        draws = Draws.keyed(0, "bench", repeat, range(self.rows), self.max_new_tokens)
        return RolloutRequest(self.student_prompts, self.teacher_prompts, draws, block_tokens)

    def trb(self, eps: float) -> StepBehavior:
        """TRB at a fixed budget."""
        return trust_region_rollouts(torch.full((self.rows,), eps), eps)

    def choose_block(self, behavior: StepBehavior, costs: CostTable, request: RolloutRequest) -> int:
        """The block length that training would take in its second step: by the redraw rate seen in a rollout."""
        chooser = BlockChooser(costs=costs)
        request = replace(request, block_tokens=chooser.at(behavior))
        chooser.observe(behavior, self.engine.rollout(request, behavior, self.keep))
        block = chooser.at(behavior)
        assert block is not None, "a behaviour policy without a teacher has no block length"
        return block


def asked_pair(options: Options) -> str:
    """The pair that was asked for, or the machine's default."""
    return options.pair or default_pair(torch.cuda.is_available())


def load(name: str) -> Pair:
    """A pair by its name in `options.PAIRS`, on the GPU where there is one."""
    device = pick_device("auto")
    dtype = pick_dtype("auto", device)
    if name != BUNDLED:
        return random_pair(name, device, dtype)
    return load_pair(ModelSpec(name="arith-student"), ModelSpec(name="arith-teacher"), device, dtype)


def bundled_setting(pair: Pair, rows: int, max_new_tokens: int) -> Setting:
    """`rows` training problems of the bundled task, one rollout each."""
    from trb_lab.spec.dataset import ArithDataset
    from trb_lab.tasks.datasets import load_problems
    from trb_lab.tasks.prompts import encode_prompts

    models = [(model.tokenizer, model.spec) for model in (pair.student, pair.teacher)]
    problems = load_problems(ArithDataset(kind="arith", split="train", num_examples=rows))
    encoded = encode_prompts(problems, models, PromptSpec(), MAX_PROMPT_TOKENS)
    student_prompts, teacher_prompts = encoded.token_ids
    return Setting(pair, student_prompts, teacher_prompts, max_new_tokens, Keep(top_k=TOP_K))


def random_setting(pair: Pair, rows: int, max_new_tokens: int, context: int) -> Setting:
    """Distinct random prompts, so long that a row's cache holds `context` tokens half-way through its response."""
    length = context - max_new_tokens // 2
    if length < 2:
        raise UsageError(
            f"--context {context} leaves no room for a prompt: with --new-tokens {max_new_tokens} give at least "
            f"{max_new_tokens // 2 + 2}"
        )
    prompts = random_prompts(rows, length, pair.vocabulary.size, seed=3)
    return Setting(pair, prompts, prompts, max_new_tokens, Keep(top_k=TOP_K))


def refuse_context(options: Options) -> None:
    """Raises UsageError where a context is asked of the bundled pair."""
    if options.context:
        raise UsageError(
            "--context: the bundled pair has prompts of its own; leave it out or name another --pair"
        )
