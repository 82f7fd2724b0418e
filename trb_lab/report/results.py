"""The paper's table 1: arms by evaluation sets, sources side by side, each arm against its source's reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.spec.report import ReportSpec, Rule, StatisticsSpec, TableBlock

from .arms import Arm
from .bootstrap import item_difference, item_table
from .collect import MEAN
from .judging import MARK, significant
from .published import published_rows
from .results_notes import results_notes
from .rule_scores import RuleScores, rule_items, rule_scores
from .settings import UNFINISHED_STATES
from .sources import Source
from .stats import Best, Difference, best_with_ties, difference, t_interval
from .tables import Cell, Row, Table, interval_text, signed

AVERAGE = "Avg"
DIFFERENCE, SEEDS, TRIED = "difference", "seeds", "tried"
RULE_TITLES: dict[Rule, str] = {
    "paper": "pass@1 (%), paper's rule",
    "fair": "pass@1 (%), fair rule",
    "final": "pass@1 (%), final checkpoint",
}


@dataclass(frozen=True)
class Panel:
    """One source's columns and what fills them."""

    source: Source
    label: str
    columns: list[str]
    """As definitions name them: evaluation sets, `mean`, `difference`, `seeds`, `tried`."""
    found: dict[str, RuleScores]
    """Arm -> its scores, of the arms that the rule has any of."""
    best: dict[str, Best]
    """Column of scores -> its best arm and ties."""
    gaps: dict[str, Difference]
    """Arm -> difference from the reference."""
    by_items: frozenset[str] = field(default_factory=frozenset)
    """Arms whose interval covers other problems too."""

    @property
    def arms(self) -> dict[str, Arm]:
        return {arm.name: arm for arm in self.source.arms}

    @property
    def reference(self) -> Arm | None:
        return next((a for a in self.source.arms if a.is_reference), None)

    @property
    def sets(self) -> list[str]:
        return self.source.data.mean_sets


def results_table(sources: Sequence[Source], block: TableBlock, spec: ReportSpec) -> Table:
    """Raises UsageError for columns and published sources that there are none of."""
    statistics = spec.statistics
    _check_columns(sources, block.columns)
    panels = [_panel(s, label, block, statistics) for s, label in zip(sources, _labels(sources), strict=True)]
    gaps = {f"{p.source.name}\n{arm}": gap for p in panels for arm, gap in p.gaps.items()}
    certain, family = significant(gaps, statistics)
    names, absent = _rows(panels, block.rows)
    labels = _arm_labels(panels, spec)
    rows = [
        Row(
            labels[name],
            _kind(panels, name),
            [c for p in panels for c in _cells(p, name, certain, statistics)],
        )
        for name in names
    ]
    columns = [(p.source, p.columns) for p in panels]
    published, told = published_rows(block.published, columns, labels, spec.sources)
    several = len(panels) > 1
    return Table(
        title=block.title or RULE_TITLES[block.rule],
        columns=[f"{p.label}: {_title(c)}" if several else _title(c) for p in panels for c in p.columns],
        rows=[*rows, *published],
        notes=[*results_notes(panels, block.rule, statistics, family if certain else 0, absent), *told],
        groups=[(p.label, len(p.columns)) for p in panels] if several else [],
        head="arm",
        caption=block.caption or "",
    )


def _labels(sources: Sequence[Source]) -> list[str]:
    """Labels of the groups; those that several sources share are told apart by their keys."""
    labels = [s.label for s in sources]
    return [f"{s.label} ({s.name})" if labels.count(s.label) > 1 else s.label for s in sources]


def _title(column: str) -> str:
    return AVERAGE if column == MEAN else column


def _all_columns(source: Source) -> list[str]:
    sets = source.data.mean_sets
    against = [DIFFERENCE] if any(a.is_reference for a in source.arms) else []
    return [*([MEAN] if len(sets) > 1 else []), *sets, *against, SEEDS, TRIED]


def _check_columns(sources: Sequence[Source], wanted: Sequence[str] | None) -> None:
    known = list(dict.fromkeys([MEAN, *(c for s in sources for c in _all_columns(s)), DIFFERENCE]))
    for column in wanted or ():
        if column not in known:
            raise UsageError(
                f"columns: no source has an evaluation set '{column}' in all of its trials."
                f"{did_you_mean(column, known)} Columns: {', '.join(known)}."
            )


def _panel(source: Source, label: str, block: TableBlock, statistics: StatisticsSpec) -> Panel:
    sets = source.data.mean_sets
    able = [*_all_columns(source), *([MEAN] if len(sets) == 1 else [])]
    columns = [c for c in block.columns if c in able] if block.columns else _all_columns(source)
    if block.rule == "final" and block.columns is None:
        columns.remove(TRIED)
    scored = {a.name: rule_scores(a, block.rule, sets) for a in source.arms} if sets else {}
    found = {name: scores for name, scores in scored.items() if scores is not None}
    best = {
        column: best_with_ties(
            {name: s.scores[column] for name, s in found.items() if _is_row(block, name)},
            statistics.level,
            statistics.correction,
        )
        for column in [MEAN, *sets]
    }
    panel = Panel(source, label, columns, found, best, {})
    return _with_differences(panel, block, statistics)


def _is_row(block: TableBlock, name: str) -> bool:
    return block.rows is None or name in block.rows


def _with_differences(panel: Panel, block: TableBlock, statistics: StatisticsSpec) -> Panel:
    reference = panel.reference
    if reference is None or reference.name not in panel.found:
        return panel
    base, gaps, by_items = panel.found[reference.name], {}, []
    for name, scores in panel.found.items():
        if name == reference.name or not _is_row(block, name) or _same_runs(panel.arms[name], reference):
            continue
        gap = difference(scores.mean_scores, base.mean_scores, statistics.level)
        if gap is None:
            continue
        covered = _by_items(panel, panel.arms[name], reference, gap, block.rule, statistics)
        gaps[name] = covered or gap
        by_items += [name] * (covered is not None)
    return replace(panel, gaps=gaps, by_items=frozenset(by_items))


def _by_items(
    panel: Panel, arm: Arm, reference: Arm, gap: Difference, rule: Rule, statistics: StatisticsSpec
) -> Difference | None:
    """The difference with an interval over seeds and problems; None where the runs hold too little for one."""
    if not statistics.bootstrap_samples or not gap.paired or gap.p_value is None:
        return None
    one, other = (panel.found[a.name].mean_scores for a in (arm, reference))
    seeds = sorted(set(one) & set(other))
    sides = [rule_items(a, rule, panel.sets, seeds, panel.source.items) for a in (arm, reference)]
    if sides[0] is None or sides[1] is None:
        return None
    table = item_table(sides[0], sides[1], seeds)
    if table is None:
        return None
    return item_difference(
        gap.mean,
        [one[s] - other[s] for s in seeds],
        table,
        statistics.bootstrap_samples,
        statistics.bootstrap_seed,
        statistics.level,
    )


def _same_runs(arm: Arm, reference: Arm) -> bool:
    own = {run for s in reference.settings for run in s.run_ids.values()}
    return {run for s in arm.settings for run in s.run_ids.values()} <= own


def _rows(panels: Sequence[Panel], wanted: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Arms in the order of the rows, and those of `wanted` that no source has."""
    known = list(dict.fromkeys(name for p in panels for name in p.arms))
    if wanted is None:
        return known, []
    return [n for n in wanted if n in known], [n for n in wanted if n not in known]


def _arm_labels(panels: Sequence[Panel], spec: ReportSpec) -> dict[str, str]:
    """Arm -> what its row is called: as the definition says, else as the first source that has it."""
    labels = {name: arm.label for p in reversed(panels) for name, arm in p.arms.items()} | spec.labels
    shared = [label for label in labels.values() if list(labels.values()).count(label) > 1]
    return {name: f"{label} ({name})" if label in shared else label for name, label in labels.items()}


def _kind(panels: Sequence[Panel], name: str) -> str:
    return "baseline" if any(p.reference is not None and p.reference.name == name for p in panels) else "arm"


def _cells(panel: Panel, name: str, certain: frozenset[str], statistics: StatisticsSpec) -> list[Cell]:
    arm = panel.arms.get(name)
    if arm is None:
        return [Cell("–", note="not in this sweep" if i == 0 else "") for i, _ in enumerate(panel.columns)]
    cells = [_cell(panel, arm, column, certain, statistics) for column in panel.columns]
    if panel.columns and arm.problems and not cells[0].text.startswith((*UNFINISHED_STATES, "missing")):
        cells[0] = replace(cells[0], note=", ".join(n for n in (cells[0].note, arm.problems) if n))
    return cells


def _cell(panel: Panel, arm: Arm, column: str, certain: frozenset[str], statistics: StatisticsSpec) -> Cell:
    found = panel.found.get(arm.name)
    if column == DIFFERENCE:
        return _gap_cell(panel, arm, certain)
    if column == SEEDS:
        number = len(found.mean_scores) if found else 0
        return Cell(str(number), float(number), run_ids=found.run_ids if found else ())
    if found is None:
        if arm.completed or not panel.sets:
            first = column == panel.columns[0]
            return Cell("–", note="no item scores" if first and panel.sets else "")
        return Cell("–" if column == TRIED else arm.problems or "missing")
    if column == TRIED:
        return (
            Cell("–")
            if found.tried is None
            else Cell(str(found.tried), float(found.tried), run_ids=found.run_ids)
        )
    interval, best = t_interval(list(found.scores[column].values()), statistics.level), panel.best[column]
    return Cell(
        interval_text(interval),
        interval.mean,
        interval.half_width,
        bold=arm.name in best.ties,
        second=arm.name == best.second,
        run_ids=found.run_ids,
    )


def _gap_cell(panel: Panel, arm: Arm, certain: frozenset[str]) -> Cell:
    gap, reference = panel.gaps.get(arm.name), panel.reference
    if gap is None or reference is None:
        same = reference is not None and arm is not reference and _same_runs(arm, reference)
        return Cell("same runs" if same else "–")
    half = gap.half_width
    text = signed(gap.mean) if half is None else f"{signed(gap.mean)} ± {100 * half:.1f}"
    runs = panel.found[arm.name].run_ids + panel.found[reference.name].run_ids
    return Cell(
        text,
        gap.mean,
        half,
        note="" if gap.paired or gap.n == 1 else "unpaired",
        mark=MARK if f"{panel.source.name}\n{arm.name}" in certain else "",
        run_ids=tuple(dict.fromkeys(runs)),
    )
