"""A race among the best settings: more seeds where it is uncertain which one is best.

Settings are compared with the leader by paired differences over the seeds that both have, so that what a seed does to
every setting cancels. One leaves the race where even the upper end of the interval of its difference says "worse", and
never on fewer than two common seeds: one lucky seed makes a leader, and tells nothing of the spread of a difference.
The race is told anew from the values each time: one that left comes back where its opponent falls behind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from trb_lab.spec.search import RacingSpec

FEWEST_SEEDS = 2
"""Common seeds that a difference needs before anyone is judged by it."""


@dataclass(frozen=True)
class Entrant:
    """A candidate and its runs."""

    number: int
    values: Mapping[int, float]
    """Seed -> value of a finished run, in the units of the search's metric."""
    pending: frozenset[int] = frozenset()
    """Seeds at work."""


@dataclass(frozen=True)
class Difference:
    """Candidate minus leader with its interval, in the units of the metric, turned so that positive is better."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """How a candidate stands in the race."""

    number: int
    verdict: Literal["leader", "in", "out"]
    difference: Difference | None
    """None for the leader, and where the values cannot tell: fewer than FEWEST_SEEDS in common."""


def race(spec: RacingSpec, entrants: Sequence[Entrant], direction: str) -> list[Verdict]:
    """The verdicts on the best `spec.settings` candidates that have a value, the leader first, then by their means.

    Equal means go by more seeds, then by the lower number. `direction` is "maximize" or "minimize".
    """
    sign = 1.0 if direction == "maximize" else -1.0
    ranked = _ranked(spec, entrants, sign)
    if not ranked:
        return []
    leader, *others = ranked
    noise = _seed_noise(entrants)
    verdicts = [Verdict(leader.number, "leader", None)]
    for entrant in others:
        gap = _difference(entrant, leader, sign, noise, spec.confidence)
        out = gap is not None and gap.high < 0
        verdicts.append(Verdict(entrant.number, "out" if out else "in", gap))
    return verdicts


def next_replicates(
    spec: RacingSpec, entrants: Sequence[Entrant], seeds: Sequence[int], direction: str
) -> list[tuple[int, int]]:
    """(number, seed) of the runs to start now, most wanted first: few seeds before many, then the better mean.

    The leader and those still in the race get the first `spec.seeds` of `seeds`, one at a time and in order: while a
    seed of a candidate is at work, the candidate waits. A seed that is neither finished nor at work is wanted, hence
    one that failed for good has to be named as pending (its candidate then gets no more) or the entrant left out.
    With one seed a leader has everybody in the race, so that it never wins it without having been compared. Empty when
    the race is over, or when all that is wanted is at work. `direction` is "maximize" or "minimize".
    """
    verdicts = race(spec, entrants, direction)
    running = [v.number for v in verdicts if v.verdict != "out"]
    if len(running) < 2:
        return []
    given = seeds[: spec.seeds]
    by_number = {entrant.number: entrant for entrant in entrants}
    wanted = []
    for place, number in enumerate(running):
        entrant = by_number[number]
        missing = [seed for seed in given if seed not in entrant.values]
        if missing and not entrant.pending:
            wanted.append((len(given) - len(missing), place, number, missing[0]))
    return [(number, seed) for _, _, number, seed in sorted(wanted)]


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Two-sided Student-t interval of the mean of independent values, in their units; None with fewer than two."""
    if len(values) < 2:
        return None
    centre = fmean(values)
    half = _quantile(len(values) - 1, confidence) * stdev(values) / math.sqrt(len(values))
    return centre - half, centre + half


@dataclass(frozen=True)
class _Noise:
    """Standard deviation of a value over seeds, and its degrees of freedom."""

    sd: float
    df: int


def _ranked(spec: RacingSpec, entrants: Sequence[Entrant], sign: float) -> list[Entrant]:
    valued = [entrant for entrant in entrants if entrant.values]
    valued.sort(key=lambda e: (-sign * fmean(e.values.values()), -len(e.values), e.number))
    return valued[: spec.settings]


def _seed_noise(entrants: Sequence[Entrant]) -> _Noise | None:
    """Pooled over all candidates with two values or more; None where there is none, or where no value ever varies."""
    repeated = [list(entrant.values.values()) for entrant in entrants if len(entrant.values) >= 2]
    df = sum(len(values) - 1 for values in repeated)
    squares = math.fsum((len(values) - 1) * stdev(values) ** 2 for values in repeated)
    return _Noise(math.sqrt(squares / df), df) if squares > 0 else None


def _difference(
    entrant: Entrant, leader: Entrant, sign: float, noise: _Noise | None, confidence: float
) -> Difference | None:
    """The paired difference; its spread is that of the gaps, else twice the variance of a value over seeds."""
    common = sorted(entrant.values.keys() & leader.values.keys())
    if len(common) < FEWEST_SEEDS:
        return None
    gaps = [sign * (entrant.values[seed] - leader.values[seed]) for seed in common]
    spread, df = stdev(gaps), len(gaps) - 1
    # Scores are counts over a few hundred samples: two gaps are equal by chance, and that is no certainty.
    largest = max(abs(e.values[seed]) for e in (entrant, leader) for seed in common)
    if spread <= 1e-12 * largest and noise is not None:
        spread, df = math.sqrt(2) * noise.sd, noise.df
    centre = fmean(gaps)
    half = _quantile(df, confidence) * spread / math.sqrt(len(gaps))
    return Difference(centre, centre - half, centre + half)


def _quantile(df: int, confidence: float) -> float:
    """Of Student's t, two-sided."""
    from scipy.special import stdtrit  # the ufunc behind scipy.stats.t.ppf, which takes a second to import

    return float(stdtrit(df, (1 + confidence) / 2))
