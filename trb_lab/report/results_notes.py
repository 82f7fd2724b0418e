"""What stands below the results table: which rule, what the intervals cover, what is missing and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trb_lab.spec.report import Rule, StatisticsSpec

from .judging import bold_note, coverage, mark_note
from .narrative import power_note

if TYPE_CHECKING:
    from .results import Panel

RULES: dict[Rule, str] = {
    "paper": "Paper's rule: of all settings and evaluated checkpoints of an arm (tried: their number), the one with "
    "the highest mean over sets, averaged over seeds, and its own scores. It favours arms that try more. "
    "Settings that fewer seeds finished than others of the arm are not chosen.",
    "fair": "Fair rule: for each seed, setting and checkpoint are chosen (from those tried) by the other seeds on one "
    "half of the problems, and scored by this seed on the other half; then the halves change places.",
    "final": "Final checkpoint, nothing chosen: the mean over all settings of an arm.",
}


def results_notes(
    panels: Sequence[Panel], rule: Rule, statistics: StatisticsSpec, marked: int, absent: Sequence[str]
) -> list[str]:
    """marked: comparisons that the marks are corrected for, 0 where nothing is marked. absent: arms of no source."""
    notes = [RULES[rule], f"± half-width of the Student-t {coverage(statistics)} interval over seeds."]
    notes += _few_seeds(panels, rule)
    notes.append(bold_note("arm", statistics))
    notes += _difference(panels, statistics)
    if marked:
        notes.append(mark_note(marked, statistics))
    notes += _each(panels, [_left_out(p) for p in panels])
    if any(n not in p.arms for p in panels for q in panels for n in q.arms):
        notes.append("Not in this sweep: the sweep of these columns has no such arm.")
    if absent:
        notes.append(f"Without a row, for no sweep here has them: {', '.join(absent)}.")
    if rule == "fair" and any(
        a.completed and n not in p.found for p in panels if p.sets for n, a in p.arms.items()
    ):
        notes.append(
            "No item scores: runs made before they were kept have none, and no score under this rule."
        )
    power = [power_note(p.gaps, statistics, "an arm and the reference") for p in panels]
    return notes + _each(panels, power)


def _each(panels: Sequence[Panel], told: Sequence[str]) -> list[str]:
    """What is said of single sources, led by their labels where there are several."""
    pairs = zip(panels, told, strict=True)
    return [f"{p.label}: {text}" if len(panels) > 1 else text for p, text in pairs if text]


def _few_seeds(panels: Sequence[Panel], rule: Rule) -> list[str]:
    counts = [len(s.mean_scores) for p in panels for s in p.found.values()]
    if 1 not in counts:
        return []
    told = ["A score of one seed has no interval and is never bold."]
    if all(n == 1 for n in counts):
        told[0] += " Here all are; the highest is underlined."
    if rule == "fair":
        told.append("One seed has to choose on itself: what its training owes to luck stays in the score.")
    return [" ".join(told)]


def _difference(panels: Sequence[Panel], statistics: StatisticsSpec) -> list[str]:
    """What a difference is, and what its interval covers."""
    compared = [p for p in panels if p.reference is not None and p.gaps]
    if not compared:
        return []
    names = [p.reference.label for p in compared if p.reference is not None]
    same = len(set(names)) == 1
    against = (
        names[0] if same else ", ".join(f"{n} ({p.label})" for n, p in zip(names, compared, strict=True))
    )
    lead = f"Difference: of the mean over sets from {against}, in points, paired by seed"
    over_items = sum(len(p.by_items) for p in compared)
    total = sum(len(p.gaps) for p in compared)
    seeds_alone = f"Student-t {coverage(statistics)} interval over seeds, each alone"
    if not over_items:
        return [f"{lead}; {seeds_alone}."]
    both = (
        f"{lead}; {coverage(statistics)} interval, each alone, that covers other seeds and other problems of the kind: "
        f"hierarchical bootstrap ({statistics.bootstrap_samples} draws), Cochran's quantile of Student-t"
    )
    if over_items == total:
        return [f"{both}."]
    rest = [p.arms[n].label for p in compared for n in p.gaps if n not in p.by_items]
    return [f"{both}. Over seeds alone (Student-t): {', '.join(dict.fromkeys(rest))}."]


def _left_out(panel: Panel) -> str:
    """Evaluation sets that have no column, since not every setting was evaluated on them."""
    data = panel.source.data
    if not data.mean_sets:
        return "The settings have no evaluation set in common, and so no scores here."
    others = [s for s in data.sets if s not in data.mean_sets]
    return (
        f"Evaluation sets that only some settings have are left out: {', '.join(others)}." if others else ""
    )
