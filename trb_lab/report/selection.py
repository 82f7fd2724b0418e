"""Choosing among checkpoints and settings: the paper's rule, and one that does not reward the number of tries.

The paper's rule takes the candidate with the highest score and reports that very score. The largest of many noisy
numbers is too large, the more so the more there are. The fair rule chooses on other data than it scores with. Problems
are split in two halves; a seed is scored, on one half, with the candidate that did best on the other half over the
*other* seeds, then the halves change places. Neither the luck of a problem nor that of a training seed is then counted
twice. With a single seed the choice has to be made on the seed that is scored, and only the problems are apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .collect import MEAN
from .items import Halves
from .stats import mean


class Candidate(NamedTuple):
    """What can be chosen: a setting of an arm (its key) at a checkpoint."""

    setting: str
    updates: int


CandidateScores = Mapping[Candidate, Mapping[int, Mapping[str, float]]]
"""candidate -> seed -> set -> score."""
CandidateHalves = Mapping[Candidate, Mapping[int, Mapping[str, Halves]]]
"""candidate -> seed -> set -> scores on the halves of its problems."""


@dataclass(frozen=True)
class Chosen:
    """An arm's scores under a rule: set (and MEAN) -> seed -> score, and every choice that was made for them."""

    scores: dict[str, dict[int, float]]
    choices: list[Candidate]
    used: list[tuple[int, Candidate]]
    """(seed, candidate that it was scored with), in the order of the seeds; the fair rule has two a seed, the first
    scored on half A.
    """


def paper_rule(candidates: CandidateScores, sets: Sequence[str]) -> Chosen | None:
    """The candidate with the highest mean over seeds of the mean over sets, with its own scores.

    Only candidates that as many seeds finished as any other: one lucky seed beats no mean. Of equals the first counts.
    None without candidates.
    """
    most = max(map(len, candidates.values()), default=0)
    candidates = {c: seeds for c, seeds in candidates.items() if len(seeds) == most}
    best = _best({c: [_suite(s, sets) for s in seeds.values()] for c, seeds in candidates.items()})
    if best is None:
        return None
    scores: dict[str, dict[int, float]] = {}
    for seed, found in candidates[best].items():
        scores.setdefault(MEAN, {})[seed] = _suite(found, sets)
        for name in sets:
            scores.setdefault(name, {})[seed] = found[name]
    return Chosen(scores, [best], [(seed, best) for seed in sorted(candidates[best])])


def fair_rule(candidates: CandidateHalves, sets: Sequence[str]) -> Chosen | None:
    """Each seed's score on either half with the candidate that the other half and the other seeds chose.

    Halves count by their number of problems, so that an arm with one candidate gets that candidate's plain
    score. None where there is nothing to choose on: no candidates, or no problem in one of the halves.
    """
    seeds = sorted({seed for found in candidates.values() for seed in found})
    scores: dict[str, dict[int, float]] = {}
    choices: list[Candidate] = []
    used: list[tuple[int, Candidate]] = []
    for seed in seeds:
        others = [s for s in seeds if s != seed] or [seed]
        able = {c: found for c, found in candidates.items() if seed in found}
        by_a, by_b = (
            _best({c: [_half(f[s], sets, half) for s in others if s in f] for c, f in able.items()})
            for half in "ab"
        )
        if by_a is None or by_b is None:
            continue
        choices += [by_a, by_b]
        used += [(seed, by_b), (seed, by_a)]
        for name in sets:
            on_a, on_b = able[by_b][seed][name], able[by_a][seed][name]
            total = on_a.num_a * on_a.a if on_a.num_a else 0.0
            total += on_b.num_b * on_b.b if on_b.num_b else 0.0
            scores.setdefault(name, {})[seed] = total / (on_a.num_a + on_b.num_b)
        scores.setdefault(MEAN, {})[seed] = mean(scores[name][seed] for name in sets)
    return Chosen(scores, choices, used) if choices else None


def _best(scores: Mapping[Candidate, Sequence[float | None]]) -> Candidate | None:
    """The candidate with the highest mean; those with an unknown score, or with none, cannot be chosen."""
    known = {c: [v for v in values if v is not None] for c, values in scores.items() if None not in values}
    means = {c: mean(values) for c, values in known.items() if values}
    return max(means, key=lambda c: means[c]) if means else None


def _suite(found: Mapping[str, float], sets: Sequence[str]) -> float:
    return mean(found[name] for name in sets)


def _half(found: Mapping[str, Halves], sets: Sequence[str], half: str) -> float | None:
    """Mean over the sets that have problems in this half; None where none has."""
    pairs = [(h.a, h.num_a) if half == "a" else (h.b, h.num_b) for h in (found[s] for s in sets)]
    values = [value for value, number in pairs if number]
    return mean(values) if values else None
