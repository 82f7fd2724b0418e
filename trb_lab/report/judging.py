"""What counts as a difference, in one place: the level and the correction of a report, and the words for both."""

from __future__ import annotations

from collections.abc import Mapping

from trb_lab.spec.report import StatisticsSpec

from .stats import Difference, adjusted_p

MARK = "†"
"""On differences that stay significant."""


def coverage(statistics: StatisticsSpec) -> str:
    """`95 %`: what intervals cover."""
    return f"{100 * (1 - statistics.level):g} %"


def level_words(statistics: StatisticsSpec) -> str:
    """`5 % level`."""
    return f"{100 * statistics.level:g} % level"


def significant(
    gaps: Mapping[str, Difference], statistics: StatisticsSpec, same: Mapping[str, str] | None = None
) -> tuple[frozenset[str], int]:
    """Keys of the differences that stay significant, and how many comparisons they were corrected for.

    same: key -> what it was made from; keys with equal values are one comparison.
    """
    groups = {k: (same or {}).get(k, k) for k in gaps}
    tested = {groups[k]: g.p_value for k, g in gaps.items() if g.p_value is not None}
    adjusted = adjusted_p(tested, statistics.correction)
    certain = frozenset(k for k, g in groups.items() if g in adjusted and adjusted[g] < statistics.level)
    return certain, len(tested)


def _corrected(statistics: StatisticsSpec, family: str) -> str:
    if statistics.correction == "none":
        return f"each alone, not corrected for {family}"
    return f"corrected for {family} (Holm)"


def bold_note(row: str, statistics: StatisticsSpec) -> str:
    """How bold and underline are decided; `row` is what a row is."""
    family = f"the number of {row}s in the column"
    return (
        f"Bold: the highest mean of a column and every {row} not significantly below it (difference paired by seed, "
        f"{level_words(statistics)}, {_corrected(statistics, family)}). Underlined: the highest mean that is not bold."
    )


def mark_note(comparisons: int, statistics: StatisticsSpec) -> str:
    """What the mark on a difference says."""
    family = f"{comparisons} comparison{'s' * (comparisons != 1)}"
    return f"{MARK} Different from the reference at the {level_words(statistics)}, {_corrected(statistics, family)}."
