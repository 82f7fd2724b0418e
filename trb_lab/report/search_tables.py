"""A search's tables: its best settings on the selection seeds, and apart from them the winners on fresh seeds."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from .search_data import COMPLETE, PAUSED, Candidate, Confirmed, Goal, Search, fresh_difference, number
from .search_space import Axis, axes_of, is_number
from .search_words import constraint_words
from .settings import unfinished
from .stats import best_with_ties, t_interval
from .tables import Cell, Row, Table

SHOWN = 10
"""Rows of the table of best settings; all are in the CSV file."""


def best_table(search: Search) -> Table | None:
    """The first SHOWN settings, complete ones inside the constraints first; None where nothing was tried."""
    if not search.candidates:
        return None
    axes, shown = axes_of(search), search.ranked()[:SHOWN]
    ties = {g.metric: _ties(search, g) for g in search.goals}
    bounds = search.raw.get("constraints") or {}
    rows = []
    for candidate in shown:
        cells = [_parameter(axis, candidate) for axis in axes]
        cells += [_value(candidate, goal, candidate.number in ties[goal.metric]) for goal in search.goals]
        seeds = len(candidate.of(search.goal))
        cells.append(Cell(str(seeds), float(seeds)))
        if search.verdicts:
            cells.append(_verdict(search, candidate))
        if len(search.goals) > 1:
            cells.append(Cell("front" if candidate.number in search.front else "–"))
        cells += [_bounded(candidate, metric, b) for metric, b in bounds.items()]
        cells.append(Cell(_state(search, candidate)))
        rows.append(Row(f"#{candidate.number}", "arm", cells, candidate.run_ids))
    columns = [a.name for a in axes] + [g.title for g in search.goals] + ["seeds"]
    columns += ["race"] * bool(search.verdicts) + ["Pareto"] * (len(search.goals) > 1)
    columns += [constraint_words(metric, b) for metric, b in bounds.items()] + ["state"]
    return Table("Best settings", columns, rows, _best_notes(search, len(shown)), head="#")


def _ties(search: Search, goal: Goal) -> frozenset[int]:
    """Numbers of the best on two seeds or more, and of those that are not significantly worse."""
    scores = {
        str(c.number): {s: goal.better(v) for s, v in c.of(goal).items()}
        for c in search.comparable
        if len(search.goals) == 1
    }
    return frozenset(int(n) for n in best_with_ties(scores).ties)


def _parameter(axis: Axis, candidate: Candidate) -> Cell:
    if axis.key not in candidate.params:
        return Cell("–")
    value = candidate.params[axis.key]
    return Cell(axis.text(value), float(value) if is_number(value) and not axis.choices else None)


def _value(candidate: Candidate, goal: Goal, bold: bool) -> Cell:
    interval = candidate.interval(goal)
    if interval is None:
        return Cell("–")
    note = "1 seed" if interval.n == 1 else ""
    return Cell(goal.interval(interval), interval.mean, interval.half_width, bold, note)


def _verdict(search: Search, candidate: Candidate) -> Cell:
    found = search.verdicts.get(candidate.number)
    if found is None:
        return Cell("–")
    if not found.get("difference"):
        return Cell(str(found["verdict"]))
    gap, low, high = (search.goal.change(float(v)) for v in found["difference"])
    return Cell(f"{found['verdict']}: {gap} [{low}, {high}]", float(found["difference"][0]))


def _bounded(candidate: Candidate, metric: str, bounds: dict[str, Any]) -> Cell:
    value = candidate.constraints.get(metric)
    if value is None:
        return Cell("–")
    low, high = bounds.get("at_least"), bounds.get("at_most")
    outside = (low is not None and value < low) or (high is not None and value > high)
    return Cell(number(value), value, note="outside" if outside else "")


def _state(search: Search, candidate: Candidate) -> str:
    at = candidate.last_stop
    if candidate.state == PAUSED and at is not None:
        return f"paused at step {at} ({search.goal.number(candidate.stops[at])})"
    return candidate.state


def _best_notes(search: Search, shown: int) -> list[str]:
    notes = [
        "On the selection seeds: mean ± half-width of the Student-t 95 % interval over seeds. The first rows were "
        "chosen by these very numbers, which are therefore optimistic.",
    ]
    if any(len(c.of(search.goal)) == 1 for c in search.ranked()[:shown]):
        notes.append("A value of one seed has no interval, is never bold, and names no winner.")
    if search.verdicts:
        notes.append(
            "Race: difference from the leader, paired by seed, with the interval of the race; out: worse than "
            "the leader, in: cannot be told from it."
        )
    if any(c.state == PAUSED for c in search.candidates):
        notes.append("Paused: stopped early (in brackets the value there); it keeps its checkpoint.")
    if len(search.candidates) > shown:
        notes.append(f"The first {shown} of {len(search.candidates)}; all are in search_{search.slug}.csv.")
    return notes


def confirmation_table(search: Search, reference_arm: str | None, reference_label: str) -> Table | None:
    """Winners and the reference arm on the fresh seeds; None where none were planned."""
    if not search.confirmation:
        return None
    reference, several = search.reference(reference_arm), len(search.goals) > 1
    group = ["mean", *([f"vs {reference_label}"] if reference else []), "selection mean", "optimism"]
    rows = []
    for one in [*search.winners, *([reference] if reference else [])]:
        cells = [c for goal in search.goals for c in _fresh_cells(search, one, reference, goal)]
        seeds = len(one.of(search.goal))
        cells.append(Cell(str(seeds), float(seeds), note=unfinished(one.states)))
        title = reference_label if one is reference else one.setting
        rows.append(Row(title, "baseline" if one is reference else "arm", cells, one.run_ids))
    columns = [f"{g.title}: {c}" for g in search.goals for c in group]
    notes = [
        "On seeds that nothing was chosen by: mean ± half-width of the Student-t 95 % interval over seeds.",
        "Selection mean: the value by which the setting was chosen, on other seeds. Optimism: by how much it looked "
        "better there.",
    ]
    if reference is not None:
        notes.append(
            f"vs {reference_label}: difference paired by fresh seed with its 95 % interval"
            + (", not corrected for the number of settings." if len(search.winners) > 1 or several else ".")
        )
    groups = [(g.title, len(group)) for g in search.goals] + [("", 1)]
    return Table("Confirmation on fresh seeds", [*columns, "seeds"], rows, notes, groups)


def _fresh_cells(search: Search, one: Confirmed, reference: Confirmed | None, goal: Goal) -> list[Cell]:
    values = list(one.of(goal).values())
    interval = t_interval(values) if values else None
    if interval is None:
        cells = [Cell(unfinished(one.states) or "missing")]
    else:
        note = "1 seed" if interval.n == 1 else ""
        cells = [Cell(goal.interval(interval), interval.mean, interval.half_width, note=note)]
    if reference is not None:
        cells.append(_gap_cell(one, reference, goal))
    candidate = search.by_number(one.number) if one is not reference else None
    before = candidate.interval(goal) if candidate else None
    if before is None:
        return [*cells, Cell("–"), Cell("–")]
    cells.append(
        Cell(goal.interval(before), before.mean, before.half_width, note="1 seed" if before.n == 1 else "")
    )
    if interval is None:
        return [*cells, Cell("–")]
    gain = goal.better(before.mean) - goal.better(interval.mean)
    return [*cells, Cell(goal.change(gain), gain)]


def _gap_cell(one: Confirmed, reference: Confirmed, goal: Goal) -> Cell:
    if one is reference:
        return Cell("–")
    gap = fresh_difference(one, reference, goal)
    if gap is None:
        return Cell("same runs" if one.run_ids and set(one.run_ids) <= set(reference.run_ids) else "–")
    return Cell(goal.gap(gap), gap.mean, gap.half_width)


def candidates_csv(search: Search) -> str:
    """One line a setting: parameters, values by seed, stops, constraints, state, runs. Metrics in their own units."""
    keys = [a.key for a in axes_of(search)]
    keys += sorted({k for c in search.candidates for k in c.params} - set(keys))
    seeds = _seeds(c.values for c in search.candidates)
    stops = sorted({s for c in search.candidates for s in c.stops})
    bounds = list(search.raw.get("constraints") or {})
    lines = []
    for c in search.candidates:
        race = search.verdicts.get(c.number) or {}
        gap = race.get("difference") or [None] * 3
        line: dict[str, Any] = {"number": c.number, "origin": c.origin, "state": c.state}
        if c.state == COMPLETE:
            line["feasible"] = int(c.feasible)
        line |= {k: c.params.get(k) for k in keys}
        line |= _numbers(search, c.values, seeds)
        line |= {f"at_step_{s}": c.stops.get(s) for s in stops}
        line |= {f"constraint:{m}": c.constraints.get(m) for m in bounds}
        line |= {"race": race.get("verdict")}
        line |= dict(zip(("race_difference", "race_low", "race_high"), gap, strict=True))
        line |= {"error": c.error, "run_ids": " ".join(c.run_ids)}
        lines.append(line)
    columns = ["number", "origin", "state", "feasible", *keys, *_number_columns(search, seeds)]
    columns += [f"at_step_{s}" for s in stops] + [f"constraint:{m}" for m in bounds]
    columns += ["race", "race_difference", "race_low", "race_high", "error", "run_ids"]
    return _csv(columns, lines)


def confirmation_csv(search: Search, reference_arm: str | None) -> str | None:
    """One line a (setting, goal) on the fresh seeds; None where none were planned."""
    if not search.confirmation:
        return None
    reference = search.reference(reference_arm)
    seeds = _seeds(c.values for c in search.confirmation)
    lines = []
    for one in search.confirmation:
        candidate = search.by_number(one.number) if one in search.winners else None
        for goal in search.goals:
            values = one.of(goal)
            interval = t_interval(list(values.values())) if values else None
            gap = fresh_difference(one, reference, goal) if reference and one is not reference else None
            lines.append(
                {
                    "arm": one.arm,
                    "number": one.number,
                    "setting": one.setting,
                    "metric": goal.metric,
                    "mean": interval.mean if interval else None,
                    "half_width_95": interval.half_width if interval else None,
                    "num_seeds": len(values),
                    "difference": gap.mean if gap else None,
                    "difference_half_width_95": gap.half_width if gap else None,
                    "p_value": gap.p_value if gap else None,
                    "selection_mean": candidate.mean(goal) if candidate else None,
                    **{f"seed_{s}": values.get(s) for s in seeds},
                    "run_ids": " ".join(one.run_ids),
                }
            )
    return _csv(list(lines[0]), lines)


def _seeds(values: Iterable[dict[str, dict[int, float]]]) -> list[int]:
    return sorted({seed for metrics in values for by_seed in metrics.values() for seed in by_seed})


def _numbers(search: Search, values: dict[str, dict[int, float]], seeds: Sequence[int]) -> dict[str, Any]:
    line: dict[str, Any] = {}
    for goal in search.goals:
        found = values.get(goal.metric, {})
        interval = t_interval(list(found.values())) if found else None
        line |= {
            goal.metric: interval.mean if interval else None,
            f"{goal.metric}_half_width_95": interval.half_width if interval else None,
            f"{goal.metric}_num_seeds": len(found),
        }
        line |= {f"{goal.metric}_seed_{s}": found.get(s) for s in seeds}
    return line


def _number_columns(search: Search, seeds: Sequence[int]) -> list[str]:
    return list(_numbers(search, {}, seeds))


def _csv(columns: Sequence[str], lines: Sequence[dict[str, Any]]) -> str:
    """Numbers with six digits, blocks as JSON."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for line in lines:
        writer.writerow([_field(line.get(c)) for c in columns])
    return out.getvalue()


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
