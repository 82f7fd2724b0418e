"""A report: one question put to finished sweeps, answered in tables, figures, text and excerpts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from trb_lab.errors import UsageError, did_you_mean

from .base import Spec
from .loading import load_spec

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
FigureName = Literal[
    "score_by_budget",
    "score_by_cost",
    "learning_curves",
    "trust_region",
    "early_rollouts",
    "trajectories",
    "teacher_entropy",
    "best_over_training",
    "support_reward",
    "continuation_gain",
]
FIGURES: tuple[FigureName, ...] = get_args(FigureName)
TableName = Literal["results", "scores", "selection", "problems", "cost", "health"]
FEWEST_DRAWS = 1000
"""Of a bootstrap: with fewer its own noise decides what is significant."""
Rule = Literal["final", "fair", "paper"]
Venue = Literal["page", "neurips", "iclr", "icml", "icml_wide", "acl", "acl_wide", "slide"]
FileFormat = Literal["pdf", "svg", "png"]


class SourceSpec(Spec):
    """Trials of one sweep, as one block of columns or one panel of the report."""

    sweep: str | list[str]
    """Name of the sweep; of several names, the first that the store has."""
    label: str | None = None
    """What tables and panels call it; null takes the sweep's name."""
    reference: str | None = None
    """Arm that the others are compared with; null takes the sweep's own."""
    arms: list[str] | None = Field(None, min_length=1)
    """Arms that are read; null takes all."""
    seeds: list[int] | None = Field(None, min_length=1)
    """Seeds that are read; null takes all."""
    where: dict[str, Any] = {}
    """Dotted key of the resolved spec -> the value, or the list of values, that a trial must have."""

    @property
    def sweeps(self) -> list[str]:
        """The names in the order in which they are looked for."""
        return [self.sweep] if isinstance(self.sweep, str) else list(self.sweep)


class StatisticsSpec(Spec):
    """How differences are judged. (What a search found is told at 95 %: it decided so when it raced and confirmed.)"""

    level: float = Field(0.05, gt=0, lt=0.5)
    """Chance of a false difference; intervals cover one minus it."""
    correction: Literal["holm", "none"] = "holm"
    """For all comparisons of a table; none tests each alone."""
    bootstrap_samples: int = Field(2000, ge=0)
    """Draws of the hierarchical bootstrap over seeds and problems, at least 1000; 0 uses seeds alone (Student-t)."""
    bootstrap_seed: int = Field(0, ge=0)

    @field_validator("bootstrap_samples")
    @classmethod
    def _enough(cls, samples: int) -> int:
        if 0 < samples < FEWEST_DRAWS:
            raise ValueError(
                f"{samples} draws tell too little of a variance; take 0 (seeds alone) or at least {FEWEST_DRAWS}"
            )
        return samples


class FigureOptions(Spec):
    """How figures are drawn and saved."""

    venue: Venue = "page"
    """Width and text size: of the page, of a conference's column (neurips, iclr, icml, acl) or text (..._wide), or a
    slide.
    """
    formats: list[FileFormat] = Field(["pdf", "svg", "png"], min_length=1)


class PublishedRow(Spec):
    """Somebody else's numbers, shown below ours and labelled as published."""

    arm: str
    """Arm that it belongs to."""
    values: dict[str, dict[str, float]]
    """Source -> column -> score in percent."""


class PublishedSpec(Spec):
    """A table that was published elsewhere."""

    label: str
    """Who published it: `arXiv 2605.31159, table 1`."""
    rows: list[PublishedRow] = Field(min_length=1)


class _Block(Spec):
    name: str | None = Field(None, pattern=NAME)
    """Name of its files and its place in the page; null takes that of what it shows."""
    title: str | None = None
    """Heading; null takes that of what it shows."""
    sources: list[str] | None = Field(None, min_length=1)
    """Which sources; null takes all."""


class TextBlock(_Block):
    """Words of the author."""

    kind: Literal["text"]
    text: str
    """Paragraphs, with empty lines between them."""


class FindingsBlock(_Block):
    """What the numbers allow to be said, in sentences."""

    kind: Literal["findings"]


class TableBlock(_Block):
    """A table, in LaTeX, Markdown, HTML, CSV and JSON."""

    kind: Literal["table"]
    table: TableName = "results"
    """`results`: arms by evaluation sets, sources side by side, as the paper's table 1. Of one source each: `scores`
    (a row a setting), `selection` (both rules), `problems`, `cost`, `health`.
    """
    caption: str | None = None
    """Replaces the caption of the LaTeX table."""
    rows: list[str] | None = Field(None, min_length=1)
    """results: arms in this order; null takes the sweeps' order."""
    columns: list[str] | None = Field(None, min_length=1)
    """results: evaluation sets, and `mean`, `difference`, `seeds`, `tried`; null takes all."""
    rule: Rule = "fair"
    """results: which checkpoint and setting of an arm counts: `paper` (the best of all, and its own score), `fair`
    (chosen on other seeds and problems than it is scored on), `final` (mean over settings at the end, nothing chosen).
    """
    published: PublishedSpec | None = None
    """results: rows to compare with."""

    @model_validator(mode="after")
    def _only_of_results(self) -> Self:
        """The other tables have their own rows and columns."""
        own = ("rows", "columns", "rule", "published")
        given = [k for k in own if getattr(self, k) != type(self).model_fields[k].default]
        if self.table != "results" and given:
            raise ValueError(
                f"{', '.join(given)} belong to the table `results`; `{self.table}` has its own. Leave them out"
            )
        return self


class FigureBlock(_Block):
    """A figure, in the formats of `figures`, with its data as CSV."""

    kind: Literal["figure"]
    figure: FigureName
    caption: str | None = None
    """Replaces the figure's own words."""
    arms: list[str] | None = Field(None, min_length=1)
    """Arms that are drawn; null takes all."""
    settings: list[str] | None = Field(None, min_length=1)
    """Settings that are drawn of the arms that they belong to, as tables call them (`kl_budget=0.05 steps=25`); other
    arms stay (leave them out with `arms`). Null leaves the choice to the figure.
    """
    steps: int | None = Field(None, ge=1)
    """First steps that are drawn, for figures of the beginning; null is the figure's own choice."""
    diagnostic: str | list[str] | None = None
    """continuation_gain: name of the diagnostic (a folder in diagnostics/); of several, the first found."""


class ExcerptBlock(_Block):
    """Rollouts of two arms to the same prompts, side by side, redrawn tokens marked."""

    kind: Literal["excerpt"]
    arms: list[str] | None = Field(None, min_length=2, max_length=2)
    """Null takes the reference and the arm where the teacher's hand shows most."""
    prompts: int = Field(3, ge=1)
    step: int = Field(0, ge=0)


class SearchBlock(_Block):
    """What the searches of a sweep tried and found."""

    kind: Literal["search"]


class FailuresBlock(_Block):
    """Trials that did not finish, and why."""

    kind: Literal["failures"]


class SetupBlock(_Block):
    """What settings change, what all trials share, which runs there are."""

    kind: Literal["setup"]


Block = Annotated[
    TextBlock
    | FindingsBlock
    | TableBlock
    | FigureBlock
    | ExcerptBlock
    | SearchBlock
    | FailuresBlock
    | SetupBlock,
    Field(discriminator="kind"),
]


class ReportSpec(Spec):
    """What `trb-lab report` makes of finished runs."""

    name: str = Field(pattern=NAME)
    title: str
    question: str = ""
    sources: dict[str, SourceSpec] = Field(min_length=1)
    """Name -> which sweep, and what of it."""
    blocks: list[Block] = Field(min_length=1)
    """What the report shows, in this order."""
    labels: dict[str, str] = {}
    """Arm -> its name in tables and figures, in place of the sweep's label."""
    statistics: StatisticsSpec = StatisticsSpec()
    figures: FigureOptions = FigureOptions()

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        for name in self.sources:
            if not re.fullmatch(NAME, name):
                raise ValueError(
                    f"the source '{name}' names files: take letters, digits, '_', '.' and '-', a letter or digit first"
                )
        for block in self.blocks:
            for source in block.sources or ():
                if source not in self.sources:
                    hint = did_you_mean(source, self.sources)
                    raise ValueError(
                        f"a block names the source '{source}', which is none of {', '.join(self.sources)}.{hint}"
                    )
        names = [block_name(b) for b in self.blocks]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"several blocks are called {', '.join(twice)}: give them a `name` of their own")
        return self


def block_name(block: Block) -> str:
    """What a block's files and its place in the page are called."""
    if block.name is not None:
        return block.name
    if isinstance(block, TableBlock):
        return block.table
    if isinstance(block, FigureBlock):
        return block.figure
    return block.kind if not isinstance(block, TextBlock) else f"text-{_short(block.text)}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def load_report(path: Path | str, sets: Sequence[str] = ()) -> ReportSpec:
    """Read a definition, with what it `extends`. Raises UsageError with every problem of the file."""
    wanted = "a report: name, title, sources, blocks"
    return load_spec(ReportSpec, Path(path), wanted, _refuse_other_kinds, sets)


def _refuse_other_kinds(value: dict[str, Any], source: str) -> None:
    for key, kind in {
        "arms": "a sweep",
        "student": "an experiment",
        "partition": "a cluster profile",
    }.items():
        if key in value:
            raise UsageError(f"{source} is {kind}, and a report is wanted here: reports/NAME.yaml.")
