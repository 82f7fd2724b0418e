"""A pair of random Qwen3 models at real shapes: what a rollout costs depends on the shapes, not on the weights.

The final norm is scaled until the mean entropy of the next token is ENTROPY_NATS, about that of a real model's
responses: sharper or flatter distributions would make redraws rarer and the solver's work easier. Student and teacher
know nothing of each other, so the KL budget binds at every token: the worst case for redraws. Stop tokens get next to
no mass, so that every response is of full length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trb_lab.models.load import LanguageModel, Pair
from trb_lab.models.vocabulary import SharedVocabulary
from trb_lab.policy.coupling import entropy
from trb_lab.policy.eos import canonical_log_probs
from trb_lab.spec.experiment import ModelSpec

from .options import TINY

ENTROPY_NATS = 1.0
BISECTIONS = 24
PREFIXES, PREFIX_TOKENS, PREFIX_TAIL = 8, 64, 16
"""Random prefixes that the entropy is measured on; the last positions of each."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen3 model."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    tied: bool


@dataclass(frozen=True)
class PairShape:
    """Two models over one vocabulary."""

    student: Shape
    teacher: Shape
    width: int
    """Logits of both."""
    vocabulary: int
    """Tokens of the tokenizer."""
    stop_ids: tuple[int, int]
    """The student's and the teacher's own; the teacher has both."""


def _qwen3(student: Shape, teacher: Shape) -> PairShape:
    return PairShape(student, teacher, width=151_936, vocabulary=151_669, stop_ids=(151_643, 151_645))


SHAPES = {
    "qwen3-1p7b-8b": _qwen3(
        Shape("random-qwen3-1.7b", 2048, 6144, 28, 16, 8, 128, tied=True),
        Shape("random-qwen3-8b", 4096, 12288, 36, 32, 8, 128, tied=False),
    ),
    "qwen3-0p6b-4b": _qwen3(
        Shape("random-qwen3-0.6b", 1024, 3072, 28, 16, 8, 128, tied=True),
        Shape("random-qwen3-4b", 2560, 9728, 36, 32, 8, 128, tied=True),
    ),
    TINY: PairShape(
        Shape("random-tiny-student", 64, 128, 2, 4, 2, 16, tied=True),
        Shape("random-tiny-teacher", 64, 128, 2, 4, 2, 16, tied=False),
        width=1024,
        vocabulary=1000,
        stop_ids=(990, 991),
    ),
}


class TokenCount:
    """Stands for a tokenizer where no text is made: all that is asked of it is how many tokens it has."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


def random_pair(name: str, device: torch.device, dtype: torch.dtype) -> Pair:
    """Both models on the device, built there from a fixed seed, bound to their vocabulary."""
    shape = SHAPES[name]
    own, other = shape.stop_ids
    vocabulary = SharedVocabulary(shape.vocabulary, own, shape.stop_ids, (other,))
    student = random_model(shape, shape.student, device, dtype, seed=0)
    teacher = random_model(shape, shape.teacher, device, dtype, seed=1)
    for model in (student, teacher):
        model.bind(vocabulary)
        _sharpen(model, shape)
    teacher.requires_grad_(False)
    return Pair(student, teacher, vocabulary)


def random_model(
    pair: PairShape, shape: Shape, device: torch.device, dtype: torch.dtype, seed: int
) -> LanguageModel:
    """One model with the initialisation of transformers (normal, 0.02), not bound yet."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    own, other = pair.stop_ids
    stop_ids = (own,) if shape is pair.student else (other, own)
    config = Qwen3Config(
        vocab_size=pair.width,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=32_768,
        eos_token_id=list(stop_ids),
        pad_token_id=own,
    )
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    with device:  # the weights are made where they stay
        network: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    torch.set_rng_state(state)
    return LanguageModel(
        network.to(device).eval(), TokenCount(pair.vocabulary), ModelSpec(name=shape.name), stop_ids
    )


@torch.no_grad()
def _sharpen(model: LanguageModel, shape: PairShape) -> None:
    """Scale the final norm to ENTROPY_NATS, and take the mass from the stop tokens (their logits become 0)."""
    assert model.stops is not None
    head = model.network.get_output_embeddings().weight
    head[list(shape.stop_ids)] = 0.0
    logits_NW = _tail_logits(model).float()
    low, high = 0.05, 50.0
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        flat = entropy(canonical_log_probs(logits_NW * middle, model.stops)).mean() > ENTROPY_NATS
        low, high = (middle, high) if flat else (low, middle)
    model.network.get_decoder().norm.weight.mul_(low)


@torch.no_grad()
def mean_entropy(model: LanguageModel) -> float:
    """Of the next token, nats, after random prefixes."""
    assert model.stops is not None
    return float(entropy(canonical_log_probs(_tail_logits(model), model.stops)).mean())


def _tail_logits(model: LanguageModel) -> Tensor:
    """Logits [N, W] at the ends of random prefixes."""
    prompts = random_prompts(PREFIXES, PREFIX_TOKENS, len(model.tokenizer), seed=2)
    hidden = model.hidden(input_ids=torch.tensor(prompts, device=model.device), use_cache=False)
    return model.logits(hidden[:, -PREFIX_TAIL:].flatten(0, 1))


def random_prompts(rows: int, length: int, vocabulary: int, seed: int) -> list[list[int]]:
    """Distinct rows of random tokens; the last tokens of a vocabulary, which are special, stay out."""
    draws = torch.Generator().manual_seed(seed)
    ordinary = vocabulary - max(vocabulary // 100, 1)
    return torch.randint(0, ordinary, (rows, length), generator=draws).tolist()
