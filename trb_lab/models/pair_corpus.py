"""What the bundled pair is trained on.

The teacher reads nothing but correct solutions, in its chat format. The student, like a base model, reads a
corpus of mixed quality: part of its solutions are correct, part contain a slip of arithmetic and go on
consistently from the wrong value, and part derail: they wander off into chatter, start over, repeat a line,
or garble the format, and never recover. So its rollouts reach states that the teacher has never seen, while
the skill is within its reach.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from trb_lab.tasks.arith import ArithProblem, problem_stream, reduce_once

from .pair_tokenizer import CHAT_TEMPLATE, STUDENT_EOS, TEACHER_EOS, WORDS

ENDLESS = "<endless>"
"""Marks a response that has no end: it is cut where the context ends, and no end token is learned."""
MAX_CHATTER_WORDS = 80


@dataclass(frozen=True)
class CorpusMix:
    """Shares of the student's corpus; the rest is correct."""

    derailed: float = 0.5
    slipped: float = 0.15


def teacher_texts(seed: int) -> Iterator[tuple[str, str]]:
    """Endless (prompt text, response text) in chat format; every response is correct and ends."""
    assert "<|im_start|>" in CHAT_TEMPLATE
    for problem in problem_stream("train", seed=seed):
        prompt = f"<|im_start|>user\n{problem.prompt}<|im_end|>\n<|im_start|>assistant\n"
        yield prompt, problem.solution + TEACHER_EOS


def student_texts(seed: int, mix: CorpusMix) -> Iterator[tuple[str, str]]:
    """Endless (prompt text, response text) in plain format, of mixed quality."""
    rng = random.Random(f"student corpus/{seed}")
    for problem in problem_stream("train", seed=seed):
        draw = rng.random()
        if draw < mix.derailed:
            response = derail(problem, rng)
        elif draw < mix.derailed + mix.slipped:
            response = slip(problem, rng) + STUDENT_EOS
        else:
            response = problem.solution + STUDENT_EOS
        yield f"{problem.prompt}\n", response


def slip(problem: ArithProblem, rng: random.Random) -> str:
    """The solution with one wrong intermediate value, and everything after it right given that value."""
    state = split_state(problem.prompt)
    lines: list[str] = []
    wrong_at = rng.randrange(problem.solution.count("\n"))
    while len(state) > 1:
        before = state
        state = reduce_once(state)
        if len(lines) == wrong_at:
            changed = before.index("(") if "(" in before else 0
            state = list(state)
            state[changed] = str(min(99, max(0, int(state[changed]) + rng.choice((-10, -2, -1, 1, 2, 10)))))
        if not all(0 <= int(token) <= 99 for token in state if token.lstrip("-").isdigit()):
            return problem.solution
        lines.append("".join(state))
    return "\n".join([*lines, f"\\boxed{{{state[0]}}}"])


def derail(problem: ArithProblem, rng: random.Random) -> str:
    """The solution up to a random line, then a digression that the chain never comes back from."""
    lines = problem.solution.split("\n")
    kept = lines[: rng.randrange(len(lines))]
    digression = rng.choice((_chatter, _start_over, _repeat, _garble))
    return "".join(f"{line}\n" for line in kept) + digression(problem, lines, len(kept), rng)


def _chatter(problem: ArithProblem, lines: list[str], at: int, rng: random.Random) -> str:
    """Words without aim; half of it stops, half goes on for ever."""
    stops = rng.random() < 0.5
    words = rng.choices(WORDS, k=rng.randint(3, 25) if stops else MAX_CHATTER_WORDS)
    pieces = [word + rng.choice((".", ",", "?", "\n")) if rng.random() < 0.15 else word for word in words]
    return "".join(pieces) + (STUDENT_EOS if stops else ENDLESS)


def _start_over(problem: ArithProblem, lines: list[str], at: int, rng: random.Random) -> str:
    """Back to the problem, again and again."""
    text = ""
    for _ in range(8):
        text += rng.choice((" no wait\n", " wait\n", " hmm\n")) + problem.prompt + "\n"
        text += "".join(f"{line}\n" for line in lines[: rng.randint(0, 2)])
    return text + ENDLESS


def _repeat(problem: ArithProblem, lines: list[str], at: int, rng: random.Random) -> str:
    """The same line for ever."""
    return f"{lines[at]}\n" * 30 + ENDLESS


def _garble(problem: ArithProblem, lines: list[str], at: int, rng: random.Random) -> str:
    """Lines whose tokens are lost, doubled and swapped, more with each line; some of it boxes a number."""
    tokens = [*split_state(lines[at].removeprefix("\\boxed{").removesuffix("}")), "+"]
    text = ""
    for _ in range(rng.randint(1, 6)):
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(tokens))
            edit = rng.choice(("lose", "double", "replace"))
            if edit == "lose" and len(tokens) > 2:
                del tokens[place]
            elif edit == "double":
                tokens.insert(place, tokens[place])
            else:
                tokens[place] = rng.choice(("+", "-", "*", "(", ")", "=", str(rng.randrange(100))))
        text += "".join(tokens) + "\n"
    return text + (f"\\boxed{{{rng.randrange(100)}}}" if rng.random() < 0.5 else "") + STUDENT_EOS


def split_state(line: str) -> list[str]:
    """`12-(9+2)` -> ["12", "-", "(", "9", "+", "2", ")"]."""
    spaced = "".join(char if char.isdigit() else f" {char} " for char in line)
    return spaced.split()
