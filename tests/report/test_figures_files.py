"""Files of figures: every venue and format, fonts, sizes, and the same bytes each time."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest

from trb_lab.report.plot_layout import below, entries, fit, panels
from trb_lab.report.plot_style import FigureFiles, save, themed_svg
from trb_lab.report.plot_venue import VENUES, look, style
from trb_lab.spec.report import FileFormat, Venue

pytestmark = pytest.mark.long

LABELS = [
    "vanilla OPD",
    "TRB anneal=exponential kl_budget=0.5 steps=25",
    "mixture of rollouts",
    "teacher-forced",
]


def picture(out: Path, venue: Venue, formats: list[FileFormat] | None = None) -> FigureFiles:
    """Two panels with a long name, long labels and many ticks."""
    with style(venue, formats):
        figure, grid = panels(2, 2.4)
        for (axes,) in grid:
            for i, label in enumerate(LABELS):
                axes.plot([0, 1], [i, i + 1], label=label)
            axes.set_xlabel("KL budget, initial where it is annealed (nats a token, log scale)")
            axes.set_xticks([i / 20 for i in range(21)], [f"{i / 20:.3f}" for i in range(21)])
        below(figure, *entries([grid[0][0]]))
        return save(figure, pd.DataFrame({"x": [1]}), out, "picture", "Picture", "A picture.")


@pytest.mark.parametrize("venue", get_args(Venue))
def test_every_venue_has_its_width(tmp_path: Path, venue: Venue) -> None:
    figure = picture(tmp_path, venue)
    assert [p.suffix for p in figure.paths] == [".pdf", ".svg", ".png", ".csv"]
    assert all((tmp_path / p).stat().st_size > 0 for p in figure.paths)
    assert figure.png is not None
    assert figure.pdf is not None
    width = struct.unpack(">I", (tmp_path / figure.png).read_bytes()[16:20])[0]
    assert width == pytest.approx(VENUES[venue].width * VENUES[venue].dpi, abs=1)
    pdf = (tmp_path / figure.pdf).read_bytes()
    assert b"/Subtype /TrueType" in pdf or b"/CIDFontType2" in pdf
    assert b"/FontFile2" in pdf
    assert not re.search(rb"/(CreationDate|Producer|Creator)", pdf)


def test_columns_have_text_of_seven_points() -> None:
    assert all(v.small >= 7 for v in VENUES.values())
    assert set(VENUES) == set(get_args(Venue))


def test_only_the_formats_asked_for(tmp_path: Path) -> None:
    figure = picture(tmp_path, "page", ["pdf"])
    assert (figure.svg, figure.png) == (None, None)
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == ["picture.csv", "picture.pdf"]
    assert "<svg" in figure.svg_text  # for the page
    assert 'style="max-width: 720px"' in themed_svg(figure)


def test_the_style_within_a_style_keeps_what_it_does_not_change() -> None:
    with style("acl", ["svg"], 0.1):
        with style():
            assert (look().width, look().formats, look().coverage) == (3.03, ("svg",), "90 %")
        with style("slide"):
            assert (look().width, look().formats, look().level) == (10, ("svg",), 0.1)
        assert look().narrow
    assert look().width == VENUES["page"].width


@pytest.mark.parametrize("venue", ["page", "acl"])
def test_nothing_leaves_the_figure(venue: Venue) -> None:
    """Legend and names lie inside it, labels of ticks do not touch."""
    with style(venue):
        figure, grid = panels(2, 2.4)
        for (axes,) in grid:
            for i, label in enumerate(LABELS):
                axes.plot([0, 1], [i, i + 1], label=label)
            axes.set_xlabel("KL budget, initial where it is annealed (nats a token, log scale)")
        before = figure.get_figheight()
        below(figure, *entries([grid[0][0]]))
        assert figure.get_figheight() > before
        fit(figure)
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        whole = figure.bbox
        boxes = [figure.legends[0].get_window_extent(renderer)]
        boxes += [axes.xaxis.label.get_window_extent(renderer) for (axes,) in grid]
        for box in boxes:
            assert box.x0 >= -1
            assert box.x1 <= whole.x1 + 1
            assert box.y0 >= -1
        from matplotlib import pyplot

        pyplot.close(figure)


def test_a_second_process_writes_the_same_bytes(tmp_path: Path) -> None:
    """Also with another hash seed: names of embedded fonts must not depend on it."""
    here = picture(tmp_path / "here", "icml")
    script = (
        "from pathlib import Path; from tests.report.test_figures_files import picture; "
        f"picture(Path({str(tmp_path / 'there')!r}), 'icml')"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, cwd=Path(__file__).parents[2])
    for path in here.paths:
        digests = {hashlib.sha256((tmp_path / d / path).read_bytes()).hexdigest() for d in ("here", "there")}
        assert len(digests) == 1, path
