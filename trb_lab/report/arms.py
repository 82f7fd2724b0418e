"""Settings gathered into arms, each scored under both selection rules and at the fixed final checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .collect import SweepData
from .items import RunItems
from .selection import Candidate, CandidateHalves, CandidateScores, Chosen, fair_rule, paper_rule
from .settings import Setting, reference_setting, unfinished
from .stats import LEVEL, Difference, SeedScores, difference, mean


@dataclass(frozen=True)
class Arm:
    """An arm with its whole grid."""

    name: str
    label: str
    settings: list[Setting]
    is_reference: bool
    paper: Chosen | None
    paper_tried: int
    fair: Chosen | None
    """None where a completed run has no item scores, or where nothing is completed."""
    fair_tried: int
    final: dict[int, float]
    """seed -> mean over the settings of the score at the final checkpoint: no choice at all."""

    @property
    def completed(self) -> int:
        return sum(s.completed for s in self.settings)

    @property
    def problems(self) -> str:
        """`failed 1/45`, of the runs of the grid; empty when all completed."""
        return unfinished([state for s in self.settings for state in s.states.values()])

    def final_scores(self, name: str) -> dict[int, float]:
        """As `final`, of one set: seed -> mean over the settings."""
        scored = self.scored
        return (
            {seed: mean(s.scores[name][seed] for s in scored) for seed in sorted(self.final)}
            if scored
            else {}
        )

    @property
    def scored(self) -> list[Setting]:
        """Settings that have a score at the final checkpoint."""
        return [s for s in self.settings if s.mean_scores()]

    def runs_of(self, chosen: Chosen) -> tuple[str, ...]:
        """The runs that a rule's scores are of."""
        runs = {s.key: s.run_ids for s in self.settings}
        return tuple(dict.fromkeys(runs[c.setting][seed] for seed, c in chosen.used))

    @property
    def final_runs(self) -> tuple[str, ...]:
        """The runs behind `final`."""
        return tuple(s.run_ids[seed] for seed in sorted(self.final) for s in self.scored)

    def describe(self, chosen: Chosen) -> str:
        """`kl_budget=0.02 steps=10, 60 updates (4 of 6)`: the commonest choice, and how often it was made."""
        times = {c: chosen.choices.count(c) for c in dict.fromkeys(chosen.choices)}
        first = max(times, key=lambda c: times[c])
        point = next(s.point for s in self.settings if s.key == first.setting)
        share = f" ({times[first]} of {len(chosen.choices)})" if len(times) > 1 else ""
        return f"{point}, " * bool(point) + f"{first.updates} updates{share}"


def arms_of(data: SweepData, settings: Sequence[Setting], items: Mapping[str, RunItems]) -> list[Arm]:
    """Arms in the order of the plan."""
    scores = _checkpoint_scores(data)
    reference = reference_setting(list(settings))
    grouped: dict[str, list[Setting]] = {}
    for setting in settings:
        grouped.setdefault(setting.arm, []).append(setting)
    labels = [group[0].label for group in grouped.values()]
    arms = []
    for name, group in grouped.items():
        label = group[0].label
        whole = _with_scores(group, scores)
        halves = _with_items(group, items, data.mean_sets)
        arms.append(
            Arm(
                name=name,
                label=f"{label} ({name})" if labels.count(label) > 1 else label,
                settings=group,
                is_reference=reference is not None and name == reference.arm,
                paper=paper_rule(whole, data.mean_sets),
                paper_tried=len(whole),
                fair=fair_rule(halves, data.mean_sets),
                fair_tried=len(halves),
                final=_final(group),
            )
        )
    return arms


def _checkpoint_scores(data: SweepData) -> dict[str, dict[int, dict[str, float]]]:
    """Run id -> updates made -> set -> score."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for run_id, updates, name, score in data.checkpoints.itertuples(index=False):
        found.setdefault(run_id, {}).setdefault(int(updates), {})[name] = float(score)
    return found


def _completed(setting: Setting) -> dict[int, str]:
    return {seed: run for seed, run in setting.run_ids.items() if setting.states[seed] == "completed"}


def _with_scores(
    group: Sequence[Setting], scores: Mapping[str, Mapping[int, Mapping[str, float]]]
) -> CandidateScores:
    """Every (setting, checkpoint) of an arm; only checkpoints that all its completed seeds were evaluated at."""
    candidates: dict[Candidate, dict[int, Mapping[str, float]]] = {}
    for setting in group:
        runs = {seed: scores.get(run, {}) for seed, run in _completed(setting).items()}
        for updates in _common(list(runs.values())):
            candidates[Candidate(setting.key, updates)] = {s: found[updates] for s, found in runs.items()}
    return candidates


def _with_items(
    group: Sequence[Setting], items: Mapping[str, RunItems], sets: Sequence[str]
) -> CandidateHalves:
    """The same with item scores; none at all where a completed run lacks them: the grid must be whole."""
    candidates: dict[Candidate, dict[int, dict]] = {}
    for setting in group if sets else []:
        runs = {seed: items.get(run, RunItems()) for seed, run in _completed(setting).items()}
        checkpoints = [r.checkpoints(sets) for r in runs.values()]
        if not all(checkpoints):
            return {}
        for updates in _common(checkpoints):
            candidates[Candidate(setting.key, updates)] = {
                seed: {name: r.halves[updates, name] for name in sets} for seed, r in runs.items()
            }
    return candidates


def _common(checkpoints: Sequence) -> list[int]:
    return sorted(set(checkpoints[0]).intersection(*checkpoints[1:])) if checkpoints else []


def _final(group: Sequence[Setting]) -> dict[int, float]:
    """Only seeds that every setting with a score has: a grid's mean over other points is another number."""
    scored = [s.mean_scores() for s in group if s.mean_scores()]
    return {seed: mean(s[seed] for s in scored) for seed in _common(scored)}


def compared_scores(arm: Arm, reference: Arm, mean_name: str) -> tuple[SeedScores, SeedScores]:
    """What the two are compared by: the fair rule where both have it, else the final checkpoint."""
    if arm.fair is not None and reference.fair is not None:
        return arm.fair.scores[mean_name], reference.fair.scores[mean_name]
    return arm.final, reference.final


def arm_differences(arms: Sequence[Arm], mean_name: str, level: float = LEVEL) -> dict[str, Difference]:
    """Arm name -> difference from the reference arm, paired by seed, of each other arm with runs of its own."""
    reference = next((a for a in arms if a.is_reference), None)
    found: dict[str, Difference] = {}
    if reference is None:
        return found
    own = {run for s in reference.settings for run in s.run_ids.values()}
    for arm in arms:
        runs = {run for s in arm.settings for run in s.run_ids.values()}
        if arm is not reference and not runs <= own:
            gap = difference(*compared_scores(arm, reference, mean_name), level)
            if gap is not None:
                found[arm.name] = gap
    return found
