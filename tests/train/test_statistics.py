"""AUROC of the teacher's support."""

import pytest
import torch

from tests.train.rollouts import made_rollouts
from trb_lab.tasks.grading import Verdict
from trb_lab.train.statistics import auroc, support_auroc


def by_pairs(positives, negatives):
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positives for n in negatives]
    return sum(wins) / len(wins)


@pytest.mark.parametrize("seed", range(5))
def test_auroc_counts_pairs_with_ties_half(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 6, (40,), generator=generator).double()
    positives, negatives = values[:13], values[13:]
    assert auroc(positives, negatives) == pytest.approx(by_pairs(positives.tolist(), negatives.tolist()))


def test_auroc_of_one_kind_alone_is_unknown():
    some, none = torch.tensor([1.0]), torch.tensor([])
    assert auroc(some, none) is None and auroc(none, some) is None


def verdict(correct):
    return Verdict(correct, "correct" if correct else "wrong", None)


def test_support_is_the_mean_over_a_rollouts_tokens():
    rollouts = made_rollouts(lengths=[3, 1, 2, 4], seed=0)
    verdicts = [verdict(True), verdict(False), None, verdict(True)]
    support = []
    for row, length in enumerate([3, 1, 2, 4]):
        gap = rollouts.teacher_logprob_BT[row, :length] - rollouts.student_logprob_BT[row, :length]
        support.append(float(gap.double().mean()))
    expected = by_pairs([support[0], support[3]], [support[1]])
    assert support_auroc(rollouts, verdicts) == {"rollout/support_auroc": pytest.approx(expected)}
    assert support_auroc(rollouts, [verdict(True)] * 4) == {}
    assert support_auroc(rollouts, [None] * 4) == {}
