r"""The bundled task: reduce an arithmetic expression, one step a line, and box the result.

    prompt      (3*4)-5+18-(9+2)
    solution    12-5+18-(9+2)
                12-5+18-11
                7+18-11
                25-11
                14
                \boxed{14}

Each line is the whole state of the computation: the line before it with one operation carried out (the first
bracket if there is one, else the leftmost operation). So a wrong copy, a lost bracket or a digression derails
everything that follows: the case in which it can matter who drives the rollouts.

Problems come from a seed. A hash of its text decides whether a problem may be trained or tested on, so that
train and test sets share no problem whatever their seeds; the test levels differ in their number of
operands.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from trb_lab.spec.dataset import ArithDataset

Split = Literal["train", "test"]
Level = Literal["easy", "medium", "hard"]

OPERANDS_OF_LEVEL: dict[str, tuple[int, ...]] = {"easy": (4,), "medium": (6,), "hard": (7,)}
"""Numbers in a problem of each test level."""
TRAIN_OPERANDS = {4: 3, 5: 3, 6: 3, 7: 1}
"""Numbers in a training problem -> relative share; the size of the hard problems is rare in training."""
LARGEST_VALUE = 99
"""Every number that appears, intermediate results included, lies in 0..99 (one token each)."""
LARGEST_OPERAND = 9
LARGEST_FACTOR = 4
TEST_SHARE = 0.1
"""Share of all possible problems that is kept for test sets."""
MAX_MISSES = 20_000
"""Draws in a row without a new problem after which a stream counts as exhausted; 30 is usual in test sets."""


@dataclass(frozen=True)
class ArithProblem:
    r"""One problem: `solution` is the chain of steps, one a line, ending in `\boxed{answer}`."""

    prompt: str
    answer: str
    solution: str
    level: Level


def generate(spec: ArithDataset) -> list[ArithProblem]:
    """The first `spec.num_examples` problems of the stream that split, level and seed name.

    A test set without a level cycles through easy, medium, hard. No set holds a problem twice.

    Raises:
        ValueError: the train split was given a level, or there are fewer problems than asked for.
    """
    if spec.split == "train" and spec.level is not None:
        raise ValueError(
            f"the train split of the arith task mixes its own levels, got level={spec.level!r}: "
            "leave level out, or take split: test"
        )
    return list(islice(problem_stream(spec.split, spec.level, spec.seed), spec.num_examples))


def problem_stream(split: Split, level: Level | None = None, seed: int = 0) -> Iterator[ArithProblem]:
    """Problems of one split, each text once. Longer streams begin with shorter ones.

    Raises:
        ValueError: so many problems were drawn that new ones are hard to find.
    """
    rng = random.Random(f"arith/{split}/{level}/{seed}")
    seen: set[str] = set()
    num_misses = 0
    while num_misses < MAX_MISSES:
        state = _draw_state(rng, _num_operands(rng, split, level, len(seen)))
        prompt = "".join(state)
        steps = _reduce(state) if split_of(prompt) == split and prompt not in seen else None
        if steps is None:
            num_misses += 1
            continue
        num_misses = 0
        seen.add(prompt)
        yield _problem(steps)
    raise ValueError(
        f"the arith task has about {len(seen)} different problems of split {split!r}, level {level!r}: "
        "set num_examples to at most that"
    )


def split_of(prompt: str) -> Split:
    """The only split that this problem may belong to, from a hash of its text."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return "test" if int.from_bytes(digest[:4], "big") < TEST_SHARE * 2**32 else "train"


def reduce_once(state: list[str]) -> list[str]:
    """`state` with its first bracket, or else its leftmost operation, carried out.

    Brackets hold exactly one operation, so `state` is a list like `["12", "-", "(", "9", "+", "2", ")"]`.
    """
    if "(" in state:
        start = state.index("(")
        return [*state[:start], _apply(*state[start + 1 : start + 4]), *state[start + 5 :]]
    return [_apply(*state[:3]), *state[3:]]


def _apply(left: str, operator: str, right: str) -> str:
    a, b = int(left), int(right)
    return str({"+": a + b, "-": a - b, "*": a * b}[operator])


def _num_operands(rng: random.Random, split: str, level: Level | None, index: int) -> int:
    if split == "train":
        return rng.choices(list(TRAIN_OPERANDS), weights=list(TRAIN_OPERANDS.values()))[0]
    return rng.choice(OPERANDS_OF_LEVEL[level or ("easy", "medium", "hard")[index % 3]])


def _draw_state(rng: random.Random, num_operands: int) -> list[str]:
    """An expression of one or two brackets and single numbers."""
    num_brackets = rng.randint(1, 2)
    terms = [_draw_bracket(rng) for _ in range(num_brackets)]
    terms += [[str(rng.randint(1, LARGEST_OPERAND))] for _ in range(num_operands - 2 * num_brackets)]
    rng.shuffle(terms)
    state = list(terms[0])
    for term in terms[1:]:
        state += [rng.choice("+-"), *term]
    return state


def _reduce(state: list[str]) -> list[list[str]] | None:
    """All states from the problem to its result, or None where a value leaves 0..99."""
    steps = [state]
    while len(steps[-1]) > 1:
        steps.append(reduce_once(steps[-1]))
        if not all(map(_is_in_range, steps[-1])):
            return None
    return steps


def _is_in_range(token: str) -> bool:
    is_number = token.lstrip("-").isdigit()
    return not is_number or 0 <= int(token) <= LARGEST_VALUE


def _draw_bracket(rng: random.Random) -> list[str]:
    operator = rng.choice("+-*")
    largest = LARGEST_FACTOR if operator == "*" else LARGEST_OPERAND
    return ["(", str(rng.randint(1, largest)), operator, str(rng.randint(1, largest)), ")"]


def _problem(steps: list[list[str]]) -> ArithProblem:
    answer = steps[-1][0]
    lines = ["".join(step) for step in steps[1:]] + [f"\\boxed{{{answer}}}"]
    num_operands = sum(token.isdigit() for token in steps[0])
    level: Level = "easy" if num_operands <= 4 else "medium" if num_operands <= 6 else "hard"
    return ArithProblem("".join(steps[0]), answer, "\n".join(lines), level)
