"""How every figure is saved: the formats asked for with deterministic bytes, its data, and its text for the page."""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from trb_lab.store.run_dir import write_atomic

from .palette import DARK
from .plot_layout import fit
from .plot_venue import look

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PIXELS_AN_INCH = 112.5
"""In the page: 720 pixels for a figure of the page's own width, and text of one size for all widths."""


@dataclass(frozen=True)
class FigureFiles:
    """A saved figure: paths relative to the report directory (None where the format was not asked for), and the SVG's
    text for the page, which there is always.
    """

    name: str
    title: str
    caption: str
    csv: Path
    svg_text: str
    pdf: Path | None = None
    svg: Path | None = None
    png: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """All its files."""
        return [p for p in (self.pdf, self.svg, self.png, self.csv) if p is not None]


def save(figure: Figure, frame: pd.DataFrame, out: Path, name: str, title: str, caption: str) -> FigureFiles:
    """Write figures/<name>.csv and the formats of the style in force atomically, and close the figure."""
    from matplotlib import pyplot, rc_context

    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    fit(figure)
    paths: dict[str, Path] = {}
    with rc_context({"figure.constrained_layout.use": False}):
        # No engine at all: "none" leaves a placeholder, for which every format draws once more than it needs.
        figure.set_layout_engine(None)
        text = _svg(figure)
        for suffix in look().formats:
            path = folder / f"{name}.{suffix}"
            if suffix == "svg":
                ground = '<rect width="100%" height="100%" fill="#ffffff"/>\n <g id="figure_1">'
                write_atomic(path, text.replace('<g id="figure_1">', ground, 1))
            else:
                write_bytes_atomic(path, _png(figure) if suffix == "png" else _pdf(figure))
            paths[suffix] = Path("figures") / path.name
    write_atomic(folder / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    pyplot.close(figure)
    return FigureFiles(name, title, caption, Path("figures") / f"{name}.csv", text, **paths)


def _svg(figure: Figure) -> str:
    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None}, facecolor="none")
    return svg.getvalue()


def _png(figure: Figure) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=look().dpi, metadata={"Software": None}, facecolor="white")
    return png.getvalue()


def _pdf(figure: Figure) -> bytes:
    """On a transparent ground; without dates and program versions."""
    pdf = io.BytesIO()
    unknown = {"CreationDate": None, "Creator": None, "Producer": None}
    figure.savefig(pdf, format="pdf", metadata=unknown, facecolor="none")
    return pdf.getvalue()


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
    inches = float(re.search(r'<svg[^>]* width="([0-9.]+)pt"', text)[1]) / 72  # type: ignore[index]
    widest = f"max-width: {PIXELS_AN_INCH * inches:.0f}px"
    head = f'<svg role="img" aria-label="{escape(figure.title)}" style="{widest}" '
    text = text.replace("<svg ", head, 1)
    # Namespace declarations are needless inside HTML, and their addresses would look like links.
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    return text
