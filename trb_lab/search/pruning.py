"""Pause and promote: which of the settings that wait at a rung may train on now.

A candidate trains until `allowed` steps, pauses there with its checkpoint, and goes on once its value stands out among
those at the same rung. Nothing is ever taken back: one that was let go on stays so.

asha     asynchronous successive halving (Li et al., arXiv 1810.05934, Algorithm 2): whoever is among the best
         floor(n / factor) of the n that have reached a rung goes on. One that was overtaken since it went on keeps
         its run and not its place, so that more than n / factor go on where candidates get better and better, as
         they do under a sampler that learns.
median   a candidate goes on where it is no worse than the median of the others, and looks again as others arrive.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from trb_lab.spec.search import AshaPruning, MedianPruning


@dataclass(frozen=True)
class Standing:
    """Where a candidate stands. Values are in the units of the search's metric."""

    number: int
    values: Mapping[int, float]
    """Training steps done -> value, for the rungs it has reached (the mean over its starting seeds)."""
    allowed: int
    """Training steps until which it may train: a rung, or the whole run's."""
    out: bool = False
    """It failed: it never goes on, and the others are not measured by it."""
    stands: bool = True
    """Whether it has come to `allowed`. One still on its way there is never told to go on."""


def next_stop(stops: Sequence[int], steps: int, allowed: int) -> int:
    """Steps until which a candidate trains that may pass `allowed`: the next stop, or the whole run's steps."""
    return min((stop for stop in stops if allowed < stop < steps), default=steps)


def may_go_on(
    spec: AshaPruning | MedianPruning,
    stops: Sequence[int],
    steps: int,
    standings: Sequence[Standing],
    direction: str,
) -> list[int]:
    """Numbers of the candidates that wait at their `allowed` stop and may go on now, until `next_stop`.

    The farthest stop comes first, and the best first at each; equal values go by the lower number. A candidate
    without a value at its stop (a run that was not evaluated there) goes on, after those that have one.
    Nothing waits at a step that is no stop. `direction` is "maximize" or "minimize".
    """
    sign = 1.0 if direction == "maximize" else -1.0
    present = sorted((s for s in standings if not s.out), key=attrgetter("number"))
    chosen: list[Standing] = []
    for stop in sorted({s.allowed for s in present if s.allowed < steps}, reverse=True):
        reached = [s for s in present if stop in s.values] if stop in stops else []
        ranked = [s for s in reached if s.allowed == stop]
        ranked.sort(key=_worth(stop, sign), reverse=True)  # stable: equal values stay in order of number
        if isinstance(spec, AshaPruning):
            chosen += _among_the_best(len(reached) // spec.factor, stop, sign, reached)
        else:
            chosen += _at_the_median(spec.startup_trials, stop, sign, reached, ranked)
        chosen += [s for s in present if s.allowed == stop and (stop not in s.values or stop not in stops)]
    return [s.number for s in chosen if s.stands]


def _worth(stop: int, sign: float) -> Callable[[Standing], float]:
    """Greater is better."""
    return lambda standing: sign * standing.values[stop]


def _among_the_best(places: int, stop: int, sign: float, reached: Sequence[Standing]) -> list[Standing]:
    """Those waiting among the best so many of all that reached the stop, the best first."""
    best = sorted(reached, key=_worth(stop, sign), reverse=True)[:places]  # stable, as above
    return [standing for standing in best if standing.allowed == stop]


def _at_the_median(
    startup: int, stop: int, sign: float, reached: Sequence[Standing], ranked: Sequence[Standing]
) -> Sequence[Standing]:
    """Those waiting that are no worse than the median of the others that reached the stop."""
    if len(reached) - 1 < startup:
        return ranked
    worth = _worth(stop, sign)
    ordered = sorted(map(worth, reached))
    upper = (len(ordered) - 1) // 2
    lower = upper if len(ordered) % 2 == 0 else upper - 1

    def without(own: float, index: int) -> float:
        # The value at the index once `own` has left the order; it does not matter which of equal ones leaves.
        return ordered[index] if own > ordered[index] else ordered[index + 1]

    def is_worse(standing: Standing) -> bool:
        own = worth(standing)
        return own < (without(own, lower) + without(own, upper)) / 2

    # The better one's own value, the lower the median of the others: all that are worse come last.
    return ranked[: bisect_left(ranked, True, key=is_worse)]
