"""Rows of somebody else's numbers below ours, only where they are numbers of the same evaluation sets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.spec.report import PublishedSpec

from .collect import MEAN
from .sources import Source
from .tables import Cell, Row

AVERAGES = (MEAN, "avg", "average")


def published_rows(
    published: PublishedSpec | None,
    panels: Sequence[tuple[Source, Sequence[str]]],
    labels: Mapping[str, str],
    declared: Collection[str],
) -> tuple[list[Row], list[str]]:
    """The rows, and what notes say of them. panels: sources with their columns. labels: arm -> its name.
    declared: sources of the definition.

    A source gets numbers only if it has evaluation sets of the published names, and a published mean only if these
    are all its sets and all the published ones. Raises UsageError for sources that the definition has not.
    """
    if published is None:
        return [], []
    wanted = list(dict.fromkeys(name for row in published.rows for name in row.values))
    for name in wanted:
        if name not in declared:
            raise UsageError(
                f"published: there is no source '{name}'.{did_you_mean(name, declared)} Sources: {', '.join(declared)}."
            )
    notes: list[str] = []
    shown: dict[str, list[str]] = {}
    for source, columns in panels:
        theirs = list(
            dict.fromkeys(
                _key(c) for row in published.rows for c in row.values.get(source.name, {}) if _key(c) != MEAN
            )
        )
        ours = [_key(s) for s in source.data.mean_sets]
        if not any(name in ours for name in theirs):
            if source.name in wanted:
                notes.append(_other_sets(published, source, theirs))
            continue
        whole = set(ours) == set(theirs)
        shown[source.name] = [c for c in columns if _key(c) in theirs or (_key(c) == MEAN and whole)]
        if not whole:
            notes.append(
                f"{published.label}: no mean for {source.label}, whose evaluation sets "
                f"({', '.join(source.data.mean_sets)}) are not the published ones ({', '.join(theirs)})."
            )
    if not shown:
        return [], [*notes, f"So nothing of {published.label} is shown."]
    rows = []
    for row in published.rows:
        cells = []
        for source, columns in panels:
            values = {_key(c): v for c, v in row.values.get(source.name, {}).items()}
            for column in columns:
                value = values.get(_key(column)) if column in shown.get(source.name, ()) else None
                cells.append(Cell("–") if value is None else Cell(f"{value:.1f}", value / 100))
        if any(c.value is not None for c in cells):
            rows.append(Row(f"{labels.get(row.arm, row.arm)} (published)", "published", cells))
    return rows, [f"Published: {published.label}. Its intervals and rule are its own.", *notes]


def _key(column: str) -> str:
    """Names of sets without regard to case and spelling of the mean."""
    name = column.lower()
    return MEAN if name in AVERAGES else name


def _other_sets(published: PublishedSpec, source: Source, theirs: Sequence[str]) -> str:
    return (
        f"{published.label}: no numbers for {source.label}, whose evaluation sets "
        f"({', '.join(source.data.mean_sets) or 'none in common'}) are not the published ones ({', '.join(theirs)})."
    )
