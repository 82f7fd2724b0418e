"""What a page carries inside itself: packed text, and the files that it offers for download."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from trb_lab.errors import MissingExtra

SIGNIFICANT_DIGITS = 5
MOST_PLACES = 22
"""Powers of ten up to this one are floats without rounding."""
LEVEL = 6
"""Of gzip: 9 takes three times as long, for one per cent."""
MAX_FILE_CHARACTERS = 4_000_000
"""A longer file is not embedded: the page links to the one beside it."""


def packed(value: Any) -> str:
    """JSON, gzip, base64: text that is safe inside a script element and that a browser unpacks by itself."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return packed_text(text)


def packed_numbers(value: Any) -> str:
    """As `packed`, several times as fast, for what has mostly numbers, none of them NaN or infinite."""
    return _packed_bytes(orjson.dumps(value))


def packed_text(text: str) -> str:
    """gzip (without a clock) and base64 of the text in UTF-8."""
    return _packed_bytes(text.encode())


def _packed_bytes(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, LEVEL, mtime=0)).decode("ascii")


def unpacked(text: str) -> str:
    """The text that `packed_text` was given."""
    return gzip.decompress(base64.b64decode(text)).decode()


def rounded(value: float | None, digits: int = SIGNIFICANT_DIGITS) -> float | None:
    """`digits` significant digits; None for what is no finite number."""
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return None
    return float(f"{value:.{digits}g}")


def all_rounded(values: np.ndarray, digits: int = SIGNIFICANT_DIGITS) -> list[float | None]:
    """As `rounded`, of many at once; of two decimals that are equally near, either may come.

    A power of ten is exact, so the quotient is the float nearest to the decimal.
    """
    values = np.asarray(values, dtype=float)
    finite = np.isfinite(values) & (values != 0)
    places = digits - 1 - np.floor(np.log10(np.abs(values, where=finite, out=np.ones_like(values))))
    up, down = 10.0 ** np.clip(places, 0, MOST_PLACES), 10.0 ** np.clip(-places, 0, MOST_PLACES)
    found: list[float | None] = (np.rint(values / down * up) / up * down).tolist()
    for place in np.flatnonzero(~np.isfinite(values) | (np.abs(places) > MOST_PLACES)):
        found[place] = rounded(float(values[place]), digits)
    return found


def rounded_parts(values: np.ndarray, parts: Sequence[np.ndarray]) -> list[list[float | None]]:
    """The values at each part's places, rounded; all at once, which is much faster than part by part."""
    if not parts:
        return []
    numbers = all_rounded(values[np.concatenate(parts)])
    ends = np.cumsum([len(part) for part in parts]).tolist()
    return [numbers[start:end] for start, end in zip([0, *ends], ends, strict=False)]


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
