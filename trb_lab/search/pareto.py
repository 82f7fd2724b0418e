"""The Pareto front: settings that no other one beats in one goal without losing in another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def front(points: Mapping[int, Sequence[float]], directions: Sequence[str]) -> list[int]:
    """Numbers of the points that no other one dominates, ascending; equal points all stay.

    `points` maps a number to its values, one for each of `directions` ("maximize" or "minimize"). O(n log n) for up to
    two goals; beyond, O(n * size of the front). Raises ValueError where a point has more or fewer values.
    """
    if not points:
        return []
    if any(len(values) != len(directions) for values in points.values()):
        raise ValueError(f"each point needs one value for each of the {len(directions)} directions.")
    signs = np.array([-1.0 if direction == "maximize" else 1.0 for direction in directions])
    numbers = np.array(list(points))
    costs = np.array(list(points.values()), dtype=float) * signs
    # Sorted by the first goal, then the next ones, a point is dominated by earlier ones alone.
    distinct, place = np.unique(costs, axis=0, return_inverse=True)
    kept = _front_of_two(distinct) if len(directions) <= 2 else _front_of_many(distinct)
    return sorted(numbers[kept[place.reshape(-1)]].tolist())


def _front_of_two(costs: np.ndarray) -> np.ndarray:
    """Which rows stay, of distinct ones in lexicographic order: those whose last cost is a new lowest one."""
    last = costs[:, -1]
    kept = np.ones(len(costs), dtype=bool)
    kept[1:] = last[1:] < np.minimum.accumulate(last)[:-1]
    return kept


def _front_of_many(costs: np.ndarray) -> np.ndarray:
    """The same for any number of columns; the first one need not be compared again."""
    kept = np.zeros(len(costs), dtype=bool)
    members = np.empty((costs.shape[1] - 1, len(costs)))
    size = 0
    for row, cost in enumerate(costs[:, 1:]):
        if not (members[:, :size] <= cost[:, None]).all(axis=0).any():
            kept[row] = True
            members[:, size] = cost
            size += 1
    return kept
