"""Statistics over seeds: Student-t intervals, paired differences, ties with the best, power.

Few seeds are the rule here, so intervals are Student-t (mean +- 1.96 SE covers 81 % at three seeds where it
promises 95 %), one seed has no interval, and nothing is called better on one seed. Sums are `math.fsum`
over sorted values, so that the same runs give the same digits in whatever order they were read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

LEVEL = 0.05
"""Two-sided level of tests and intervals, where a report's definition says no other."""

NORMAL_END, NORMAL_POINTS = 9.0, 1801
"""Where, and at how many points, the normal distribution is summed up in power calculations."""

Correction = Literal["holm", "none"]

SeedScores = Mapping[int, float]
"""seed -> score of one setting."""


@dataclass(frozen=True)
class Interval:
    """A mean with the half-width of its interval; `half_width` is None where one value gives none."""

    mean: float
    half_width: float | None
    n: int

    @property
    def low(self) -> float | None:
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        return None if self.half_width is None else self.mean + self.half_width


@dataclass(frozen=True)
class Difference:
    """a - b with its interval of 1 - `level`. `p_value` is None where the data cannot say (one seed, no spread)."""

    mean: float
    half_width: float | None
    p_value: float | None
    n: int
    paired: bool
    sd: float | None = None
    """Standard deviation of the paired differences; None when unpaired."""
    level: float = LEVEL

    @property
    def significant(self) -> bool:
        """Taken alone, at its own level."""
        return self.p_value is not None and self.p_value < self.level


@dataclass(frozen=True)
class Best:
    """The best setting and its statistical ties; both empty where no setting has two seeds."""

    best: str | None = None
    ties: frozenset[str] = field(default_factory=frozenset)
    """Settings that are not significantly worse than the best, the best included."""
    second: str | None = None
    """The highest mean that is not among them."""


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean, independent of the order of the values."""
    ordered = sorted(values)
    return math.fsum(ordered) / len(ordered)


def sd(values: Iterable[float]) -> float:
    """Sample standard deviation (n - 1)."""
    ordered = sorted(values)
    centre = mean(ordered)
    return math.sqrt(math.fsum(sorted((v - centre) ** 2 for v in ordered)) / (len(ordered) - 1))


@cache
def t_quantile(df: float, level: float = LEVEL) -> float:
    """Two-sided Student-t quantile."""
    from scipy.special import stdtrit

    return -float(stdtrit(df, level / 2))


def two_sided_p(statistic: float, df: float) -> float:
    """Of a Student-t statistic that is not negative."""
    from scipy.special import stdtr

    return 2 * float(stdtr(df, -statistic))


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Mean and Student-t interval over independent values; no interval for one value."""
    n = len(values)
    if n == 0:
        raise ValueError("an interval needs at least one value")
    if n == 1:
        return Interval(float(values[0]), None, 1)
    return Interval(mean(values), t_quantile(n - 1, level) * sd(values) / math.sqrt(n), n)


def normal_interval(value: float, stderr: float | None, n: int = 1, level: float = LEVEL) -> Interval:
    """value +- 1.96 standard errors (at 5 %): for one model scored on many problems."""
    from statistics import NormalDist

    quantile = NormalDist().inv_cdf(1 - level / 2)
    return Interval(value, None if stderr is None else quantile * stderr, n)


def difference(a: SeedScores, b: SeedScores, level: float = LEVEL) -> Difference | None:
    """a - b: paired over common seeds when there are two, else Welch when both have two seeds.

    None when either is empty. Differences without any spread (scores are counts over a few hundred samples,
    so this happens by chance) leave the t statistic undefined: no p-value, hence not significant.
    """
    if not a or not b:
        return None
    common = sorted(set(a) & set(b))
    if len(common) >= 2:
        deltas = [a[s] - b[s] for s in common]
        interval, p_value = t_interval(deltas, level), _one_sample_p(deltas)
        half_width = None if p_value is None else interval.half_width
        return Difference(interval.mean, half_width, p_value, len(common), True, sd(deltas), level)
    centre = mean(a.values()) - mean(b.values())
    if len(a) >= 2 and len(b) >= 2:
        half_width, p_value = _welch(list(a.values()), list(b.values()), level)
        return Difference(centre, half_width, p_value, min(len(a), len(b)), False, level=level)
    return Difference(centre, None, None, 1, bool(common), level=level)


def _one_sample_p(deltas: Sequence[float]) -> float | None:
    spread, centre, n = sd(deltas), mean(deltas), len(deltas)
    if spread <= 1e-12 * max(1.0, abs(centre)):
        return None
    return two_sided_p(abs(centre) / (spread / math.sqrt(n)), n - 1)


def _welch(a: Sequence[float], b: Sequence[float], level: float = LEVEL) -> tuple[float | None, float | None]:
    """Half-width of the interval and p-value of Welch's unequal-variance t test."""
    var_a, var_b = sd(a) ** 2 / len(a), sd(b) ** 2 / len(b)
    if var_a + var_b <= 1e-24:
        return None, None
    df = (var_a + var_b) ** 2 / (var_a**2 / (len(a) - 1) + var_b**2 / (len(b) - 1))
    stderr = math.sqrt(var_a + var_b)
    return t_quantile(df, level) * stderr, two_sided_p(abs(mean(a) - mean(b)) / stderr, df)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p-values: controls the chance of any false difference among all of them."""
    adjusted, running = {}, 0.0
    ordered = sorted(p_values, key=lambda k: (p_values[k], k))
    for rank, key in enumerate(ordered):
        running = max(running, min(1.0, (len(ordered) - rank) * p_values[key]))
        adjusted[key] = running
    return adjusted


def adjusted_p(p_values: Mapping[str, float], correction: Correction = "holm") -> dict[str, float]:
    """p-values as a report judges them: corrected for all of them together, or as they are."""
    return holm(p_values) if correction == "holm" else dict(p_values)


def best_with_ties(
    scores: Mapping[str, SeedScores], level: float = LEVEL, correction: Correction = "holm"
) -> Best:
    """The highest mean among settings with two seeds or more, and every such setting not significantly
    below it, corrected for the number of settings that are compared with it.

    A setting with one seed is never bold, and cannot be beaten or win: it is left out. Where seeds are
    missing, the highest mean may be the significantly worse one on the seeds that both have; that does not
    make the other one worse, and both are in the ties. The second is the highest mean below the ties, of settings
    with two seeds or more; where no setting has two, it is the highest mean there is.
    """
    means = {k: mean(v.values()) for k, v in sorted(scores.items()) if v}
    eligible = [k for k in means if len(scores[k]) >= 2]
    if not eligible:
        return Best(second=max(means, key=lambda k: means[k]) if means else None)
    best = max(eligible, key=lambda k: means[k])
    gaps = {k: difference(scores[best], scores[k], level) for k in eligible if k != best}
    tested = {k: g.p_value for k, g in gaps.items() if g is not None and g.p_value is not None}
    adjusted = adjusted_p(tested, correction)
    below = [k for k in tested if adjusted[k] < level and _above(gaps[k])]
    ties = frozenset(eligible) - frozenset(below)
    return Best(best, ties, max(below, key=lambda k: means[k]) if below else None)


def _above(gap: Difference | None) -> bool:
    return gap is not None and gap.mean > 0


def pooled_sd(differences: Iterable[Difference]) -> float | None:
    """Root mean variance of paired differences, weighted by their degrees of freedom.

    Differences without any spread tell nothing of the noise and are left out.
    """
    usable = [(d.n - 1, d.sd) for d in differences if d.paired and d.sd is not None and d.p_value is not None]
    total = sum(df for df, _ in usable)
    if total == 0:
        return None
    return math.sqrt(math.fsum(sorted(df * spread**2 for df, spread in usable)) / total)


def seeds_needed(
    spread: float, effect: float, power: float = 0.8, limit: int = 1000, level: float = LEVEL
) -> int | None:
    """Seeds for a paired t test at this level to find `effect` with the given power; None beyond `limit`.

    `spread` is the standard deviation of a paired difference, in the units of `effect`. Exact (noncentral t).
    """
    import numpy as np
    from scipy.special import chdtr

    # Given the normal part of a noncentral t, its square is beyond a bound as often as a chi-square is small: both
    # tails at once, and so smooth that a plain sum over the normal part has more digits than are needed.
    normal = np.linspace(-NORMAL_END, NORMAL_END, NORMAL_POINTS)
    weights = np.exp(-(normal**2) / 2)
    weights /= weights.sum()

    def reaches(n: int) -> bool:
        shift = effect / spread * math.sqrt(n)
        bound = t_quantile(n - 1, level)
        return float(weights @ chdtr(n - 1, (n - 1) * ((normal + shift) / bound) ** 2)) >= power

    if spread <= 0:
        return 2
    if not reaches(limit):
        return None
    low, high = 2, limit
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle + 1, high)
    return low
