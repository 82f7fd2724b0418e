"""Trials grouped into settings: one grid point of one arm with all its seeds, the unit that a report
compares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from .collect import MEAN, SweepData
from .stats import LEVEL, Difference, SeedScores, difference

UNFINISHED_STATES = ("failed", "cancelled", "interrupted", "paused", "running")
"""States of planned trials without a result; any other is shown as missing."""


@dataclass(frozen=True)
class Setting:
    """All planned seeds of one setting. Scores hold completed seeds only, as fractions."""

    key: str
    """`arm` or `arm: setting`; unique within a sweep."""
    arm: str
    title: str
    """What people read: the arm's label with the grid point; unique within a sweep."""
    kind: str
    kl_budget: float | None
    horizon_steps: int
    run_ids: dict[int, str]
    states: dict[int, str]
    scores: dict[str, dict[int, float]]
    """Set name (and MEAN) -> seed -> pass@1."""
    is_reference: bool
    """Whether this is the one setting that the others are compared with: the reference arm's first."""
    label: str = ""
    """The arm's name for people."""
    point: str = ""
    """The grid point alone (`kl_budget=0.05 steps=25`); empty where the arm has one setting."""
    steps: int = 0
    """Training steps of a run."""

    @property
    def warms_up(self) -> bool:
        """Whether the arm becomes plain distillation on the way: some differ from it for the whole run."""
        return 0 < self.horizon_steps < self.steps

    @property
    def completed(self) -> int:
        return sum(s == "completed" for s in self.states.values())

    @property
    def problems(self) -> str:
        """What became of the seeds that did not complete; empty when all did."""
        return unfinished(list(self.states.values()))

    def mean_scores(self) -> SeedScores:
        return self.scores.get(MEAN, {})

    def runs_of(self, name: str = MEAN) -> tuple[str, ...]:
        """The runs whose scores on one set are known, in the order of their seeds."""
        return tuple(self.run_ids[seed] for seed in sorted(self.scores.get(name, {})))


def unfinished(states: Sequence[str]) -> str:
    """`failed 1/3`, `running 2/3, missing 1/3`; `failed` where none completed; empty when all did."""
    shown = [s if s in UNFINISHED_STATES else "missing" for s in states if s != "completed"]
    counts = {name: shown.count(name) for name in (*UNFINISHED_STATES, "missing")}
    return ", ".join(
        name if n == len(states) else f"{name} {n}/{len(states)}" for name, n in counts.items() if n
    )


def setting_key(arm: str, setting: str) -> str:
    return f"{arm}: {setting}" if setting else arm


def settings_of(data: SweepData) -> list[Setting]:
    """Settings in the order of the plan."""
    by_run: dict[str, dict[str, float]] = {}
    for row in data.scores.to_dict("records"):
        by_run.setdefault(row["run_id"], {})[row["set"]] = float(row["pass_at_1"])
    reference = data.reference_arm
    titles = _titles(data.trials)
    settings: list[Setting] = []
    # groupby sorts by default; the plan's order is the author's
    for (arm, setting), trials in data.trials.groupby(["arm", "setting"], sort=False):
        first = trials.iloc[0]
        scores: dict[str, dict[int, float]] = {}
        for trial in trials.to_dict("records"):
            if trial["state"] != "completed":
                continue
            for name, value in by_run.get(trial["run_id"], {}).items():
                scores.setdefault(name, {})[int(trial["seed"])] = value
            if not pd.isna(trial["score_mean"]):
                scores.setdefault(MEAN, {})[int(trial["seed"])] = float(trial["score_mean"])
        budget = first["kl_budget"]
        settings.append(
            Setting(
                key=setting_key(str(arm), str(setting)),
                arm=str(arm),
                title=titles[str(arm), str(setting)],
                kind=str(first["kind"]),
                kl_budget=None if pd.isna(budget) else float(budget),
                horizon_steps=int(first["horizon_steps"]),
                run_ids=dict(zip(trials["seed"].astype(int), trials["run_id"], strict=True)),
                states=dict(zip(trials["seed"].astype(int), trials["state"], strict=True)),
                scores=scores,
                is_reference=arm == reference and not any(s.is_reference for s in settings),
                label=str(first["label"]),
                point=str(setting),
                steps=int(first["steps"]),
            )
        )
    return settings


def _titles(trials: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(arm, setting) -> title; arms with the same label are told apart by their names."""
    rows = trials.drop_duplicates(["arm", "setting"])
    plain = {
        (r["arm"], r["setting"]): f"{r['label']} {r['setting']}".strip() for r in rows.to_dict("records")
    }
    shared = {title for title, n in Counter(plain.values()).items() if n > 1}
    return {key: f"{title} ({key[0]})" if title in shared else title for key, title in plain.items()}


def reference_setting(settings: list[Setting]) -> Setting | None:
    """The setting that others are compared with."""
    return next((s for s in settings if s.is_reference), None)


def differences(settings: list[Setting], name: str = MEAN, level: float = LEVEL) -> dict[str, Difference]:
    """Every other setting minus the reference setting on one set, by key.

    Settings without scores are absent, and those that are the reference's own runs under another name.
    """
    reference = reference_setting(settings)
    if reference is None:
        return {}
    found = {}
    for setting in settings:
        if setting.key != reference.key and not same_runs(setting, reference):
            gap = difference(setting.scores.get(name, {}), reference.scores.get(name, {}), level)
            if gap is not None:
                found[setting.key] = gap
    return found


def same_runs(a: Setting, b: Setting) -> bool:
    """Whether two settings come to the same trials, as TRB without a budget comes to plain OPD."""
    return set(a.run_ids.values()) <= set(b.run_ids.values())


def distinct(settings: list[Setting]) -> list[Setting]:
    """One setting for each set of runs, the reference or else the plan's first: a family of tests must not
    count one comparison twice.
    """
    kept: list[Setting] = []
    for setting in sorted(settings, key=lambda s: not s.is_reference):
        if not any(same_runs(setting, other) for other in kept):
            kept.append(setting)
    keys = {s.key for s in kept}
    return [s for s in settings if s.key in keys]
