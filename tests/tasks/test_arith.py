"""The bundled task: splits never meet, every written step is right, levels grow."""

import ast
import operator
import re

import pytest
from math_verify import parse, verify

from trb_lab.spec.dataset import ArithDataset
from trb_lab.tasks import arith
from trb_lab.tasks.arith import LARGEST_VALUE, OPERANDS_OF_LEVEL, TRAIN_OPERANDS, ArithProblem, generate

LEVELS = ("easy", "medium", "hard")
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def value_of(expression: str) -> int:
    """Independent of the generator: Python's own parser and precedence."""

    def walk(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](walk(node.left), walk(node.right))
        assert isinstance(node, ast.Constant)
        return node.value

    return walk(ast.parse(expression, mode="eval").body)


def problems(level: str | None, num: int = 300, seed: int = 0) -> list[ArithProblem]:
    return generate(
        ArithDataset(split="test" if level else "train", level=level, num_examples=num, seed=seed)
    )


@pytest.mark.parametrize("level", [None, *LEVELS])
def test_every_step_keeps_the_value_and_does_one_operation(level: str | None) -> None:
    for problem in problems(level):
        *steps, boxed = problem.solution.split("\n")
        states = [problem.prompt, *steps]
        assert {value_of(state) for state in states} == {int(problem.answer)}
        num_operations = [len(re.findall(r"[-+*]", state)) for state in states]
        assert num_operations == list(range(num_operations[0], -1, -1))
        assert boxed == f"\\boxed{{{problem.answer}}}"
        assert all(0 <= int(n) <= LARGEST_VALUE for n in re.findall(r"\d+", problem.solution))


def test_gold_parses_and_its_own_solution_is_accepted() -> None:
    for problem in problems("hard", 30):
        assert verify(parse(problem.answer), parse(problem.solution))
        assert not verify(parse(str(int(problem.answer) + 1)), parse(problem.solution))


def test_train_and_test_are_disjoint_for_all_seeds_and_levels() -> None:
    train = {p.prompt for seed in range(4) for p in problems(None, 3000, seed)}
    test = {p.prompt for seed in range(4) for level in LEVELS for p in problems(level, 500, seed)}
    assert not train & test


@pytest.mark.parametrize("level", [None, *LEVELS])
def test_no_duplicates_and_longer_sets_begin_with_shorter_ones(level: str | None) -> None:
    longer, shorter = problems(level, 1000), problems(level, 200)
    assert len({p.prompt for p in longer}) == 1000
    assert longer[:200] == shorter


def test_sets_are_fixed_by_split_level_and_seed() -> None:
    assert problems("easy") == problems("easy")
    assert problems("easy", seed=0) != problems("easy", seed=1)
    assert problems("hard", 2)[0].prompt == "3+9+7+(7+7)+(8+4)"


def test_levels_grow_in_operands_and_length() -> None:
    sizes = [{len(re.findall(r"\d+", p.prompt)) for p in problems(level)} for level in LEVELS]
    assert [sorted(s) for s in sizes] == [list(OPERANDS_OF_LEVEL[level]) for level in LEVELS]
    (hard_size,) = OPERANDS_OF_LEVEL["hard"]
    assert TRAIN_OPERANDS[hard_size] == min(TRAIN_OPERANDS.values())
    train_sizes = [len(re.findall(r"\d+", p.prompt)) for p in problems(None, 2000)]
    assert train_sizes.count(hard_size) / 2000 == pytest.approx(0.1, abs=0.06)  # few long ones fit 0..99
    mean_chars = [sum(len(p.solution) for p in problems(level)) / 300 for level in LEVELS]
    assert mean_chars == sorted(mean_chars)
    assert all(p.level == level for level in LEVELS for p in problems(level))


def test_prompts_and_solutions_are_short() -> None:
    assert max(len(p.prompt) for p in problems("hard", 1000)) <= 20
    assert max(p.solution.count("\n") for p in problems("hard", 1000)) == max(OPERANDS_OF_LEVEL["hard"]) - 1


def test_a_test_set_without_level_mixes_all() -> None:
    mixed = generate(ArithDataset(split="test", num_examples=9))
    assert [p.level for p in mixed] == [*LEVELS] * 3


def test_more_problems_than_there_are_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arith, "MAX_MISSES", 20)
    with pytest.raises(ValueError, match="set num_examples to at most that"):
        problems("easy", 11_000)


def test_train_takes_no_level() -> None:
    with pytest.raises(ValueError, match="mixes its own levels"):
        generate(ArithDataset(split="train", level="easy"))
