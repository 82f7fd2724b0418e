"""Scores of n samples a problem: pass@1, pass@k, mean@k, maj@k. One list of samples for each problem throughout."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

Vote = str | None
"""What a sample says the answer is; None where it says nothing."""


@dataclass(frozen=True)
class Sample:
    """A graded sample of a problem."""

    correct: bool
    vote: Vote = None
    """Equal texts are one answer, and so are all that are correct, whatever their texts."""


def pass_at_1(problems: Sequence[Sequence[Sample]]) -> tuple[float, float]:
    """Mean over problems of c/n, and its standard error clustered by problem. With one problem the error is 0."""
    shares = [sum(s.correct for s in samples) / len(samples) for samples in problems]
    mean = math.fsum(shares) / len(shares)
    if len(shares) < 2:
        return mean, 0.0
    variance = math.fsum((share - mean) ** 2 for share in shares) / (len(shares) - 1)
    return mean, math.sqrt(variance / len(shares))


def at_k(problems: Sequence[Sequence[Sample]], k: int) -> dict[str, float]:
    """`pass_at_<k>`, `mean_at_<k>` and `maj_at_<k>`: means over problems. Each needs at least k samples."""
    scores = {"pass": pass_at_k, "mean": mean_at_k, "maj": majority_at_k}
    return {
        f"{name}_at_{k}": math.fsum(score(samples, k) for samples in problems) / len(problems)
        for name, score in scores.items()
    }


def pass_at_k(samples: Sequence[Sample], k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the share of the sets of k samples that hold a correct one (arXiv 2107.03374)."""
    wrong = sum(not s.correct for s in samples)
    return 1.0 - math.comb(wrong, k) / math.comb(len(samples), k)


def mean_at_k(samples: Sequence[Sample], k: int) -> float:
    """Share of the first k samples that are correct: what papers report as Mean@k, or Avg@k."""
    return sum(s.correct for s in samples[:k]) / k


def majority_at_k(samples: Sequence[Sample], k: int) -> float:
    """Share of the floor(n/k) groups of k successive samples in which the majority is correct."""
    groups = [samples[start : start + k] for start in range(0, len(samples) - k + 1, k)]
    return math.fsum(majority(group) for group in groups) / len(groups)


def majority(group: Sequence[Sample]) -> float:
    """Probability that the answer with most votes is correct, ties broken at random; 0 without votes."""
    # A tuple is no text, so that no answer can be taken for the gold's group.
    votes = Counter(("correct",) if s.correct else s.vote for s in group if s.correct or s.vote is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    return float(votes[("correct",)] == most) / sum(count == most for count in votes.values())
