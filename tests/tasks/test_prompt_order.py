import pytest

from trb_lab.tasks.datasets import PromptOrder


def test_steps_walk_through_whole_epochs() -> None:
    order = PromptOrder(range(10), seed=3, prompts_per_step=4)
    visited = [index for step in range(5) for index in order.at(step)]
    assert sorted(visited[:10]) == list(range(10))
    assert sorted(visited[10:]) == list(range(10))
    assert visited[:10] != visited[10:]


def test_any_step_is_the_same_however_it_is_reached() -> None:
    walked = PromptOrder(range(7), seed=0, prompts_per_step=3)
    sequence = [walked.at(step) for step in range(40)]
    for step in (39, 0, 17, 16, 38, 2):
        assert PromptOrder(range(7), seed=0, prompts_per_step=3).at(step) == sequence[step]
        assert walked.at(step) == sequence[step]


def test_order_is_a_function_of_seed_alone() -> None:
    """Arms differ in everything but seed and data set; nothing else goes in."""
    assert PromptOrder(range(100), 1, 5).at(8) == PromptOrder(["p"] * 100, 1, 5).at(8)
    assert PromptOrder(range(100), 1, 5).at(8) != PromptOrder(range(100), 2, 5).at(8)


def test_a_step_may_span_several_epochs() -> None:
    step = PromptOrder(range(3), seed=0, prompts_per_step=8).at(0)
    assert len(step) == 8
    assert sorted(step[:3]) == sorted(step[3:6]) == [0, 1, 2]


def test_known_values_pin_the_stream() -> None:
    """Another order would change every result of every finished run."""
    assert PromptOrder(range(1000), seed=0, prompts_per_step=4).at(0) == [222, 491, 527, 965]
    assert PromptOrder(range(1000), seed=0, prompts_per_step=4).at(249) == [773, 788, 647, 767]


def test_nothing_to_order_is_an_error() -> None:
    with pytest.raises(ValueError, match="got 0"):
        PromptOrder([], seed=0, prompts_per_step=1)
