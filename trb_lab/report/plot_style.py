"""How every figure looks, and how it is saved: one palette, one text size, deterministic bytes.

Colours are chosen for colour-blind readers on white. The page shows figures inline and gives each palette
colour, ink and grid a CSS variable, so that dark mode recolours lines instead of inverting pictures
(`themed_svg`).
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from trb_lab.store.run_dir import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1a1d21"
MUTED = "#5b6570"
GRID = "#dde1e6"
SHADE = "#eceff2"
SERIES = [
    "#0072b2", "#c8500a", "#00805a", "#a8488a", "#9a6b00", "#2a93c7", "#6b5bd0", "#d1324b", "#6f8f00", "#7a4b2f",
]  # fmt: skip
"""Arm families in order; near Okabe and Ito's, darkened to 4:1 on white."""
SERIES_DARK = [
    "#56b4e9", "#ff9152", "#3cc79a", "#e591c4", "#e6b13c", "#9ad7f5", "#a99df5", "#ff8095", "#b5d05a", "#c9a188",
]  # fmt: skip
"""The same on the page's dark ground."""
RAMP = ["#440154", "#433880", "#31678d", "#20908c", "#36a866", "#7db92f"]
"""Ordered quantities (budgets, horizons): viridis."""
DARK = {
    INK: "#e8eaed",
    MUTED: "#a3adb8",
    GRID: "#343b43",
    SHADE: "#242a31",
    **dict(zip(SERIES, SERIES_DARK, strict=True)),
    **dict(zip(RAMP, ["#b08be6", "#8f9cf0", "#6cb2e6", "#45c9c0", "#6ddc8f", "#d3e04a"], strict=True)),
}
"""Colour on white -> colour on the page's dark ground."""
KIND_COLOURS = {
    "opd": INK,
    "trb": SERIES[0],
    "teacher_forced": SERIES[1],
    "mixture": SERIES[2],
    "skd": SERIES[3],
    "temperature": SERIES[4],
    "fixed_epsilon": SERIES[5],
    "saki": SERIES[6],
    "veto": SERIES[7],
    "sft": SERIES[8],
}
"""Arms of the shipped kinds keep their colour across sweeps; further kinds take the next free one."""
DASHES = ["-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.4, 1.2, 1.4))]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "h"]

WIDTH_INCHES = 6.4


@dataclass(frozen=True)
class FigureFiles:
    """A saved figure: paths relative to the report directory, and the SVG's text for the page."""

    name: str
    title: str
    caption: str
    svg: Path
    png: Path
    csv: Path
    svg_text: str

    @property
    def paths(self) -> list[Path]:
        """All its files."""
        return [self.svg, self.png, self.csv]


@contextmanager
def style() -> Iterator[None]:
    """matplotlib settings of all figures.

    Paths instead of fonts: text looks and measures the same everywhere.
    """
    import matplotlib

    matplotlib.use("Agg")
    settings: Any = {
        "svg.fonttype": "path",
        "svg.hashsalt": "trb_lab",
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "text.parse_math": False,  # labels are people's words: a dollar sign is a dollar sign
        "axes.titlesize": 10,
        "axes.labelsize": 9.5,
        "legend.fontsize": 8.5,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
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
        "grid.linewidth": 0.7,
        "axes.axisbelow": True,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "legend.frameon": False,
        "lines.linewidth": 1.7,
        "lines.markersize": 5,
        "axes.titlelocation": "left",
        "axes.linewidth": 0.8,
        "legend.handlelength": 3.2,
        "lines.solid_capstyle": "round",
        "figure.constrained_layout.use": True,
    }
    with matplotlib.rc_context(settings):
        yield


def colours_of(kinds: dict[str, str]) -> dict[str, str]:
    """Arm -> colour, from arm -> kind: the first arm of a shipped kind has its kind's, others the next free
    one, of those first that no kind has.
    """
    colours: dict[str, str] = {}
    for arm, kind in kinds.items():
        own = KIND_COLOURS.get(kind)
        if own and own not in colours.values():
            colours[arm] = own
    free = sorted((c for c in SERIES if c not in colours.values()), key=lambda c: c in KIND_COLOURS.values())
    return {arm: colours.get(arm) or (free.pop(0) if free else MUTED) for arm in kinds}


def ramp(n: int) -> list[str]:
    """n colours for ordered values, spread over the ramp (they repeat beyond its length)."""
    if n <= 1:
        return [RAMP[2]] * n
    first, last = (1, 4) if n == 2 else (0, 4) if n == 3 else (0, len(RAMP) - 1)
    return [RAMP[round(first + i * (last - first) / (n - 1))] for i in range(n)]


def below(
    axes: Axes,
    columns: int | None = None,
    anchor: float = -0.2,
    handles: list | None = None,
    labels: list[str] | None = None,
) -> None:
    """A legend under the axes, where it cannot cover data; of these axes' lines unless others are given.

    Two columns, or three where many short labels would make it taller than the figure.
    """
    if handles is None or labels is None:
        handles, labels = axes.get_legend_handles_labels()
    if columns is None:
        columns = 3 if len(labels) > 6 and max(map(len, labels)) <= 24 else 2
    if handles:
        axes.legend(
            handles,
            labels,
            loc="upper left",
            bbox_to_anchor=(-0.02, anchor),
            ncols=columns,
            columnspacing=1.6,
            borderaxespad=0,
        )


def save(figure: Figure, frame: pd.DataFrame, out: Path, name: str, title: str, caption: str) -> FigureFiles:
    """Write figures/<name>.svg, .png and .csv atomically and close the figure."""
    from matplotlib import pyplot

    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None}, facecolor="none")
    text = svg.getvalue()
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>\n <g id="figure_1">'
    white = text.replace('<g id="figure_1">', ground, 1)
    write_atomic(folder / f"{name}.svg", white)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=160, metadata={"Software": None}, facecolor="white")
    write_bytes_atomic(folder / f"{name}.png", png.getvalue())
    write_atomic(folder / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    pyplot.close(figure)
    return FigureFiles(
        name,
        title,
        caption,
        Path("figures") / f"{name}.svg",
        Path("figures") / f"{name}.png",
        Path("figures") / f"{name}.csv",
        text,
    )


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """As store.run_dir.write_atomic, for bytes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def theme_variables() -> dict[str, tuple[str, str]]:
    """CSS variable -> (colour on light ground, colour on dark ground) of every palette colour."""
    return {f"--f{light[1:]}": (light, dark) for light, dark in DARK.items()}


def themed_svg(figure: FigureFiles) -> str:
    """The SVG for embedding in HTML: palette as CSS variables, ids prefixed, labelled for screen readers."""
    from html import escape

    text = figure.svg_text[figure.svg_text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    for light in DARK:
        text = re.sub(light, f"var(--f{light[1:]})", text, flags=re.I)
    prefix = figure.name
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    head = f'<svg role="img" aria-label="{escape(figure.title)}" '
    text = text.replace("<svg ", head, 1)
    # Namespace declarations are needless inside HTML, and their addresses would look like links.
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    return text
