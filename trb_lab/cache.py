"""Where things are kept that can be made again: converted models, grading verdicts."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """$TRB_LAB_CACHE, or ~/.cache/trb_lab. Deleting it costs time, never results. Need not exist yet."""
    return Path(os.environ.get("TRB_LAB_CACHE") or Path.home() / ".cache" / "trb_lab").expanduser().absolute()
