"""The report's tables as one model: what each cell says, before any format.

`render.py` writes it four ways, `latex.py` for a paper, `sidecar.py` as JSON with the runs behind every cell.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from trb_lab.spec.report import StatisticsSpec

from .collect import MEAN, SweepData
from .judging import MARK, bold_note, coverage, mark_note, significant
from .settings import UNFINISHED_STATES, Setting, differences, reference_setting, same_runs
from .stats import Best, Difference, Interval, best_with_ties, mean, normal_interval, t_interval

ROLE_TITLES = {"teacher": "teacher", "student": "untrained student"}


@dataclass(frozen=True)
class Cell:
    """One value: `text` is what is read, `value` what is sorted by; `note` follows in small type."""

    text: str
    value: float | None = None
    half_width: float | None = None
    bold: bool = False
    """The best of its column, or not significantly worse."""
    note: str = ""
    second: bool = False
    """The highest mean of its column that is not bold: underlined."""
    mark: str = ""
    """Follows the value as a superscript; the table's notes say what it means."""
    run_ids: tuple[str, ...] = ()
    """The runs that the value was made from; empty where the row's are."""


@dataclass(frozen=True)
class Row:
    """A line of a table. `kind` is `reference` (teacher, untrained student), `baseline`, `arm` or `published`."""

    title: str
    kind: str
    cells: list[Cell]
    run_ids: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """Columns name the cells of a row; the row's title and run ids are not among them.

    groups: (title, number of columns) from the left, for a table whose columns are called `title: column`.
    """

    title: str
    columns: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    groups: list[tuple[str, int]] = field(default_factory=list)
    head: str = "setting"
    """What a row is."""
    flags: dict[str, str] = field(default_factory=dict)
    """Column -> mark of its heading (runs of several code versions, say), which the notes explain."""
    caption: str = ""
    """What LaTeX says above the table; empty takes the title."""

    def runs_behind(self, row: Row, index: int) -> tuple[str, ...]:
        """The runs that a cell was made from."""
        cell = row.cells[index]
        return cell.run_ids or (() if cell.value is None else tuple(row.run_ids))

    @property
    def short_columns(self) -> list[str]:
        """Names of the columns below the names of their groups."""
        if not self.groups:
            return list(self.columns)
        titles = [title for title, span in self.groups for _ in range(span)]
        return [
            name.removeprefix(f"{title}: ") if name.startswith(f"{title}: ") else name.split(": ", 1)[-1]
            for title, name in zip(titles, self.columns, strict=True)
        ]


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def points(gap: Difference) -> str:
    """`+1.2 [-3.0, +5.4]`: a difference in percentage points with its 95 % interval."""
    text = signed(gap.mean)
    if gap.half_width is None:
        return text
    return f"{text} [{signed(gap.mean - gap.half_width)}, {signed(gap.mean + gap.half_width)}]"


def signed(value: float) -> str:
    """A difference of fractions as points with its sign; no sign on a rounded zero."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("-0.0", "+0.0") else text


def interval_text(interval: Interval) -> str:
    if interval.half_width is None:
        return percent(interval.mean)
    return f"{percent(interval.mean)} ± {100 * interval.half_width:.1f}"


def score_table(data: SweepData, settings: list[Setting], statistics: StatisticsSpec | None = None) -> Table:
    """Arms by test sets: reference rows, then settings in the plan's order, the best and its ties in bold."""
    judged = statistics or StatisticsSpec()
    columns = [*data.sets, MEAN] if data.mean_sets and len(data.sets) > 1 else list(data.sets)
    best = {
        c: best_with_ties({s.key: s.scores.get(c, {}) for s in settings}, judged.level, judged.correction)
        for c in columns
    }
    gaps = differences(settings, level=judged.level)
    certain, family = significant(gaps, judged, {s.key: " ".join(s.run_ids.values()) for s in settings})
    reference = reference_setting(settings)
    rows = [
        _reference_row(data, r, columns, reference is not None, judged.level)
        for r in data.references.itertuples()
    ]
    for setting in settings:
        cells = [_score_cell(setting, c, best[c], judged.level) for c in columns]
        if reference is not None:
            mark = MARK if setting.key in certain else ""
            cells.append(_gap_cell(gaps.get(setting.key), setting, reference, mark))
        cells.append(_seed_cell(setting))
        kind = "baseline" if setting is reference else "arm"
        rows.append(Row(setting.title, kind, cells, [setting.run_ids[s] for s in sorted(setting.run_ids)]))
    against = [] if reference is None else [f"vs {reference.title}"]
    return Table(
        title="pass@1 (%)",
        columns=[*columns, *against, "seeds"],
        rows=rows,
        notes=[*_set_notes(data), *_notes(settings, reference, judged, family if certain else 0)],
    )


def _set_notes(data: SweepData) -> list[str]:
    """What the mean covers, where it is not simply every column."""
    if data.mean_sets == data.sets:
        return []
    if not data.mean_sets:
        return ["The settings have no evaluation set in common, so they have no mean and are not compared."]
    return [f"Mean: over the evaluation sets that every setting has ({', '.join(data.mean_sets)})."]


def _notes(
    settings: list[Setting], reference: Setting | None, judged: StatisticsSpec, marked: int
) -> list[str]:
    """marked: number of comparisons that the marks are corrected for; 0 where nothing is marked."""
    notes = [
        f"Mean ± half-width of the Student-t {coverage(judged)} interval over seeds, at the end of training."
    ]
    if any(s.completed == 1 for s in settings):
        notes.append("A setting with one finished seed has no interval and is never bold.")
    notes.append(bold_note("setting", judged))
    if reference is not None:
        notes.append(
            f"vs {reference.title}: difference of the mean over sets in points, paired by seed, "
            f"with its {coverage(judged)} interval, each alone."
        )
    if marked:
        notes.append(mark_note(marked, judged))
    notes.append(
        "Teacher and untrained student are one model each: their intervals come from the spread "
        "over problems."
    )
    return notes


def _reference_row(data: SweepData, reference: Any, columns: list[str], with_gap: bool, level: float) -> Row:
    scores = data.scores[data.scores["run_id"] == reference.run_id].set_index("set")
    cells = []
    for column in columns:
        if column in scores.index:
            row = scores.loc[column].to_dict()
            stderr = None if pd.isna(row["stderr"]) else float(row["stderr"])
            interval = normal_interval(float(row["pass_at_1"]), stderr, level=level)
        elif column == MEAN and reference.state == "completed" and not pd.isna(reference.score_mean):
            interval = normal_interval(
                float(reference.score_mean),
                _stderr_of_mean(scores["stderr"][data.mean_sets]),
                level=level,
            )
        else:
            cells.append(Cell(_absent(str(reference.state))))
            continue
        cells.append(Cell(interval_text(interval), interval.mean, interval.half_width))
    cells += [Cell("")] * with_gap + [Cell("1 model")]
    title = ROLE_TITLES.get(reference.role, reference.role)
    if (data.references["role"] == reference.role).sum() > 1:  # a sweep over pairs of models
        title += f" {reference.model}"
    return Row(title, "reference", cells, [reference.run_id])


def _stderr_of_mean(stderrs: pd.Series) -> float | None:
    """Standard error of the mean over sets of independent problems."""
    if stderrs.empty or stderrs.isna().any():
        return None
    return math.sqrt(math.fsum(sorted(float(s) ** 2 for s in stderrs))) / len(stderrs)


def _absent(state: str) -> str:
    return state if state in UNFINISHED_STATES else "missing"


def _score_cell(setting: Setting, column: str, best: Best, level: float) -> Cell:
    values = list(setting.scores.get(column, {}).values())
    if not values:
        return Cell(setting.problems or "missing")
    interval = t_interval(values, level)
    note = setting.problems
    if interval.n == 1:
        note = f"1 seed, {note}" if note else "1 seed"
    return Cell(
        interval_text(interval),
        interval.mean,
        interval.half_width,
        bold=setting.key in best.ties,
        note=note,
        second=setting.key == best.second,
        run_ids=setting.runs_of(column),
    )


def _gap_cell(gap: Difference | None, setting: Setting, reference: Setting, mark: str) -> Cell:
    if setting is reference:
        return Cell("–")
    if gap is None:
        return Cell("same runs" if same_runs(setting, reference) else "")
    note = "" if gap.paired or gap.n == 1 else "unpaired"
    runs = setting.runs_of() + reference.runs_of()
    return Cell(points(gap), gap.mean, gap.half_width, note=note, mark=mark, run_ids=runs)


def _seed_cell(setting: Setting) -> Cell:
    return Cell(str(setting.completed), float(setting.completed), note=setting.problems)


LAST_STEPS = 10
"""Steps at the end of training that length and truncation are averaged over."""


def health_table(data: SweepData, settings: list[Setting]) -> Table:
    """Cost and health of each setting: means over the seeds that have metrics, finished or not."""
    columns = ["length", "truncated %", "s/step warmup", "s/step after", "redraw % warmup"]
    begun = data.begun
    rows = []
    for setting in settings:
        found = tuple(r for _, r in sorted(setting.run_ids.items()) if r in begun)
        k = setting.horizon_steps
        lengths, cut = (
            [_mean(data.curve_values(r, f"rollout/{name}", last=LAST_STEPS)) for r in found]
            for name in ("length_mean", "truncated_share")
        )
        redrawn = [_mean(data.curve_values(r, "policy/redraw_rate", end=k)) for r in found]
        cells = [
            _mean_cell(lengths, "{:.0f}"),
            _mean_cell(cut, "{:.1f}", 100),
            _mean_cell([_median_seconds(data, r, 0, k) for r in found], "{:.2f}"),
            _mean_cell([_median_seconds(data, r, k, math.inf) for r in found], "{:.2f}"),
            _mean_cell(redrawn, "{:.1f}", 100),
        ]
        kind = "baseline" if setting.is_reference else "arm"
        rows.append(Row(setting.title, kind, [replace(c, run_ids=found) for c in cells]))
    notes = [
        f"Mean response tokens and share of responses cut at the limit over the last {LAST_STEPS} steps.",
        "Median seconds of a step without its evaluation; trials that shared a machine slowed each other.",
        "Redraw rate: mean total variation between student and behaviour policy over the warmup.",
        "Warmup: the steps in which an arm differs from plain distillation. Some arms do for the whole run and have "
        "nothing after it; SFT warmup comes before the first step and is in the cost alone.",
    ]
    return Table("Cost and health", columns, rows, notes)


def _mean(values: Sequence[float]) -> float | None:
    return mean(values) if values else None


def _median_seconds(data: SweepData, run_id: str, first: int, end: float) -> float | None:
    seconds = data.step_seconds(run_id, first, end)
    return statistics.median(seconds.tolist()) if len(seconds) else None


def _mean_cell(values: list[float | None], form: str, scale: float = 1.0) -> Cell:
    known = [v for v in values if v is not None]
    if not known:
        return Cell("–")
    value = scale * mean(known)
    return Cell(form.format(value), value)
