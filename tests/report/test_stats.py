from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as reference

from trb_lab.report.stats import (
    best_with_ties,
    difference,
    holm,
    mean,
    normal_interval,
    pooled_sd,
    seeds_needed,
    t_interval,
)


def test_interval_of_three_values_in_closed_form() -> None:
    interval = t_interval([1.0, 2.0, 3.0])
    assert interval.mean == 2.0
    assert interval.half_width == pytest.approx(4.302652729911275 / math.sqrt(3))


def test_one_value_has_no_interval_and_none_is_an_error() -> None:
    assert t_interval([0.5]).half_width is None
    with pytest.raises(ValueError, match="at least one"):
        t_interval([])


def test_coverage_at_three_seeds_is_what_it_promises() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.6, 0.02, size=(4000, 3))
    covered = 0
    for row in values:
        interval = t_interval(row.tolist())
        assert interval.half_width is not None
        covered += abs(interval.mean - 0.6) <= interval.half_width
    assert covered / 4000 == pytest.approx(0.95, abs=0.011)  # 3 standard errors of a proportion


def test_paired_difference_is_scipys_and_uses_common_seeds_only() -> None:
    a, b = {0: 0.61, 1: 0.64, 2: 0.60, 7: 0.9}, {0: 0.60, 1: 0.61, 2: 0.60, 8: 0.1}
    gap = difference(a, b)
    expected = reference.ttest_rel([0.61, 0.64, 0.60], [0.60, 0.61, 0.60])
    assert gap is not None
    assert gap.paired
    assert gap.n == 3
    assert gap.p_value == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval()
    assert (gap.mean - gap.half_width, gap.mean + gap.half_width) == pytest.approx((low, high))


def test_unpaired_difference_is_welch() -> None:
    gap = difference({0: 0.5, 1: 0.6, 2: 0.58}, {5: 0.4, 6: 0.45})
    expected = reference.ttest_ind([0.5, 0.6, 0.58], [0.4, 0.45], equal_var=False)
    assert gap is not None
    assert not gap.paired
    assert gap.p_value == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval()
    assert (gap.mean - gap.half_width, gap.mean + gap.half_width) == pytest.approx((low, high))


def test_one_seed_or_no_spread_is_never_significant() -> None:
    single = difference({0: 0.9}, {0: 0.1})
    constant = difference({0: 0.9, 1: 0.8}, {0: 0.5, 1: 0.4})
    assert single is not None
    assert constant is not None
    for gap in (single, constant):
        assert gap.mean == pytest.approx(0.8 if gap is single else 0.4)
        assert gap.p_value is None
        assert gap.half_width is None
        assert not gap.significant
    assert difference({}, {0: 1.0}) is None


def test_best_needs_two_seeds() -> None:
    assert best_with_ties({"a": {0: 0.9}, "b": {0: 0.1}}).ties == frozenset()
    best = best_with_ties({"lucky": {0: 0.99}, "a": {0: 0.5, 1: 0.52}})
    assert best.best == "a"
    assert best.ties == {"a"}


def test_ties_are_those_not_significantly_below_the_best() -> None:
    scores = {
        "best": {0: 0.70, 1: 0.71, 2: 0.72},
        "tied": {0: 0.66, 1: 0.73, 2: 0.70},
        "worse": {0: 0.60, 1: 0.612, 2: 0.619},
    }
    assert best_with_ties(scores).ties == {"best", "tied"}


def test_holm_in_closed_form() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})


def test_seeds_needed_is_the_paired_t_test_table() -> None:
    # Standard values for a paired t test, two-sided 5 %, power .8, by effect / sd.
    assert [seeds_needed(1.0, d) for d in (0.5, 0.8, 1.0)] == [34, 15, 10]
    assert seeds_needed(1.0, 5.0) == 3
    assert seeds_needed(1.0, 0.01) is None


def test_seeds_needed_reaches_its_power_in_simulation() -> None:
    n = seeds_needed(2.0, 3.0)
    assert n is not None
    draws = np.random.default_rng(1).normal(3.0, 2.0, size=(4000, n))
    assert np.mean(reference.ttest_1samp(draws, 0, axis=1).pvalue < 0.05) >= 0.78


def test_pooled_sd_weighs_by_degrees_of_freedom() -> None:
    a, b = (
        difference({0: 1.0, 1: 3.0}, {0: 0.0, 1: 0.0}),
        difference({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0, 1: 0, 2: 0}),
    )
    assert a is not None
    assert b is not None
    assert pooled_sd([a, b]) == pytest.approx(math.sqrt((1 * 2.0 + 2 * 1.0) / 3))


def test_mean_does_not_depend_on_order() -> None:
    values = np.random.default_rng(2).normal(size=101).tolist()
    assert mean(values) == mean(values[::-1])


def test_reference_interval_is_normal() -> None:
    assert normal_interval(0.5, 0.1).half_width == pytest.approx(0.196, abs=1e-4)


def test_a_tie_is_lost_only_to_something_above_it() -> None:
    """With seeds missing, the highest mean may be the worse one on the seeds that both have."""
    scores = {
        "lucky": {0: 0.50, 1: 0.51, 2: 0.52, 3: 0.95, 4: 0.96},
        "better": {0: 0.60, 1: 0.612, 2: 0.619},
    }
    best = best_with_ties(scores)
    assert best.best == "lucky"
    gap = difference(scores["lucky"], scores["better"])
    assert gap is not None
    assert gap.significant
    assert gap.mean < 0
    assert best.ties == {"lucky", "better"}


def test_differences_without_spread_are_no_part_of_the_noise() -> None:
    same = difference({0: 0.5, 1: 0.6, 2: 0.7}, {0: 0.5, 1: 0.6, 2: 0.7})
    real = difference({0: 1.0, 1: 3.0}, {0: 0.0, 1: 0.0})
    assert same is not None
    assert real is not None
    assert same.p_value is None
    assert pooled_sd([same, real]) == pooled_sd([real])
    assert pooled_sd([same]) is None


def test_holm_is_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(4)
    for n in (1, 2, 7, 30):
        values = (rng.random(n) ** 3).tolist()
        found = holm({str(i): p for i, p in enumerate(values)})
        expected = multipletests(values, method="holm")[1]
        assert [found[str(i)] for i in range(n)] == pytest.approx(expected.tolist())


@pytest.mark.parametrize("level", [0.05, 0.01])
def test_seeds_needed_is_statsmodels(level: float) -> None:
    from statsmodels.stats.power import TTestPower

    for effect in (0.4, 0.8, 1.5, 3.0):
        expected = TTestPower().solve_power(effect_size=effect, alpha=level, power=0.8)
        found = seeds_needed(1.0, effect, level=level)
        assert found == max(2, math.ceil(float(np.squeeze(expected)) - 1e-6))


@pytest.mark.parametrize("level", [0.1, 0.01])
def test_intervals_follow_the_level(level: float) -> None:
    a, b = {0: 0.61, 1: 0.64, 2: 0.60}, {0: 0.60, 1: 0.61, 2: 0.57}
    gap = difference(a, b, level)
    low = reference.ttest_rel(list(a.values()), list(b.values())).confidence_interval(1 - level).low
    assert gap is not None
    assert gap.half_width == pytest.approx(gap.mean - low)
    assert gap.significant == (gap.p_value < level)
    unpaired = difference(a, {7: 0.5, 8: 0.52}, level)
    low = (
        reference.ttest_ind(list(a.values()), [0.5, 0.52], equal_var=False).confidence_interval(1 - level).low
    )
    assert unpaired is not None
    assert unpaired.half_width == pytest.approx(unpaired.mean - low)
    assert normal_interval(0.5, 0.1, level=level).half_width == pytest.approx(
        0.1 * reference.norm.isf(level / 2)
    )


def test_bold_is_corrected_for_the_column_and_the_second_is_below_it() -> None:
    """One p-value of 4 % among five is no difference once five are corrected for."""
    base = np.array([0.70, 0.71, 0.72, 0.705])
    rng = np.random.default_rng(11)
    scores = {f"tied{i}": dict(enumerate(base - 0.004 + 0.02 * rng.normal(size=4))) for i in range(4)}
    scores["best"] = dict(enumerate(base + 0.02))
    scores["near"] = dict(enumerate(base + 0.02 - np.array([0.01, 0.012, 0.035, 0.03])))
    scores["far"] = dict(enumerate(base - 0.3 + np.array([0.0, 0.001, 0.002, 0.0])))
    scores["farther"] = dict(enumerate(base - 0.4 + np.array([0.0, 0.001, 0.002, 0.0])))
    scores["single"] = {0: 0.6}
    p_value = reference.ttest_rel(list(scores["best"].values()), list(scores["near"].values())).pvalue
    assert 0.01 < p_value < 0.05
    plain, corrected = best_with_ties(scores, correction="none"), best_with_ties(scores)
    assert plain.best == corrected.best == "best"
    assert "near" not in plain.ties
    assert "near" in corrected.ties
    assert corrected.second == "far"
    assert best_with_ties({"a": {0: 0.2}, "b": {0: 0.3}}).second == "b"
    assert best_with_ties({"a": {0: 0.2, 1: 0.3}, "b": {0: 0.1}}).second is None
