"""What a definition asks of a figure, and the arms and settings that it means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.spec.report import FigureBlock

from .plot_style import FigureFiles, save
from .settings import Setting
from .sources import Source

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Request:
    """One figure to be drawn."""

    out: Path
    """The report's folder."""
    name: str
    """Of its files."""
    title: str | None = None
    """In place of the figure's own, as `caption`."""
    caption: str | None = None
    arms: tuple[str, ...] = ()
    """Those that the definition names; empty where it names none."""
    steps: int | None = None
    """First steps that are drawn; None leaves it to the figure."""
    named: frozenset[str] = frozenset()
    """Keys of the settings that the definition names: of their arms these are drawn, all of them."""

    def save(self, figure: Figure, frame: pd.DataFrame, title: str, caption: str) -> FigureFiles:
        """Write it, with the definition's words in place of the figure's own where there are any."""
        return save(figure, frame, self.out, self.name, self.title or title, self.caption or caption)

    def of(self, source: Source, title: str) -> Request:
        """The same for one of several sources, which names of files and titles then tell apart."""
        told = f"{self.title or title} ({source.label})"
        return replace(self, name=f"{self.name}-{source.name}", title=told)


@dataclass(frozen=True)
class View:
    """A source as one figure sees it."""

    source: Source
    settings: list[Setting]
    """Those of the arms that are drawn, in the order of the plan; where the definition names settings of an arm, they
    alone.
    """

    @property
    def label(self) -> str:
        return self.source.label


def requested(
    block: FigureBlock, sources: Sequence[Source], out: Path, name: str
) -> tuple[Request, list[View]]:
    """The request, and each source with what it is to show. Raises UsageError for arms and settings that none has."""
    settings = {s.name: s.settings for s in sources}
    everything = [s for found in settings.values() for s in found]
    _check(f"blocks.{name}: arms", block.arms, list(dict.fromkeys(s.arm for s in everything)), "arm")
    kept = [s for s in everything if block.arms is None or s.arm in block.arms]
    allowed = list(dict.fromkeys(s.point or s.arm for s in kept))
    known = [*allowed, *(n for s in kept for n in (s.key, s.title))]
    _check(f"blocks.{name}: settings", block.settings, known, "setting", allowed)
    views = []
    named: set[str] = set()
    for source in sources:
        mine = [s for s in settings[source.name] if block.arms is None or s.arm in block.arms]
        chosen = {s.key for s in mine if names(s) & set(block.settings or ())}
        cut = {s.arm for s in mine if s.key in chosen}
        named |= chosen
        views.append(View(source, [s for s in mine if s.key in chosen or s.arm not in cut]))
    arms = tuple(block.arms or ())
    request = Request(out, name, block.title, block.caption, arms, block.steps, frozenset(named))
    return request, views


def names(setting: Setting) -> set[str]:
    """What a definition may call it: as tables do, with or without its arm."""
    return {setting.key, setting.title, setting.point or setting.arm}


def _check(
    where: str,
    given: Sequence[str] | None,
    known: Sequence[str],
    what: str,
    shown: Sequence[str] | None = None,
) -> None:
    for one in given or ():
        if one not in known:
            listed = ", ".join(shown or known)
            raise UsageError(
                f"{where}: no source has the {what} '{one}'.{did_you_mean(one, known)} {what.capitalize()}s there: "
                f"{listed}."
            )
