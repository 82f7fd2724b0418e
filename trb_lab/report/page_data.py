"""What a page carries inside itself: packed text, and the files that it offers for download."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trb_lab.errors import MissingExtra

SIGNIFICANT_DIGITS = 5
MAX_FILE_CHARACTERS = 4_000_000
"""A longer file is not embedded: the page links to the one beside it."""


def packed(value: Any) -> str:
    """JSON, gzip, base64: text that is safe inside a script element and that a browser unpacks by itself."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return packed_text(text)


def packed_text(text: str) -> str:
    """gzip (without a clock) and base64 of the text in UTF-8."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode("ascii")


def unpacked(text: str) -> str:
    """The text that `packed_text` was given."""
    return gzip.decompress(base64.b64decode(text)).decode()


def rounded(value: float | None, digits: int = SIGNIFICANT_DIGITS) -> float | None:
    """`digits` significant digits; None for what is no finite number."""
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return None
    return float(f"{value:.{digits}g}")


@cache
def packed_plotly() -> str:
    """The JavaScript that the plotly package ships, packed. Raises MissingExtra where there is no plotly."""
    package = find_spec("plotly")
    if package is None or not package.submodule_search_locations:
        raise MissingExtra("The report's page", "driver")
    folder = Path(next(iter(package.submodule_search_locations)))
    return packed_text((folder / "package_data" / "plotly.min.js").read_text(encoding="utf-8"))


def embedded_files(files: Mapping[str, str]) -> dict[str, str]:
    """Name -> text of the tables and the data of figures, which a page offers when it is alone, sorted by name."""
    return {
        name: text
        for name, text in sorted(files.items())
        if (name.startswith("tables/") or name.endswith(".csv")) and len(text) <= MAX_FILE_CHARACTERS
    }
