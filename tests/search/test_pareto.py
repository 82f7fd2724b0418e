from __future__ import annotations

import numpy as np
import pytest

from trb_lab.search.pareto import front


def brute_force(points: dict[int, tuple[float, ...]], directions: list[str]) -> list[int]:
    """Those that no other point equals or beats everywhere and beats somewhere."""
    signs = [1 if direction == "maximize" else -1 for direction in directions]

    def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        gains = [sign * (x - y) for sign, x, y in zip(signs, a, b, strict=True)]
        return min(gains) >= 0 and max(gains) > 0

    return sorted(n for n, p in points.items() if not any(dominates(q, p) for q in points.values()))


@pytest.mark.parametrize("goals", [1, 2, 3, 4])
@pytest.mark.parametrize("levels", [3, 10, 1000])
def test_front_is_that_of_brute_force(goals: int, levels: int) -> None:
    rng = np.random.default_rng(goals * levels)
    for _ in range(15):
        n = int(rng.integers(1, 60))
        numbers = rng.permutation(200)[:n].tolist()
        rows = (rng.integers(0, levels, (n, goals)) / levels).tolist()  # few levels: equal points and ties
        directions = rng.choice(["maximize", "minimize"], goals).tolist()
        points = {number: tuple(row) for number, row in zip(numbers, rows, strict=True)}
        found = front(points, directions)
        assert found == brute_force(points, directions)
        assert all(type(number) is int for number in found)


def test_front_by_hand() -> None:
    points = {0: (0.5, 10.0), 1: (0.6, 12.0), 2: (0.5, 10.0), 3: (0.5, 11.0), 4: (0.4, 9.0), 5: (0.4, 10.0)}
    assert front(points, ["maximize", "minimize"]) == [0, 1, 2, 4]
    assert front(points, ["minimize", "maximize"]) == [1, 3, 5]
    assert front({7: (1.0, float("-inf"))}, ["maximize", "maximize"]) == [7]
    assert front({}, ["maximize", "minimize"]) == []


def test_a_value_for_each_direction() -> None:
    with pytest.raises(ValueError, match="2 directions"):
        front({0: (1.0, 2.0), 1: (1.0,)}, ["maximize", "minimize"])


@pytest.mark.parametrize("goals", [2, 3, 5])
def test_ten_thousand_points_none_of_them_dominated(goals: int) -> None:
    rng = np.random.default_rng(0)
    rows = np.abs(rng.normal(size=(10_000, goals)))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    points = dict(enumerate(map(tuple, rows.tolist())))
    found = front(points, ["maximize"] * goals)
    assert found == list(range(10_000))
