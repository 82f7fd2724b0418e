"""A difference between two arms that covers other training seeds and other problems: hierarchical bootstrap.

Every seed of an arm answers the same problems, so the paired differences form a table of seeds by problems. A draw
takes seeds and, within each evaluation set, problems again, both with replacement, and keeps their cells (a crossed,
or pigeonhole, bootstrap). The percentiles of such draws promise too much at few seeds: of three seeds, a draw repeats
one in nearly all cases. So the draws give variances and not quantiles. Each draw is split into what it owes to
the seeds, to the problems, and to their interaction; each part's variance is raised by n / (n - 1) for the mean that
it was centred by. Seeds: `s`; problems, less the interaction that is in both: `b`. The standard error is sqrt(s + b),
and its quantile is Cochran's: the average, by these weights, of Student's for seeds - 1 and for problems - 1 degrees
of freedom. Satterthwaite's degrees of freedom are too many where a few seeds happen to agree: at two seeds they cover
87 % where 95 is promised. tests/report/test_bootstrap.py measures all three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .stats import LEVEL, Difference, sd, t_quantile, two_sided_p

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

ItemsBySeed = Mapping[int, Mapping[str, Mapping[str, float]]]
"""seed -> set -> problem -> score."""


@dataclass(frozen=True)
class ItemTable:
    """Paired differences as a table whose row means over seeds are the differences of the mean over sets.

    shares: float [seeds, problems], what each problem adds to its seed's difference: the sum over its sets of
    difference / (problems of the set x sets). strata: of each column, which sets hold the problem.
    """

    shares: Array
    strata: tuple[int, ...]


@dataclass(frozen=True)
class Variances:
    """Squared standard errors of a mean difference, float arrays of one shape (or floats)."""

    seeds: Any
    problems: Any
    interaction: Any
    """Part of both of the others."""


def item_table(a: ItemsBySeed, b: ItemsBySeed, seeds: Sequence[int]) -> ItemTable | None:
    """a - b on these seeds, on the problems that every run of both has; None where a set has none of them."""
    import numpy as np

    runs = [side[s] for side in (a, b) for s in seeds]
    names = sorted(set(runs[0]).intersection(*runs[1:])) if runs else []
    if not names:
        return None
    shared = {n: sorted(set(runs[0][n]).intersection(*(r[n] for r in runs[1:]))) for n in names}
    if not all(shared.values()):
        return None
    problems = sorted({p for ids in shared.values() for p in ids})
    column = {p: i for i, p in enumerate(problems)}
    shares = np.zeros((len(seeds), len(problems)))
    held = np.zeros(len(problems), dtype=np.int64)
    for bit, (name, ids) in enumerate(shared.items()):
        at = [column[p] for p in ids]
        held[at] += 1 << bit
        for row, seed in enumerate(seeds):
            gaps = np.array([a[seed][name][p] - b[seed][name][p] for p in ids])
            shares[row, at] += gaps / (len(ids) * len(shared))
    return ItemTable(shares, _without_singles(held.tolist()))


def _without_singles(strata: Sequence[int]) -> tuple[int, ...]:
    """A stratum of one problem has no spread of its own: it joins the largest."""
    sizes = {s: strata.count(s) for s in set(strata)}
    largest = min(sizes, key=lambda s: (-sizes[s], s))
    return tuple(s if sizes[s] > 1 else largest for s in strata)


def item_difference(
    centre: float,
    by_seed: Sequence[float],
    table: ItemTable,
    samples: int,
    seed: int,
    level: float = LEVEL,
) -> Difference | None:
    """A paired difference with the interval above.

    centre: the difference as the table shows it. by_seed: each seed's, for its standard deviation. None where there
    are fewer than two seeds or problems, or no spread at all: seeds alone then say what there is to say.
    """
    num_seeds, num_problems = table.shares.shape
    if num_seeds < 2 or num_problems < 2:
        return None
    found = bootstrap_variances(table.shares, table.strata, samples, seed)
    s, b = float(found.seeds), max(float(found.problems - found.interaction), 0.0)
    if s + b <= 1e-24:
        return None
    dfs = (num_seeds - 1, num_problems - 1)
    half_width = float(cochran_quantile(s, b, dfs, level)) * (s + b) ** 0.5
    p_value = cochran_p(abs(centre) / (s + b) ** 0.5, s, b, dfs)
    return Difference(centre, half_width, p_value, num_seeds, True, sd(by_seed), level)


def bootstrap_variances(shares: Array, strata: tuple[int, ...], samples: int, seed: int) -> Variances:
    """Variances of the parts of `samples` draws; shares: [..., seeds, problems], the result [...]."""
    import numpy as np

    num_seeds = shares.shape[-2]
    seed_draws, problem_draws = _draws(num_seeds, strata, samples, seed)
    by_seed, by_problem, rest = _centred(shares, strata)
    of_seeds = np.matmul(seed_draws, by_seed[..., None])[..., 0]  # [..., samples]
    of_problems = np.matmul(problem_draws, by_problem[..., None])[..., 0]
    of_both = np.einsum("...np,np->...n", np.matmul(seed_draws, rest), problem_draws)
    return Variances(*(np.mean(part**2, axis=-1) for part in (of_seeds, of_problems, of_both)))


def _centred(shares: Array, strata: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Deviations of seeds [..., seeds], of problems within their strata [..., problems], and what neither explains,
    each raised by sqrt(n / (n - 1)).
    """
    import numpy as np

    num_seeds = shares.shape[-2]
    totals = shares.sum(axis=-1)
    by_seed = totals - totals.mean(axis=-1, keepdims=True)
    rest = shares - shares.mean(axis=-2, keepdims=True)
    by_problem = shares.mean(axis=-2)
    raise_seeds = np.sqrt(num_seeds / (num_seeds - 1))
    raise_problems = np.ones(len(strata))
    for stratum in sorted(set(strata)):
        at = np.flatnonzero(np.equal(strata, stratum))
        by_problem[..., at] -= by_problem[..., at].mean(axis=-1, keepdims=True)
        rest[..., at] -= rest[..., at].mean(axis=-1, keepdims=True)
        raise_problems[at] = np.sqrt(len(at) / (len(at) - 1)) if len(at) > 1 else 1.0
    return by_seed * raise_seeds, by_problem * raise_problems, rest * raise_seeds * raise_problems


@lru_cache(maxsize=16)
def _draws(num_seeds: int, strata: tuple[int, ...], samples: int, seed: int) -> tuple[Array, Array]:
    """How often each draw takes each seed, as shares [samples, seeds], and each problem [samples, problems].

    The same for every comparison of the same shape.
    """
    import numpy as np

    rng = np.random.Generator(np.random.Philox(key=seed))
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=samples) / num_seeds
    problems = np.zeros((samples, len(strata)))
    for stratum in sorted(set(strata)):
        at = np.flatnonzero(np.equal(strata, stratum))
        problems[:, at] = rng.multinomial(len(at), np.full(len(at), 1 / len(at)), size=samples)
    return seeds, problems


def cochran_quantile(s: Any, b: Any, dfs: tuple[int, int], level: float = LEVEL) -> Any:
    """Two-sided quantile for a standard error sqrt(s + b) whose parts have these degrees of freedom."""
    return (s * t_quantile(dfs[0], level) + b * t_quantile(dfs[1], level)) / (s + b)


def cochran_p(statistic: float, s: float, b: float, dfs: tuple[int, int]) -> float:
    """The level at which the interval ends at zero: between the two Student-t p-values of the statistic."""
    from scipy.optimize import brentq

    bounds = [two_sided_p(statistic, df) for df in dfs]
    low, high = max(min(bounds), 1e-300), max(bounds)
    if high - low <= 1e-15 or high <= 1e-299:
        return high

    def beyond(level: float) -> float:
        return float(cochran_quantile(s, b, dfs, level)) - statistic

    if beyond(low) <= 0:
        return low
    return high if beyond(high) >= 0 else float(brentq(beyond, low, high, xtol=1e-15, rtol=1e-12))
