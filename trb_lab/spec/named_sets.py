"""Data sets that a spec can name in one word: `dataset: openthoughts3`, `eval: {sets: [gsm8k, math500]}`.

The one table of ids, configs, columns and revisions. docs/data.md says what each holds and where its facts are
from. A set that is pinned to a commit stays the same whatever its owners upload.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

OPENTHOUGHTS3: dict[str, Any] = {
    "kind": "hub",
    "id": "open-thoughts/OpenThoughts3-1.2M",
    "revision": "61bcf9d4eb38b30295efc2021227a63cc5bb34c8",
    "split": "train",
    "prompt_column": "conversations[from=human].value",
    "answer_column": None,
    "unique": True,
    "shuffle_seed": 0,
    "limit": 25_600,
}
"""25,600 different questions in a random order: rows are sorted by domain, and each question has some 16 of them."""

TRAINING_SETS: dict[str, dict[str, Any]] = {
    "openthoughts3": OPENTHOUGHTS3,
    "openthoughts3_math": {**OPENTHOUGHTS3, "where": {"domain": "math"}},
}

EVALUATION_SETS: dict[str, dict[str, Any]] = {
    "gsm8k": {
        "kind": "hub",
        "id": "openai/gsm8k",
        "revision": "740312add88f781978c0658806c59bc2815b9866",
        "config": "main",
        "split": "test",
        "prompt_column": "question",
        "answer_after": "####",
    },
    "math500": {
        "kind": "hub",
        "id": "HuggingFaceH4/MATH-500",
        "revision": "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        "split": "test",
        "prompt_column": "problem",
    },
    "olympiadbench": {
        "kind": "hub",
        "id": "Hothan/OlympiadBench",
        "revision": "91184b52131e7fc9455fef848035173aea8cc01a",
        "config": "OE_TO_maths_en_COMP",
        "split": "train",
        "prompt_column": "question",
        "answer_column": "final_answer",
        "unreadable_answers": "drop",
    },
    "amc": {
        "kind": "hub",
        "id": "math-ai/amc23",
        "revision": "80815d37005feb82cd7f8fbc6901d5d3eff43057",
        "split": "test",
        "prompt_column": "question",
    },
    "aime24": {
        "kind": "hub",
        "id": "HuggingFaceH4/aime_2024",
        "revision": "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        "split": "train",
        "prompt_column": "problem",
    },
    "aime25": {
        "kind": "hub",
        "id": "math-ai/aime25",
        "revision": "563bb8404243c5f09de6ec262f2db674fe5bce9b",
        "split": "test",
        "prompt_column": "problem",
    },
    "champ": {"kind": "champ"},
    "gsm_symbolic": {"kind": "reasoning_gym", "task": "gsm_symbolic", "num_examples": 500, "seed": 1},
}
"""Each can also be trained on; a seed other than the default keeps gsm_symbolic apart from training sets."""

BUNDLED_SETS = ("arith/easy", "arith/medium", "arith/hard")


class ShortForms:
    """A validator that turns a name into the block it stands for, and lets everything else pass."""

    def __init__(self, names: tuple[str, ...], expand: Callable[[str], Any]) -> None:
        self.names = names
        """What may be written; messages and editors list them."""
        self._expand = expand

    def __call__(self, value: Any) -> Any:
        return self._expand(value) if isinstance(value, str) else value


def _dataset(name: str) -> Any:
    known = {**TRAINING_SETS, **EVALUATION_SETS}
    return copy.deepcopy(known.get(name, name))


def _evaluation_set(name: str) -> Any:
    if name.startswith("arith/"):
        level = name.removeprefix("arith/")
        dataset = {"kind": "arith", "split": "test", "level": level, "num_examples": 200}
        return {"name": level, "dataset": dataset}
    if name in EVALUATION_SETS:
        return {"name": name, "dataset": copy.deepcopy(EVALUATION_SETS[name])}
    return name


dataset_forms = ShortForms((*TRAINING_SETS, *EVALUATION_SETS), _dataset)
"""`openthoughts3`, and the names of evaluation sets."""
evaluation_forms = ShortForms((*BUNDLED_SETS, *EVALUATION_SETS), _evaluation_set)
"""`arith/hard` (the bundled test set of that level, 200 problems), `gsm8k` and the others."""
