"""Shared passages, against the definition written out: every run of every problem in every prompt."""

from __future__ import annotations

import random

import pytest

from trb_lab.tasks.overlap import RUN, TrainingText, words


def brute_force(prompts: list[str], problems: list[str]) -> set[int]:
    found = set()
    for i, problem in enumerate(problems):
        asked = words(problem)
        for prompt in prompts:
            met = f" {' '.join(words(prompt))} "
            if len(asked) < RUN:
                hit = " ".join(problem.lower().split()) == " ".join(prompt.lower().split())
            else:
                passages = (" ".join(asked[j : j + RUN]) for j in range(len(asked) - RUN + 1))
                hit = any(f" {passage} " in met for passage in passages)
            if hit:
                found.add(i)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_against_brute_force(seed: int) -> None:
    """Few words, so that runs repeat; problems and prompts are cut out of one another at every offset."""
    draws = random.Random(seed)
    vocabulary = ["A", "b", "7", "x_1", "sum", "it's", "Über"]

    def text(length: int) -> str:
        glue = [draws.choice([" ", ", ", "\n", " + "]) for _ in range(length)]
        return "".join(
            w for pair in zip(draws.choices(vocabulary, k=length), glue, strict=True) for w in pair
        )

    prompts = [text(draws.randrange(30)) for _ in range(40)]
    problems = [text(draws.randrange(30)) for _ in range(40)]
    for _ in range(40):
        source = draws.choice(prompts).split(" ")
        start = draws.randrange(max(1, len(source)))
        problems.append(" ".join(source[start : start + draws.randrange(25)]).upper())
    problems += draws.sample(prompts, 10)
    found = TrainingText(prompts).overlaps(problems)
    assert {o.problem for o in found} == brute_force(prompts, problems)
    assert [o.problem for o in found] == sorted(o.problem for o in found)
    assert len(found) > 10
    for overlap in found:
        assert overlap.passage.lower() in (
            " ".join(words(prompts[overlap.prompt])),
            " ".join(prompts[overlap.prompt].lower().split()),
        ) or overlap.passage in " ".join(words(prompts[overlap.prompt]))


def test_signs_count_in_short_problems() -> None:
    training = TrainingText(["3 + 4", "What is  (1+2)*3?"])
    assert training.overlaps(["3 - 4", "3 + 4 + 5", "+ 4", "what is (1+2)/3?"]) == []
    assert [o.problem for o in training.overlaps(["5", "what is (1+2)*3?", "3 +  4"])] == [1, 2]


def test_thirteen_words_and_not_twelve() -> None:
    said = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    training = TrainingText([f"Before it. {said.title()} after."])
    (found,) = training.overlaps([f"{said.rsplit(' ', 1)[0]}!"])
    assert found.passage == said.rsplit(" ", 1)[0]
    assert training.overlaps([f"zero {said.rsplit(' ', 2)[0]} zero"]) == []
