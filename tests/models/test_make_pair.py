"""The recipe of the bundled pair runs, is deterministic, and its corpus says what it claims."""

import json
import random
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trb_lab.models.make_pair import STUDENT_NAME, TEACHER_NAME, make_pair
from trb_lab.models.pair_corpus import ENDLESS, CorpusMix, derail, slip, student_texts, teacher_texts
from trb_lab.models.pair_tokenizer import STUDENT_EOS, TEACHER_EOS, build_tokenizer
from trb_lab.tasks.arith import problem_stream


@pytest.fixture(scope="module")
def pair_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pair")
    make_pair(path, quick=True, progress=lambda line: None)
    return path


def test_quick_recipe_writes_both_models_and_what_was_measured(pair_dir: Path) -> None:
    record = json.loads((pair_dir / "recipe.json").read_text())
    for name in (STUDENT_NAME, TEACHER_NAME):
        assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= {
            path.name for path in (pair_dir / name).iterdir()
        }
        scores = record["measured"][name]["pass_at_1"]
        assert set(scores) == {"train", "easy", "medium", "hard"}
        assert all(set(score) == {"pass_at_1", "standard_error", "n"} for score in scores.values())
    assert record["settings"]["seed"] == 0
    assert record["settings"]["quick"] is True


def test_same_seed_gives_the_same_weights(pair_dir: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    torch.rand(3)  # global random state must not matter
    make_pair(tmp_path, quick=True, progress=lines.append)
    for name in (STUDENT_NAME, TEACHER_NAME):
        first, second = (load_file(path / name / "model.safetensors") for path in (pair_dir, tmp_path))
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(line.startswith(STUDENT_NAME) for line in lines)


def test_corpus_shares_are_those_of_the_mix() -> None:
    solutions = {f"{p.prompt}\n": p.solution for p in islice(problem_stream("train", seed=0), 2000)}
    texts = list(islice(student_texts(0, CorpusMix(derailed=0.4, slipped=0.0)), 2000))
    num_right = sum(response == solutions[prompt] + STUDENT_EOS for prompt, response in texts)
    assert num_right / 2000 == pytest.approx(0.6, abs=0.04)


def test_teacher_reads_only_correct_solutions_in_its_chat_format() -> None:
    problem = next(problem_stream("train", seed=3))
    prompt, response = next(teacher_texts(3))
    chat = [{"role": "user", "content": problem.prompt}]
    tokenizer = build_tokenizer(chat=True)
    assert prompt == tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert response == problem.solution + TEACHER_EOS


def test_derailed_and_slipped_solutions_do_not_box_the_answer_by_construction() -> None:
    rng = random.Random(0)
    num_boxed_right = num_endless = num_slipped_right = 0
    for problem in islice(problem_stream("train", seed=1), 300):
        derailed = derail(problem, rng)
        assert derailed.endswith((STUDENT_EOS, ENDLESS))
        num_endless += derailed.endswith(ENDLESS)
        num_boxed_right += f"\\boxed{{{problem.answer}}}" in derailed
        num_slipped_right += slip(problem, rng) == problem.solution
    assert num_endless > 100
    # Repeating the last line repeats the box, a garbled box may hit by chance, slips out of 0..99 drop.
    assert num_boxed_right < 30
    assert num_slipped_right < 100


@pytest.mark.parametrize("chat", [False, True])
def test_tokenizer_round_trips_prompts_and_solutions(chat: bool) -> None:
    tokenizer = build_tokenizer(chat=chat)
    for problem in islice(problem_stream("test", seed=0), 60):
        for text in (problem.prompt, problem.solution):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.decode(ids) == text
            assert tokenizer.unk_token_id not in ids


def test_every_word_of_a_digression_is_one_token_and_unknown_words_fall_back_to_letters() -> None:
    tokenizer = build_tokenizer(chat=False)
    assert len(tokenizer(" hmm wait so the sum")["input_ids"]) == 5
    assert tokenizer.decode(tokenizer("zebra 07")["input_ids"]) == "zebra 07"
