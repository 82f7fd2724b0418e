"""The bundled pair and its prompts, as the experiment of the bundled task uses them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trb_lab.models.load import Pair, load_pair, pick_device, pick_dtype
from trb_lab.rollout.engine import Keep, RolloutRequest
from trb_lab.rollout.torch_engine import TorchEngine
from trb_lab.seeds import uniforms
from trb_lab.spec.dataset import ArithDataset
from trb_lab.spec.experiment import ModelSpec, PromptSpec
from trb_lab.tasks.datasets import load_problems
from trb_lab.tasks.prompts import encode_prompts

ROWS = 64
MAX_PROMPT_TOKENS = 32
MAX_NEW_TOKENS = 64
TOP_K = 16
"""The loss's support: rollouts record it, as they do in training."""
KL_BUDGET = 0.05


@dataclass(frozen=True)
class Setting:
    """Models on their device, and the same prompts for every contestant."""

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

    @property
    def engine(self) -> TorchEngine:
        return TorchEngine(self.pair)

    def request(self, repeat: int) -> RolloutRequest:
        """The prompts with the draws of one repeat: the same for all contestants, others in the next repeat."""
        draws = uniforms(0, "bench", repeat, range(self.rows), self.max_new_tokens)
        return RolloutRequest(self.student_prompts, self.teacher_prompts, draws)


def bundled_pair() -> Pair:
    """The bundled pair on the GPU where there is one, else on the CPU."""
    device = pick_device("auto")
    student, teacher = ModelSpec(name="arith-student"), ModelSpec(name="arith-teacher")
    return load_pair(student, teacher, device, pick_dtype("auto", device))


def setting(rows: int = ROWS, max_new_tokens: int = MAX_NEW_TOKENS, pair: Pair | None = None) -> Setting:
    """`rows` training problems of the bundled task, one rollout each."""
    pair = pair or bundled_pair()
    models = [(model.tokenizer, model.spec) for model in (pair.student, pair.teacher)]
    problems = load_problems(ArithDataset(kind="arith", split="train", num_examples=rows))
    encoded = encode_prompts(problems, models, PromptSpec(), MAX_PROMPT_TOKENS)
    student_prompts, teacher_prompts = encoded.token_ids
    return Setting(pair, student_prompts, teacher_prompts, max_new_tokens, Keep(top_k=TOP_K))
