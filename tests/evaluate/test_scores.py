"""pass@k, mean@k and maj@k against brute-force enumeration."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from trb_lab.evaluate.scores import Sample, at_k, majority, majority_at_k, mean_at_k, pass_at_1, pass_at_k

RIGHT, ALSO_RIGHT = Sample(True, "1/2"), Sample(True, "0.5")
A, B, NOTHING = Sample(False, "a"), Sample(False, "b"), Sample(False, None)
KINDS = (RIGHT, ALSO_RIGHT, A, B, NOTHING)


def test_pass_at_1_and_its_error_clustered_by_problem():
    problems = [[RIGHT, RIGHT], [A, B], [RIGHT, NOTHING]]  # 1, 0, 1/2
    mean, stderr = pass_at_1(problems)
    assert mean == 0.5
    assert stderr == pytest.approx(np.std([1, 0, 0.5], ddof=1) / np.sqrt(3))
    assert pass_at_1([[RIGHT]]) == (1.0, 0.0)


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        samples = [RIGHT] * c + [A] * (n - c)
        subsets = list(itertools.combinations(samples, k))
        expected = sum(any(s.correct for s in subset) for subset in subsets) / len(subsets)
        assert pass_at_k(samples, k) == pytest.approx(expected, abs=1e-15)


def test_pass_at_1_of_the_estimator_is_the_mean_and_large_n_is_exact():
    assert pass_at_k([RIGHT, A, A, B], 1) == 0.25
    assert pass_at_k([RIGHT] + [A] * 999, 500) == pytest.approx(0.5)


def by_enumeration(group):
    """Every way to break the tie, each as likely: the share of them that names a right answer."""
    answers = ["the gold" if s.correct else f"other {s.vote}" for s in group if s.correct or s.vote]
    if not answers:
        return Fraction(0)
    most = max(answers.count(a) for a in answers)
    winners = sorted({a for a in answers if answers.count(a) == most})
    return Fraction(sum(w == "the gold" for w in winners), len(winners))


@pytest.mark.parametrize("k", range(1, 6))
def test_majority_against_every_group(k):
    for group in itertools.product(KINDS, repeat=k):
        assert majority(group) == pytest.approx(float(by_enumeration(group)), abs=1e-15)


def test_majority_by_hand():
    assert majority([RIGHT, ALSO_RIGHT, A, A, B]) == 0.5  # two spellings of the gold are one group
    assert majority([RIGHT, NOTHING, NOTHING]) == 1.0  # who says nothing does not vote
    assert majority([NOTHING, NOTHING]) == 0.0
    assert majority([RIGHT, A, B]) == pytest.approx(1 / 3)
    assert majority([Sample(False, "correct"), Sample(False, "correct"), RIGHT]) == 0.0


def test_groups_are_successive_and_a_rest_is_left_out():
    samples = [RIGHT, RIGHT, A, A, A, RIGHT, RIGHT]
    groups = [samples[0:3], samples[3:6]]
    assert majority_at_k(samples, 3) == sum(majority(g) for g in groups) / 2 == 0.5
    assert majority_at_k(samples, 7) == majority(samples)
    assert mean_at_k(samples, 3) == pytest.approx(2 / 3)
    assert mean_at_k(samples, 7) == pytest.approx(4 / 7)


def test_scores_are_means_over_problems():
    rng = np.random.default_rng(0)
    problems = [[KINDS[i] for i in rng.integers(0, len(KINDS), 6)] for _ in range(9)]
    found = at_k(problems, 4)
    assert set(found) == {"pass_at_4", "mean_at_4", "maj_at_4"}
    subsets = [
        np.mean([any(s.correct for s in subset) for subset in itertools.combinations(samples, 4)])
        for samples in problems
    ]
    assert found["pass_at_4"] == pytest.approx(np.mean(subsets))
    assert found["mean_at_4"] == pytest.approx(np.mean([[s.correct for s in p[:4]] for p in problems]))
    assert found["maj_at_4"] == pytest.approx(
        math.fsum(float(by_enumeration(samples[:4])) for samples in problems) / 9
    )
