"""What an arm scored under a rule: by set and seed, from which runs, and problem by problem where that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trb_lab.spec.report import Rule

from .arms import Arm
from .bootstrap import ItemsBySeed
from .collect import MEAN
from .items import RunItems, in_half_a
from .selection import Candidate, Chosen
from .stats import SeedScores, mean

Problems = dict[str, float]
"""problem -> score."""


@dataclass(frozen=True)
class RuleScores:
    """An arm under one rule."""

    scores: dict[str, dict[int, float]]
    """Set (and MEAN) -> seed -> score."""
    run_ids: tuple[str, ...]
    tried: int | None
    """Candidates (settings and checkpoints) to choose from; None where nothing is chosen."""

    @property
    def mean_scores(self) -> SeedScores:
        return self.scores[MEAN]


def rule_scores(arm: Arm, rule: Rule, sets: Sequence[str]) -> RuleScores | None:
    """None where the rule has nothing to say of the arm: nothing finished, or, for `fair`, no item scores."""
    if rule == "final":
        if not arm.final:
            return None
        scores = {MEAN: dict(arm.final), **{name: arm.final_scores(name) for name in sets}}
        return RuleScores(scores, arm.final_runs, None)
    chosen, tried = (arm.paper, arm.paper_tried) if rule == "paper" else (arm.fair, arm.fair_tried)
    return None if chosen is None else RuleScores(chosen.scores, arm.runs_of(chosen), tried)


def rule_items(
    arm: Arm, rule: Rule, sets: Sequence[str], seeds: Sequence[int], items: Mapping[str, RunItems]
) -> ItemsBySeed | None:
    """The same scores problem by problem, on these seeds; None where a run lacks them."""
    found: dict[int, dict[str, Problems]] = {}
    for seed in seeds:
        by_set = {name: _problems(arm, rule, name, seed, items) for name in sets}
        if not all(by_set.values()):
            return None
        found[seed] = {name: scores for name, scores in by_set.items() if scores}
    return found


def _problems(arm: Arm, rule: Rule, name: str, seed: int, items: Mapping[str, RunItems]) -> Problems | None:
    """One seed's score on each problem of a set."""
    if rule == "final":
        runs = [items.get(s.run_ids[seed], RunItems()) for s in arm.scored]
        if not all(name in run.final_files for run in runs):
            return None
        scores = [run.final_scores(name) for run in runs]
        shared = set(scores[0]).intersection(*scores[1:]) if scores else set()
        return {p: mean(found[p] for found in scores) for p in shared}
    chosen = arm.paper if rule == "paper" else arm.fair
    used = _used(chosen, seed)
    if not used:
        return None
    at = [_scores_at(arm, c, seed, name, items) for c in used]
    if rule == "paper":
        return at[0]
    on_a, on_b = at
    both = {p: v for p, v in on_a.items() if in_half_a(p)}
    return both | {p: v for p, v in on_b.items() if not in_half_a(p)}


def _used(chosen: Chosen | None, seed: int) -> list[Candidate]:
    return [c for s, c in chosen.used if s == seed] if chosen is not None else []


def _scores_at(
    arm: Arm, candidate: Candidate, seed: int, name: str, items: Mapping[str, RunItems]
) -> Problems:
    setting = next(s for s in arm.settings if s.key == candidate.setting)
    return items.get(setting.run_ids[seed], RunItems()).scores_at(candidate.updates, name)
