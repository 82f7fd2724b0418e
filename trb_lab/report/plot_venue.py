"""Where a figure will be read: its width, text and line sizes, and the formats that are saved.

Figures take their width from here and choose heights to go with it (`Look.height`); `style` puts a look in force, and
a `style` within another keeps what it does not change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from trb_lab.spec.report import FileFormat, Venue

from .palette import GRID, INK, MUTED
from .stats import LEVEL, Interval, t_interval

PAGE_WIDTH = 6.4
NARROW = 4.5
"""Inches under which panels stand above each other."""


@dataclass(frozen=True)
class Look:
    """Sizes of one venue. Width in inches, text, lines and marks in points."""

    width: float
    text: float
    """Names of axes."""
    small: float
    """Legends, ticks, notes: the smallest text there is."""
    line: float
    mark: float
    dpi: int
    """Of PNG."""
    formats: tuple[FileFormat, ...] = ("pdf", "svg", "png")
    level: float = LEVEL
    """Intervals cover one minus it."""

    @property
    def narrow(self) -> bool:
        """One column of a page with two."""
        return self.width < NARROW

    def height(self, inches: float) -> float:
        """`inches` as they are on the report's page, made to go with this width."""
        return inches * (0.5 + 0.5 * self.width / PAGE_WIDTH)

    def columns(self, panels: int, most: int = 3, in_a_column: int = 1) -> int:
        """Panels side by side: at most `most`, where this is one of two columns `in_a_column`."""
        return max(1, min(panels, in_a_column if self.narrow else most))

    def interval(self, values: Sequence[float]) -> Interval:
        """Student-t interval over seeds at this look's level."""
        return t_interval(values, self.level)

    @property
    def coverage(self) -> str:
        """`95 %`."""
        return f"{100 * (1 - self.level):g} %"


VENUES: dict[Venue, Look] = {
    "page": Look(PAGE_WIDTH, 9.5, 8.5, 1.7, 5, 160),
    "neurips": Look(5.5, 8.5, 7.5, 1.4, 4, 300),
    "iclr": Look(5.5, 8.5, 7.5, 1.4, 4, 300),
    "icml": Look(3.25, 7.5, 7, 1.1, 3.2, 300),
    "icml_wide": Look(6.75, 8.5, 7.5, 1.4, 4, 300),
    "acl": Look(3.03, 7.5, 7, 1.1, 3.2, 300),
    "acl_wide": Look(6.3, 8.5, 7.5, 1.4, 4, 300),
    "slide": Look(10, 16, 14, 2.6, 8, 160),
}
_look: ContextVar[Look] = ContextVar("look", default=VENUES["page"])


def look() -> Look:
    """What is in force."""
    return _look.get()


@contextmanager
def style(
    venue: Venue | None = None, formats: Sequence[FileFormat] | None = None, level: float | None = None
) -> Iterator[None]:
    """matplotlib settings of all figures, at a venue's sizes; None keeps what is in force (`page`, every format).

    SVG has paths instead of fonts, and PDF whole TrueType fonts: text looks and measures the same everywhere.
    """
    import matplotlib

    matplotlib.use("Agg")
    chosen = look() if venue is None else replace(VENUES[venue], formats=look().formats, level=look().level)
    chosen = replace(
        chosen,
        formats=chosen.formats if formats is None else tuple(dict.fromkeys(formats)),
        level=chosen.level if level is None else level,
    )
    token = _look.set(chosen)
    try:
        with matplotlib.rc_context(_settings(chosen)):
            yield
    finally:
        _look.reset(token)


def _settings(now: Look) -> Any:
    return {
        "svg.fonttype": "path",
        "svg.hashsalt": "trb_lab",
        "pdf.fonttype": 42,
        "font.family": "DejaVu Sans",
        "font.size": now.text,
        "text.parse_math": False,  # labels are people's words: a dollar sign is a dollar sign
        "axes.titlesize": now.text,
        "axes.labelsize": now.text,
        "legend.fontsize": now.small,
        "xtick.labelsize": now.small,
        "ytick.labelsize": now.small,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": GRID,
        "grid.linewidth": 0.4 * now.line,
        "axes.axisbelow": True,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "legend.frameon": False,
        "lines.linewidth": now.line,
        "lines.markersize": now.mark,
        "axes.titlelocation": "left",
        "axes.linewidth": 0.47 * now.line,
        "xtick.major.width": 0.47 * now.line,
        "ytick.major.width": 0.47 * now.line,
        "legend.handlelength": 2.4 if now.narrow else 3.0,
        "legend.columnspacing": 1.0 if now.narrow else 1.6,
        "lines.solid_capstyle": "round",
        "figure.constrained_layout.use": True,
    }
