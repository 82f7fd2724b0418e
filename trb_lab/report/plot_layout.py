"""What makes one drawing fit several widths: legends in as many columns as there is room for, wrapped names of axes,
slanted ticks, panels side by side or above each other.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .plot_venue import look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.figure import Figure

MOST_COLUMNS = 4
CHARACTER = 0.58
"""Mean width of a character, in units of the text size."""
BETWEEN_TICKS = 3.0
"""Points that two labels of ticks need between them."""
SLANT = 40


def panels(
    count: int, inches: float, most: int = 3, rows_each: int = 1, in_a_column: int = 1, **options: Any
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of `count` panels, each of `rows_each` axes above each other; axes of panel i are result[1][i].

    `inches` is the height of a panel on the report's page; `most` stand side by side, and `in_a_column` in one of two
    columns. Places that are left over stay empty.
    """
    from matplotlib import pyplot

    columns = look().columns(count, most, in_a_column)
    lines = math.ceil(count / columns)
    figure, grid = pyplot.subplots(
        lines * rows_each,
        columns,
        figsize=(look().width, lines * look().height(inches)),
        squeeze=False,
        **options,
    )
    found = []
    for place in range(lines * columns):
        line, column = divmod(place, columns)
        axes = [grid[line * rows_each + r][column] for r in range(rows_each)]
        if place < count:
            found.append(axes)
        else:
            for empty in axes:
                empty.set_visible(False)
    return figure, found


def below(figure: Figure, handles: Sequence[Any], labels: Sequence[str], most: int = MOST_COLUMNS) -> None:
    """One legend under all axes, where it cannot cover data; the figure grows by its height.

    As many columns as fit the width, none with a hole in the last line's stead of a shorter legend.
    """
    if not handles:
        return
    renderer = _renderer(figure)
    width = figure.get_figwidth() * figure.dpi
    room = int(72 * look().width / (CHARACTER * look().small)) - 7
    wrapped = [textwrap.fill(label, room, subsequent_indent="  ") for label in labels]
    marks_alone = {} if any(map(_has_line, handles)) else {"handlelength": 1.2}
    for columns in range(min(most, len(labels)), 0, -1):
        legend = figure.legend(
            handles,
            wrapped,
            loc="outside lower left",
            ncols=columns,
            borderaxespad=0.2,
            labelspacing=0.35,
            **marks_alone,
        )
        box = legend.get_window_extent(renderer)
        if box.width <= width or columns == 1:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + box.height / figure.dpi)


def _has_line(handle: Any) -> bool:
    """Whether a legend shows a length of line, and not a mark alone."""
    line = handle[0] if isinstance(handle, tuple) else handle  # error bars: line, caps, bars
    return line is not None and line.get_linestyle() != "None"


def entries(axes: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    """Handles and labels of several axes for one legend, each label once."""
    found: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def fit(figure: Figure) -> None:
    """Wrap names that are longer than their axes and slant ticks that would run into each other."""
    for _ in range(2):  # what is wrapped makes room, and what is slanted takes some
        figure.draw_without_rendering()
        changed = [_fit(figure, axes) for axes in figure.axes if axes.get_visible() and axes.axison]
        if not any(changed):
            break
    else:
        figure.draw_without_rendering()
    figure.set_layout_engine("none")  # found once for all formats


def _fit(figure: Figure, axes: Axes) -> bool:
    """Whether anything had to change."""
    before = (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left"))
    box = axes.get_window_extent(_renderer(figure))
    spec = axes.get_subplotspec()
    alone = spec is None or spec.get_gridspec().ncols == 1
    middle = (box.x0 + box.x1) / 2
    wide = 2 * min(middle, figure.get_figwidth() * figure.dpi - middle) if alone else 1.05 * box.width
    axes.set_xlabel(_wrapped(figure, axes.get_xlabel(), wide, look().text))
    axes.set_ylabel(_wrapped(figure, axes.get_ylabel(), 1.08 * box.height, look().text))
    axes.set_title(_wrapped(figure, axes.get_title(loc="left"), box.width, look().text), loc="left")
    labels = [t for t in axes.get_xticklabels() if t.get_text() and t.get_visible()]
    spans = sorted((b.x0, b.x1) for b in (t.get_window_extent(_renderer(figure)) for t in labels))
    gap = BETWEEN_TICKS * figure.dpi / 72
    if any(b[0] < a[1] + gap for a, b in pairwise(spans)):
        axes.tick_params(axis="x", rotation=SLANT)
        for label in labels:
            label.set_horizontalalignment("right")
            label.set_rotation_mode("anchor")
        return True
    return before != (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left"))


def _wrapped(figure: Figure, text: str, room: float, size: float) -> str:
    """The text in lines of at most `room` pixels, as few as do."""
    if not text:
        return text
    plain = " ".join(text.split()) if "\n" not in text else text
    widest = max(_width(figure, line, size) for line in plain.split("\n"))
    if widest <= room:
        return plain
    plain = " ".join(text.split())
    for lines in range(2, 6):
        # Lines of equal length: a last line of one word reads badly.
        shortest = max(8, math.ceil(len(plain) / lines))
        for length in range(shortest, shortest + 8):
            found = textwrap.wrap(plain, length)
            if len(found) <= lines and all(_width(figure, line, size) <= room for line in found):
                return "\n".join(found)
    return textwrap.fill(plain, max(8, int(len(plain) * room / _width(figure, plain, size))))


def _width(figure: Figure, text: str, size: float) -> float:
    probe = figure.text(0, 0, text, fontsize=size)
    width = probe.get_window_extent(_renderer(figure)).width
    probe.remove()
    return float(width)


def _renderer(figure: Figure) -> RendererAgg:
    return figure.canvas.get_renderer()  # type: ignore[attr-defined,no-any-return]
