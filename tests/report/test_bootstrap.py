"""The hierarchical bootstrap against closed forms; its coverage is in test_bootstrap_coverage.py."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as reference

from trb_lab.report.bootstrap import (
    Variances,
    bootstrap_variances,
    cochran_p,
    cochran_quantile,
    item_difference,
    item_table,
)


def closed_form(shares: np.ndarray) -> Variances:
    """What the variances tend to with many draws, for one stratum: the mean squares of a two-way table."""
    seeds, problems = shares.shape
    table = shares * problems  # the mean over problems is then the difference
    rows, columns = table.mean(1), table.mean(0)
    rest = table - rows[:, None] - columns[None, :] + table.mean()
    return Variances(
        rows.var(ddof=1) / seeds,
        columns.var(ddof=1) / problems,
        (rest**2).sum() / ((seeds - 1) * (problems - 1)) / (seeds * problems),
    )


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_many_draws_come_to_the_mean_squares(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    shares = (rng.normal(size=(seeds, 1)) + rng.normal(size=(1, 40)) + 2 * rng.normal(size=(seeds, 40))) / 40
    found = bootstrap_variances(shares, (1,) * 40, 20000, 0)
    expected = closed_form(shares)
    for name in ("seeds", "problems", "interaction"):
        assert float(getattr(found, name)) == pytest.approx(float(getattr(expected, name)), rel=0.06)


def test_problems_are_drawn_within_their_sets() -> None:
    """A difference between sets is not a spread between problems."""
    shares = np.concatenate([np.full((3, 10), 0.5), np.full((3, 30), -0.2)], axis=1)
    found = bootstrap_variances(shares, (1,) * 10 + (2,) * 30, 500, 0)
    assert float(found.problems) == pytest.approx(0, abs=1e-20)
    assert float(found.seeds) == pytest.approx(0, abs=1e-20)
    pooled = bootstrap_variances(shares, (1,) * 40, 500, 0)
    assert float(pooled.problems) > 0.1


def test_the_table_sums_to_the_difference_of_the_mean_over_sets() -> None:
    a = {
        s: {"x": {"p": 1.0, "q": 0.5, "only here": 1.0}, "y": {"q": 0.25 + s, "r": 0.0, "s": 1.0}}
        for s in (0, 4)
    }
    b = {s: {"x": {"p": 0.0, "q": 0.5}, "y": {"q": 0.25, "r": 0.5, "s": 0.0}} for s in (0, 4)}
    table = item_table(a, b, [0, 4])
    assert table is not None
    assert table.shares.sum(axis=1) == pytest.approx([(0.5 + 0.5 / 3) / 2, (0.5 + 4.5 / 3) / 2])
    # q is in both sets: neither p's set alone nor that of r and s; alone in its stratum, it joins the largest.
    assert table.shares.shape == (2, 4)
    assert sorted(table.strata) == [2, 2, 2, 2]
    assert item_table(a, {0: {"x": {"other": 1.0}, "y": {"q": 0.0}}, 4: b[4]}, [0, 4]) is None


def test_quantile_lies_between_students_and_the_p_value_belongs_to_it() -> None:
    few, many = (reference.t.ppf(0.975, df) for df in (2, 99))
    assert cochran_quantile(1.0, 0.0, (2, 99)) == pytest.approx(few)
    assert cochran_quantile(0.0, 1.0, (2, 99)) == pytest.approx(many)
    assert cochran_quantile(1.0, 3.0, (2, 99)) == pytest.approx((few + 3 * many) / 4)
    assert cochran_p(few, 1.0, 0.0, (2, 99)) == pytest.approx(0.05)
    for statistic in (0.0, 0.3, 2.5, 40.0):
        p = cochran_p(statistic, 2.0, 1.0, (2, 99))
        assert cochran_quantile(2.0, 1.0, (2, 99), max(p, 1e-12)) == pytest.approx(
            statistic, rel=1e-6, abs=1e-9
        )


def test_without_spread_between_problems_it_is_the_paired_t_test() -> None:
    deltas = np.array([0.02, 0.05, 0.01, 0.04])
    table = item_table(
        {s: {"x": {str(p): d for p in range(20)}} for s, d in enumerate(deltas)},
        {s: {"x": {str(p): 0.0 for p in range(20)}} for s in range(4)},
        [0, 1, 2, 3],
    )
    assert table is not None
    gap = item_difference(float(deltas.mean()), deltas.tolist(), table, 20000, 0)
    expected = reference.ttest_1samp(deltas, 0.0)
    assert gap is not None
    assert gap.half_width == pytest.approx(deltas.mean() - expected.confidence_interval().low, rel=0.02)
    assert gap.p_value == pytest.approx(expected.pvalue, rel=0.08)
    assert gap.sd == pytest.approx(deltas.std(ddof=1))


def test_the_same_draws_every_time_and_none_of_too_little() -> None:
    shares = np.random.default_rng(0).normal(size=(3, 12))
    one, two = (bootstrap_variances(shares, (1,) * 12, 200, 7) for _ in range(2))
    assert (one.seeds, one.problems, one.interaction) == (two.seeds, two.problems, two.interaction)
    assert bootstrap_variances(shares, (1,) * 12, 200, 8).seeds != one.seeds
    single = item_table({0: {"x": {"p": 1.0, "q": 0.0}}}, {0: {"x": {"p": 0.0, "q": 0.0}}}, [0])
    assert single is not None
    assert item_difference(0.5, [0.5], single, 100, 0) is None
