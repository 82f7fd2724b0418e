"""Shared passages and boilerplate, against the definition written out: every run of every problem in every prompt."""

from __future__ import annotations

import random

import pytest

from trb_lab.tasks.overlap import COMMON_AT_LEAST, COMMON_SHARE, RUN, TrainingText, words


def same(text: str) -> str:
    return " ".join(text.lower().split())


def brute_force(prompts: list[str], problems: list[str]) -> set[int]:
    """The definition word by word: common passages are marked first, and runs may hold no marked word."""
    prompt_texts = sorted({same(prompt) for prompt in prompts})
    problem_texts = sorted({same(problem) for problem in problems})

    def stand_in(passage: str, texts: list[str]) -> int:
        return sum(f" {passage} " in f" {' '.join(words(text))} " for text in texts)

    def common(passage: str) -> bool:
        counts = [(stand_in(passage, texts), len(texts)) for texts in (prompt_texts, problem_texts)]
        return any(n >= COMMON_AT_LEAST and n > COMMON_SHARE * of for n, of in counts)

    found = set()
    for i, problem in enumerate(problems):
        asked = words(problem)
        starts = range(len(asked) - RUN + 1)
        passages = [" ".join(asked[j : j + RUN]) for j in starts]
        marked = {at for j in starts if common(passages[j]) for at in range(j, j + RUN)}
        left = [j for j in starts if marked.isdisjoint(range(j, j + RUN))]
        if any(stand_in(passages[j], prompt_texts) for j in left) or (
            not left and same(problem) in prompt_texts
        ):
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
    instruction = " ".join(f"i{n}" for n in range(17))
    prompts = [f"{prompt} {instruction}" if i % 3 else prompt for i, prompt in enumerate(prompts)]
    problems = [f"{problem} {instruction}" if i % 2 else problem for i, problem in enumerate(problems)]
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


INSTRUCTION = "Give the result as your final answer. Do not include units. Put the final answer in \\boxed{}."
UNLIKE = [f"Problem {i}: " + " ".join(f"w{i}x{n}" for n in range(20)) + " left?" for i in range(60)]


def test_a_shared_instruction_is_no_overlap_and_a_copied_problem_inside_it_is() -> None:
    training = TrainingText([f"{text} {INSTRUCTION}" for text in UNLIKE[:40]])
    asked = [f"{text} {INSTRUCTION}" for text in UNLIKE[40:]]
    assert training.overlaps(asked) == []
    (found,) = training.overlaps([*asked, f"{UNLIKE[7]} {INSTRUCTION}"])
    assert (found.problem, found.prompt) == (20, 7)
    assert found.passage.split() == words(UNLIKE[7])[:RUN]


def test_an_instruction_of_the_evaluation_set_alone_is_boilerplate_too() -> None:
    """A phrase of a benchmark, which one training prompt of many uses by chance."""
    training = TrainingText([*UNLIKE[:40], f"Another text. {INSTRUCTION}"])
    assert training.overlaps([f"{text} {INSTRUCTION}" for text in UNLIKE[40:]]) == []
    (found,) = training.overlaps([*UNLIKE[41:], f"{UNLIKE[40]} {INSTRUCTION}"])
    assert (found.problem, found.prompt) == (19, 40)


def test_a_short_copied_problem_inside_an_instruction() -> None:
    """Fewer than 13 words of its own: the whole text decides."""
    training = TrainingText([f"What is {i} + 4? {INSTRUCTION}" for i in range(40)])
    asked = [f"What is {i} - 4? {INSTRUCTION}" for i in range(40)]
    assert training.overlaps(asked) == []
    (found,) = training.overlaps([*asked, f"what is 9 + 4?  {INSTRUCTION}"])
    assert (found.problem, found.prompt) == (40, 9)


def test_copies_of_one_problem_are_one_text() -> None:
    """A problem that stands in training many times over is not boilerplate."""
    training = TrainingText([UNLIKE[0]] * 30 + UNLIKE[1:20])
    (found,) = training.overlaps([UNLIKE[50], UNLIKE[0], UNLIKE[51]])
    assert (found.problem, found.prompt) == (1, 0)


def test_few_texts_share_what_is_copied() -> None:
    """In a set of two, one copied problem is half of it."""
    training = TrainingText([f"{UNLIKE[0]} Explain.", f"{UNLIKE[1]} Explain."])
    assert [o.problem for o in training.overlaps([UNLIKE[2], UNLIKE[1]])] == [1]
