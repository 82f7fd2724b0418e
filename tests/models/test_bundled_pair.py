"""The bundled pair as users get it: the Auto classes load it, the teacher far surpasses the student."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

import trb_lab
from trb_lab.models.make_pair import MAX_NEW_TOKENS, STUDENT_NAME, TEACHER_NAME
from trb_lab.models.pair_training import measure
from trb_lab.spec.dataset import ArithDataset
from trb_lab.tasks.arith import generate

BUNDLED = Path(trb_lab.__file__).parent / "models" / "bundled"
NAMES = (STUDENT_NAME, TEACHER_NAME)


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    return {name: AutoTokenizer.from_pretrained(BUNDLED / name) for name in NAMES}


@pytest.fixture(scope="module")
def models() -> dict[str, Qwen3ForCausalLM]:
    return {name: AutoModelForCausalLM.from_pretrained(BUNDLED / name) for name in NAMES}


def test_is_small() -> None:
    assert sum(path.stat().st_size for path in BUNDLED.rglob("*") if path.is_file()) <= 2_000_000


def test_is_a_qwen3_pair_with_different_padded_widths(
    models: dict[str, Qwen3ForCausalLM], tokenizers: dict[str, PreTrainedTokenizerFast]
) -> None:
    widths = [models[name].config.vocab_size for name in NAMES]
    assert all(isinstance(model, Qwen3ForCausalLM) for model in models.values())
    assert widths[0] != widths[1]
    assert min(widths) > len(tokenizers[STUDENT_NAME]) >= 128
    assert all(model.get_output_embeddings().weight.dtype == torch.float32 for model in models.values())


def test_shares_ids_but_not_the_end_token(
    models: dict[str, Qwen3ForCausalLM], tokenizers: dict[str, PreTrainedTokenizerFast]
) -> None:
    student, teacher = (tokenizers[name] for name in NAMES)
    assert student.get_vocab() == teacher.get_vocab()
    assert student.eos_token != teacher.eos_token
    assert {student.eos_token, teacher.eos_token} <= set(student.get_vocab())
    for name in NAMES:
        assert models[name].generation_config.eos_token_id == tokenizers[name].eos_token_id


def test_only_the_teacher_has_a_chat_template(tokenizers: dict[str, PreTrainedTokenizerFast]) -> None:
    assert tokenizers[STUDENT_NAME].chat_template is None
    chat = [{"role": "system", "content": "box it."}, {"role": "user", "content": "(1+2)-3"}]
    write = partial(tokenizers[TEACHER_NAME].apply_chat_template, add_generation_prompt=True, tokenize=False)
    texts = {write(chat), write(chat, enable_thinking=True), write(chat, enable_thinking=False)}
    assert texts == {
        "<|im_start|>system\nbox it.<|im_end|>\n<|im_start|>user\n(1+2)-3<|im_end|>\n<|im_start|>assistant\n"
    }


@pytest.mark.parametrize("level", ["easy", "medium", "hard"])
def test_round_trip_and_lengths(level: str, tokenizers: dict[str, PreTrainedTokenizerFast]) -> None:
    for problem in generate(ArithDataset(split="test", level=level, num_examples=50)):
        for tokenizer in tokenizers.values():
            ids = tokenizer(problem.solution)["input_ids"]
            assert tokenizer.decode(ids, skip_special_tokens=True) == problem.solution
            assert len(ids) + 1 <= MAX_NEW_TOKENS


def test_teacher_is_far_better_than_student(
    models: dict[str, Qwen3ForCausalLM], tokenizers: dict[str, PreTrainedTokenizerFast]
) -> None:
    problems = generate(ArithDataset(split="test", level="medium", num_examples=60, seed=5))
    student, teacher = (
        measure(models[name], tokenizers[name], problems, max_new_tokens=MAX_NEW_TOKENS, seed=0)["pass_at_1"]
        for name in NAMES
    )
    assert teacher > 0.85
    assert student < 0.4


def test_recipe_says_what_was_measured() -> None:
    measured = json.loads((BUNDLED / "recipe.json").read_text())["measured"]
    assert measured[TEACHER_NAME]["pass_at_1"]["train"]["pass_at_1"] >= 0.95
    assert measured[TEACHER_NAME]["pass_at_1"]["hard"]["pass_at_1"] >= 0.7
    assert 0.05 <= measured[STUDENT_NAME]["pass_at_1"]["train"]["pass_at_1"] <= 0.3


def test_a_folder_that_is_no_model_is_refused_in_words(tmp_path):
    import torch

    from trb_lab.errors import UsageError
    from trb_lab.models.load import load_model
    from trb_lab.spec.experiment import ModelSpec

    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"cannot be loaded from .* holds config\.json"):
        load_model(ModelSpec(name=str(tmp_path)), torch.device("cpu"), torch.float32)
