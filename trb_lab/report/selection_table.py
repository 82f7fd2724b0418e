"""The paper's table layout, one row an arm, under both selection rules side by side."""

from __future__ import annotations

from collections.abc import Sequence

from trb_lab.spec.report import StatisticsSpec

from .arms import Arm, arm_differences
from .collect import MEAN, SweepData
from .judging import MARK, coverage, mark_note, significant
from .selection import Chosen
from .stats import Difference, mean, t_interval
from .tables import Cell, Row, Table, interval_text, percent, points, signed

AVERAGE = "Avg"
PAPER, FAIR, FINAL, CHOSEN = "paper", "fair", "final", "chosen"
TITLES = {PAPER: "paper's rule", FAIR: "fair rule", FINAL: "final checkpoint", CHOSEN: "chosen by"}


def selection_table(
    data: SweepData, arms: Sequence[Arm], statistics: StatisticsSpec | None = None
) -> Table | None:
    """None where arms have no evaluation set in common, or nothing has finished."""
    judged = statistics or StatisticsSpec()
    if not data.mean_sets or not any(arm.completed for arm in arms):
        return None
    sets = [MEAN, *data.mean_sets] if len(data.mean_sets) > 1 else list(data.mean_sets)
    gaps = arm_differences(arms, MEAN, judged.level)
    certain, family = significant(gaps, judged)
    reference = next((a for a in arms if a.is_reference), None)
    names = [AVERAGE if s == MEAN else s for s in sets]
    against = [] if reference is None else [f"vs {reference.label}"]
    groups = {
        PAPER: [*names, "tried"],
        FAIR: [*names, *against, "tried", "optimism"],
        FINAL: [AVERAGE],
        CHOSEN: [TITLES[PAPER], TITLES[FAIR]],
        "": ["runs"],
    }
    rows = []
    for arm in arms:
        cells = [*_paper_cells(arm, sets), *_fair_cells(arm, sets, judged.level)]
        if reference is not None:
            at = len(groups[PAPER]) + len(names)
            mark = MARK if arm.name in certain else ""
            cells.insert(at, _gap_cell(arm, reference, gaps.get(arm.name), mark))
        cells += [
            _final_cell(arm, judged.level),
            *_choice_cells(arm),
            Cell(str(arm.completed), float(arm.completed), note=arm.problems),
        ]
        rows.append(Row(arm.label, "baseline" if arm.is_reference else "arm", cells))
    return Table(
        title="Two selection rules, pass@1 (%)",
        columns=[
            f"{group}: {column}" if group else column
            for group, columns in groups.items()
            for column in columns
        ],
        rows=rows,
        notes=_notes(arms, reference, judged, family if certain else 0),
        groups=[(TITLES.get(group, ""), len(columns)) for group, columns in groups.items()],
        head="arm",
    )


def _paper_cells(arm: Arm, sets: Sequence[str]) -> list[Cell]:
    if arm.paper is None:
        return [Cell("–")] * (len(sets) + 1)
    means = [mean(arm.paper.scores[name].values()) for name in sets]
    runs = arm.runs_of(arm.paper)
    scores = [Cell(percent(value), value, run_ids=runs) for value in means]
    return [*scores, _tried(arm.paper_tried)]


def _fair_cells(arm: Arm, sets: Sequence[str], level: float) -> list[Cell]:
    if arm.fair is None:
        return [Cell("–", note="no item scores" if arm.completed else ""), *[Cell("–")] * (len(sets) + 1)]
    cells, runs = [], arm.runs_of(arm.fair)
    for name in sets:
        interval = t_interval(list(arm.fair.scores[name].values()), level)
        note = "1 seed" if interval.n == 1 else ""
        cells.append(
            Cell(interval_text(interval), interval.mean, interval.half_width, note=note, run_ids=runs)
        )
    gain = optimism(arm.paper, arm.fair)
    both = runs if arm.paper is None else tuple(dict.fromkeys(runs + arm.runs_of(arm.paper)))
    told = Cell("–") if gain is None else Cell(signed(gain), gain, run_ids=both)
    return [*cells, _tried(arm.fair_tried), told]


def _choice_cells(arm: Arm) -> list[Cell]:
    return [
        Cell(arm.describe(rule), run_ids=arm.runs_of(rule)) if rule else Cell("–")
        for rule in (arm.paper, arm.fair)
    ]


def optimism(paper: Chosen | None, fair: Chosen | None) -> float | None:
    """How much higher the paper's rule reports, on the seeds that both rules scored."""
    if paper is None or fair is None:
        return None
    seeds = set(paper.scores[MEAN]) & set(fair.scores[MEAN])
    gaps = [mean(rule.scores[MEAN][s] for s in seeds) for rule in (paper, fair)] if seeds else []
    return gaps[0] - gaps[1] if gaps else None


def _tried(number: int) -> Cell:
    return Cell(str(number), float(number))


def _final_cell(arm: Arm, level: float) -> Cell:
    if not arm.final:
        return Cell("–")
    interval = t_interval(list(arm.final.values()), level)
    return Cell(interval_text(interval), interval.mean, interval.half_width, run_ids=arm.final_runs)


def _gap_cell(arm: Arm, reference: Arm, gap: Difference | None, mark: str) -> Cell:
    if arm is reference or gap is None:
        return Cell("–")
    note = "" if gap.paired or gap.n == 1 else "unpaired"
    fair = arm.fair is not None and reference.fair is not None
    runs = [a.runs_of(a.fair) if fair and a.fair else a.final_runs for a in (arm, reference)]
    text = points(gap) + ("" if fair else " (final)")
    return Cell(text, gap.mean, gap.half_width, note=note, mark=mark, run_ids=runs[0] + runs[1])


def _notes(arms: Sequence[Arm], reference: Arm | None, judged: StatisticsSpec, marked: int) -> list[str]:
    notes = [
        "Paper's rule: of all settings and evaluated checkpoints of an arm (tried: their number), the one with the "
        "highest mean over sets, averaged over seeds, and its own scores. It favours arms that try more. "
        "Settings that fewer seeds finished than others of the arm are not chosen.",
        "Fair rule: for each seed the choice is made by the other seeds on one half of the problems, and scored by "
        "this seed on the other half; then the halves change places. Intervals are Student-t over seeds. The halves "
        "are fixed by the problems' ids, the same for every arm. What is named as chosen is the commonest choice.",
        "Optimism: points by which the paper's rule reports more than the fair rule.",
        "Final checkpoint: no choice at all, the mean over all settings of the arm.",
    ]
    if reference is not None:
        notes.append(
            f"vs {reference.label}: difference of {AVERAGE} under the fair rule in points, paired by seed, with its "
            f"{coverage(judged)} interval, each alone."
        )
        if marked:
            notes.append(mark_note(marked, judged))
    scored = [a for a in arms if a.completed]
    if any(a.fair and len(a.fair.scores[MEAN]) == 1 for a in scored):
        notes.append(
            "An arm with one finished seed has to choose on the seed that it is scored on: what its training owes to "
            "luck stays in the score, and there is no interval."
        )
    absent = [a.label for a in scored if a.fair is None]
    if absent:
        notes.append(
            f"Without item scores for every finished run, and so without the fair rule: {', '.join(absent)}. They "
            "are compared at their final checkpoints: (final). Runs made before item scores were kept have none."
        )
    return notes
