"""Arms compared problem by problem at the final checkpoint.

The same problems were put to every run, so most of the spread between problems cancels in a difference. What is left
says how sure a difference is for *these trained models*: its interval covers other problems of the kind and other
samples, not other training seeds.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from trb_lab.spec.report import StatisticsSpec

from .collect import SweepData
from .items import RunItems
from .judging import coverage
from .settings import Setting, reference_setting, same_runs
from .stats import mean, t_quantile
from .tables import Cell, Row, Table, signed

ItemScores = dict[str, dict[str, float]]
"""set -> problem -> mean score over seeds and samples."""


@dataclass(frozen=True)
class Comparison:
    """A setting and the reference on the problems that both were scored on, on the same seeds where they share any."""

    setting: Setting
    seeds: int
    paired: bool
    """Whether both sides are means over the same seeds."""
    scores: ItemScores
    reference: ItemScores

    run_ids: tuple[str, ...] = ()
    """Of both sides."""

    def differences(self) -> ItemScores:
        return {
            name: {p: value - self.reference[name][p] for p, value in found.items()}
            for name, found in self.scores.items()
        }


def comparisons(
    data: SweepData, settings: Sequence[Setting], items: Mapping[str, RunItems]
) -> list[Comparison]:
    """Every other setting with the reference setting; settings without item scores on all averaged sets are absent."""
    reference = reference_setting(list(settings))
    if reference is None or not data.mean_sets:
        return []
    found = []
    mine = _runs(reference, items, data.mean_sets)
    for setting in settings:
        theirs = _runs(setting, items, data.mean_sets)
        if setting is reference or same_runs(setting, reference) or not mine or not theirs:
            continue
        shared = sorted(set(mine) & set(theirs))
        ours, others = ({s: side[s] for s in shared or side} for side in (theirs, mine))
        scores, base = (_mean_items(list(side.values()), data.mean_sets) for side in (ours, others))
        both = {name: sorted(scores[name].keys() & base[name].keys()) for name in data.mean_sets}
        if all(both.values()):
            kept = ({n: {p: side[n][p] for p in ids} for n, ids in both.items()} for side in (scores, base))
            runs = [s.run_ids[seed] for s, side in ((setting, ours), (reference, others)) for seed in side]
            found.append(Comparison(setting, len(ours), bool(shared), next(kept), next(kept), tuple(runs)))
    return found


def _runs(setting: Setting, items: Mapping[str, RunItems], sets: Sequence[str]) -> dict[int, RunItems]:
    """Seed -> its item scores, of the seeds whose final checkpoint has them on all sets."""
    found = {seed: items[run] for seed, run in setting.run_ids.items() if run in items}
    return {seed: run for seed, run in found.items() if all(name in run.final_files for name in sets)}


def _mean_items(runs: Sequence[RunItems], sets: Sequence[str]) -> ItemScores:
    means: ItemScores = {}
    for name in sets:
        scores = [run.final_scores(name) for run in runs]
        ids = set(scores[0]).intersection(*scores[1:])
        means[name] = {p: mean(found[p] for found in scores) for p in ids}
    return means


def clustered_difference(differences: ItemScores) -> tuple[float, float | None, int]:
    """Mean over sets of the mean over problems, its standard error clustered by problem, number of clusters.

    A problem that several sets hold is one cluster: its differences are added before they are squared. The error is
    None with a single problem.
    """
    means = {name: mean(found.values()) for name, found in differences.items()}
    parts: dict[str, float] = {}
    for name, found in differences.items():
        for problem, value in found.items():
            share = (value - means[name]) / (len(found) * len(differences))
            parts[problem] = parts.get(problem, 0.0) + share
    clusters = len(parts)
    if clusters < 2:
        return mean(means.values()), None, clusters
    variance = math.fsum(sorted(part**2 for part in parts.values())) * clusters / (clusters - 1)
    return mean(means.values()), math.sqrt(variance), clusters


def problem_table(
    compared: Sequence[Comparison], reference: str, statistics: StatisticsSpec | None = None
) -> Table | None:
    """How many problems each setting won and lost against the reference (its title); None without item scores."""
    judged = statistics or StatisticsSpec()
    if not compared:
        return None
    rows = []
    for one in compared:
        gaps = one.differences()
        values = [v for found in gaps.values() for v in found.values()]
        won, lost = (sum(sign * v > 1e-9 for v in values) for sign in (1, -1))
        gap, error, clusters = clustered_difference(gaps)
        half = None if error is None else t_quantile(clusters - 1, judged.level) * error
        text = signed(gap) if half is None else f"{signed(gap)} ± {100 * half:.1f}"
        counts = [won, lost, len(values) - won - lost, len(values)]
        seeds = Cell(str(one.seeds), float(one.seeds), note="" if one.paired else "other seeds")
        cells = [Cell(text, gap, half), *(Cell(str(n), float(n)) for n in counts), seeds]
        rows.append(Row(one.setting.title, "arm", [replace(c, run_ids=one.run_ids) for c in cells]))
    return Table(
        title=f"Problem by problem against {reference}",
        columns=["difference (points)", "won", "lost", "tied", "problems", "seeds"],
        rows=rows,
        notes=[
            "At the final checkpoint: a problem is won where the setting's mean over seeds and samples is above that "
            f"of {reference}.",
            f"Difference: mean over sets of the mean over problems, ± half-width of a {coverage(judged)} interval "
            "clustered by problem. It covers other problems of the same kind and other samples from these trained "
            "models; it does not cover other training seeds (the intervals of the scores above do), and it is not "
            "corrected for the number of settings.",
        ],
    )


def problems_csv(compared: Sequence[Comparison]) -> str:
    """One line a (setting, set, problem): mean score, the reference's, the difference."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["setting", "set", "problem", "mean_score", "reference_score", "difference"])
    for one in compared:
        for name, found in one.scores.items():
            for problem, score in found.items():
                base = one.reference[name][problem]
                numbers = [f"{v:.6g}" for v in (score, base, score - base)]
                writer.writerow([one.setting.key, name, problem, *numbers])
    return out.getvalue()
