"""The recipe of the bundled model pair: two tiny Qwen3 models, trained from scratch on the arith task.

The teacher masters the task in chat format. The student is a poor base model: its corpus derails and slips
(pair_corpus.py), and its training stops early, so it solves few problems while the skill is within reach.

    python -m trb_lab.models.make_pair OUTPUT_DIR
"""

from __future__ import annotations

import json
import platform
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from trb_lab.tasks.arith import ArithProblem, Level, problem_stream

from .pair_corpus import CorpusMix, student_texts, teacher_texts
from .pair_tokenizer import build_tokenizer
from .pair_training import ModelShape, Progress, TrainSettings, build_model, measure, train

STUDENT_NAME = "arith-student"
TEACHER_NAME = "arith-teacher"
MAX_NEW_TOKENS = 64
"""Covers the longest correct solution of the hard set (48 tokens with its end token)."""
EVALUATION_SEED = 2_000_000_011
"""Apart from the seeds that training streams use."""


@dataclass(frozen=True)
class PairRecipe:
    """Everything that decides the pair's weights, beside the number of threads and the library versions."""

    student_shape: ModelShape = field(default_factory=lambda: ModelShape(logit_width=192))
    teacher_shape: ModelShape = field(default_factory=lambda: ModelShape(logit_width=208))
    student_training: TrainSettings = field(default_factory=lambda: TrainSettings(steps=2400))
    teacher_training: TrainSettings = field(default_factory=lambda: TrainSettings(steps=4500))
    student_corpus: CorpusMix = field(default_factory=CorpusMix)
    num_evaluation_problems: int = 500
    seed: int = 0


def quick_recipe(recipe: PairRecipe) -> PairRecipe:
    """A few steps of everything, for tests: the models it makes know nothing."""
    return replace(
        recipe,
        student_training=replace(recipe.student_training, steps=4, batch=8),
        teacher_training=replace(recipe.teacher_training, steps=4, batch=8),
        num_evaluation_problems=4,
    )


def make_pair(
    output_dir: Path,
    *,
    seed: int = 0,
    threads: int = 1,
    device: str = "cpu",
    quick: bool = False,
    progress: Progress = print,
) -> dict[str, Any]:
    """Train, measure and write both models and `recipe.json` under `output_dir`; return the latter.

    On CPU the weights depend on seed, threads and library versions alone. Minutes; `quick`: seconds.
    """
    recipe = replace(PairRecipe(), seed=seed)
    recipe = quick_recipe(recipe) if quick else recipe
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        measured = {
            STUDENT_NAME: _make_model(recipe, output_dir, device, progress, chat=False),
            TEACHER_NAME: _make_model(recipe, output_dir, device, progress, chat=True),
        }
    finally:
        torch.set_num_threads(threads_before)
    record = {
        "settings": {
            **asdict(recipe),
            "threads": threads,
            "device": device,
            "quick": quick,
            "max_new_tokens": MAX_NEW_TOKENS,
        },
        "measured": measured,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }
    (output_dir / "recipe.json").write_text(json.dumps(record, indent=2) + "\n")
    return record


def _make_model(
    recipe: PairRecipe, output_dir: Path, device: str, progress: Progress, *, chat: bool
) -> dict[str, Any]:
    """Train, measure and save the teacher (`chat`) or the student."""
    name = TEACHER_NAME if chat else STUDENT_NAME
    tokenizer = build_tokenizer(chat=chat)
    shape, settings = (
        (recipe.teacher_shape, recipe.teacher_training)
        if chat
        else (recipe.student_shape, recipe.student_training)
    )
    corpus_seed, weight_seed = 2 * recipe.seed + (1 if chat else 2), 2 * recipe.seed + chat
    texts = teacher_texts(corpus_seed) if chat else student_texts(corpus_seed, recipe.student_corpus)
    model = build_model(shape, tokenizer, seed=weight_seed).to(device)  # type: ignore[arg-type]
    progress(f"{name}: {sum(p.numel() for p in model.parameters())} parameters")
    started = time.perf_counter()
    train(model, tokenizer, texts, replace(settings, seed=weight_seed), progress)
    seconds = time.perf_counter() - started
    scores = _measure_all(model, tokenizer, recipe, progress)
    model.to("cpu").save_pretrained(output_dir / name)
    tokenizer.save_pretrained(output_dir / name)
    return {"pass_at_1": scores, "training_seconds": round(seconds, 1)}


def _measure_all(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: PairRecipe, progress: Progress
) -> dict[str, dict[str, float | int]]:
    """Sampled pass@1 on unseen training-split problems and on each test level."""
    scores = {}
    for name, problems in evaluation_problems(recipe.num_evaluation_problems).items():
        scores[name] = measure(model, tokenizer, problems, max_new_tokens=MAX_NEW_TOKENS, seed=recipe.seed)
        progress(f"  {name}: pass@1 {scores[name]['pass_at_1']:.3f} of {scores[name]['n']}")
    return scores


def evaluation_problems(num: int) -> dict[str, list[ArithProblem]]:
    """The sets that the pair is measured on: the training distribution and the three test levels."""
    levels: tuple[Level, ...] = ("easy", "medium", "hard")
    sets = {"train": list(islice(problem_stream("train", seed=EVALUATION_SEED), num))}
    return sets | {level: list(islice(problem_stream("test", level, seed=0), num)) for level in levels}


if __name__ == "__main__":
    make_pair(Path(sys.argv[1]))
