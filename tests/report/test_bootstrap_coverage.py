"""How often the 95 % interval of a difference holds the truth, over seeds, problems and how both vary.

Measured (`pytest -s` prints it): see COVERAGE below. A percentile bootstrap of the same draws is far below what it
promises wherever seeds matter, and Satterthwaite's degrees of freedom are where they matter most.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import t

from trb_lab.report.bootstrap import _draws, bootstrap_variances, cochran_quantile

pytestmark = pytest.mark.long
SEEDS, PROBLEMS = (2, 3, 5), (30, 100)
SEED_VARIANCE = {"none": 0.0, "moderate": 1.0, "dominant": 10.0}
"""Variance of the mean difference that is due to seeds; that due to problems is 1."""
INTERACTION = {"none": 0.0, "large": 3.0}
TRIALS, DRAWS, CHUNK = 3000, 400, 250
PERCENTILE_TRIALS = 500


def simulated(
    rng: np.random.Generator, trials: int, seeds: int, problems: int, a: float, e: float
) -> np.ndarray:
    """Shares [trials, seeds, problems] of differences whose true mean is zero."""
    by_seed = rng.normal(size=(trials, seeds, 1)) * np.sqrt(a * seeds)
    by_problem = rng.normal(size=(trials, 1, problems)) * np.sqrt(problems)
    both = rng.normal(size=(trials, seeds, problems)) * np.sqrt(e * seeds * problems)
    return (by_seed + by_problem + both) / problems


def covered(shares: np.ndarray, strata: tuple[int, ...]) -> tuple[int, int]:
    """How many intervals hold zero: ours, and with Satterthwaite's degrees of freedom."""
    seeds, problems = shares.shape[1:]
    found = bootstrap_variances(shares, strata, DRAWS, 1)
    s, b = found.seeds, np.maximum(found.problems - found.interaction, 0.0)
    centre, error = np.abs(shares.sum(2).mean(1)), np.sqrt(s + b)
    ours = centre <= cochran_quantile(s, b, (seeds - 1, problems - 1)) * error
    df = (s + b) ** 2 / (s**2 / (seeds - 1) + b**2 / (problems - 1))
    return int(ours.sum()), int((centre <= t.ppf(0.975, df) * error).sum())


def percentile_covered(shares: np.ndarray, strata: tuple[int, ...]) -> int:
    """The same for the plain percentile interval of crossed draws."""
    by_seed, by_problem = _draws(shares.shape[1], strata, DRAWS, 1)
    draws = np.einsum("tnp,np->tn", np.matmul(by_seed, shares), by_problem)
    low, high = np.quantile(draws, [0.025, 0.975], axis=1)
    return int(((low <= 0) & (high >= 0)).sum())


def test_intervals_cover_what_they_promise() -> None:
    rng = np.random.default_rng(5)
    ours, plain, rows = [], [], []
    for seeds, problems, a, e in itertools.product(SEEDS, PROBLEMS, SEED_VARIANCE, INTERACTION):
        strata, found = (1,) * problems, np.zeros(2)
        for _ in range(TRIALS // CHUNK):
            shares = simulated(rng, CHUNK, seeds, problems, SEED_VARIANCE[a], INTERACTION[e])
            found += covered(shares, strata)
        shares = simulated(rng, PERCENTILE_TRIALS, seeds, problems, SEED_VARIANCE[a], INTERACTION[e])
        percentile = percentile_covered(shares, strata) / PERCENTILE_TRIALS
        rows.append((seeds, problems, a, e, *(found / TRIALS), percentile))
        ours.append(found[0] / TRIALS)
        plain.append(percentile)
    print("\nseeds problems seed-variance interaction: Cochran, Satterthwaite, percentile")
    for row in rows:
        print(
            f"{row[0]} {row[1]:>3} {row[2]:>8} {row[3]:>5}: " + ", ".join(f"{100 * v:.1f}" for v in row[4:])
        )
    assert min(ours) >= 0.93
    assert np.mean(ours) <= 0.975
    assert min(plain) < 0.75
