"""A tiny pair of random Qwen3 models over a handful of tokens, small enough to enumerate every response."""

from __future__ import annotations

import copy

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from trb_lab.models.load import LanguageModel, Pair
from trb_lab.models.vocabulary import share_vocabulary
from trb_lab.spec.experiment import ModelSpec

STUDENT_EOS, TEACHER_EOS = 0, 1


def tiny_tokenizer(size: int, eos_id: int) -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(size)}
    tokenizer = Tokenizer(WordLevel(words, unk_token=f"w{size - 1}"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=f"w{eos_id}", unk_token=f"w{size - 1}"
    )


def tiny_model(
    name: str, seed: int, vocabulary: int, padding: int, eos_id: int, sharpness: float
) -> LanguageModel:
    """Random weights whose logits are scaled so that distributions are far from uniform."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocabulary + padding, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, tie_word_embeddings=False, eos_token_id=eos_id,
    )  # fmt: skip
    network = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        network.lm_head.weight.normal_(0, sharpness / 4)
        for parameter in network.model.layers.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.5)
        network.model.embed_tokens.weight.normal_(0, 1.0)
    return LanguageModel(network, tiny_tokenizer(vocabulary, eos_id), ModelSpec(name=name), (eos_id,))


def tiny_pair(vocabulary: int = 6, sharpness: float = 1.5, seed: int = 0) -> Pair:
    """Student and teacher with different EOS ids and different padding rows."""
    student = tiny_model("tiny-student", seed, vocabulary, 2, STUDENT_EOS, sharpness)
    teacher = tiny_model("tiny-teacher", seed + 1, vocabulary, 5, TEACHER_EOS, sharpness)
    teacher.requires_grad_(False)
    shared = share_vocabulary(
        student.tokenizer, teacher.tokenizer, student.own_stop_ids, teacher.own_stop_ids
    )
    student.bind(shared)
    teacher.bind(shared)
    return Pair(student, teacher, shared)


def reference_log_probs(
    model: LanguageModel, ids: list[int], stop_ids: tuple[int, ...], size: int
) -> torch.Tensor:
    """Next-token log-probs [V] in float64 by the definition: full forward pass, stop mass on the student's id."""
    network = copy.deepcopy(model.network).double()
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([ids])).logits[0, -1]
    probabilities = logits[:size].softmax(-1)
    merged = probabilities.clone()
    merged[list(stop_ids)] = 0.0
    merged[STUDENT_EOS] = probabilities[list(stop_ids)].sum()
    return (merged / merged.sum()).log()
