"""Times and memory as people write them for Slurm: `30m`, `12h`, `2-00:00:00`, `64GB`."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator

TIME_FORMS = "30m, 12h, 1d12h, 08:30:00 (hours:minutes:seconds), 2-00:00:00 (days-hours:...) or whole minutes"
MEMORY_FORMS = "512MB, 64GB or 1TB"

_UNITS = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.IGNORECASE)
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)")
_DAYS = re.compile(r"(\d+)-(\d+)(?::(\d\d))?")
_MEMORY = re.compile(r"(\d+)\s*([KMGT])(?:i?B)?", re.IGNORECASE)


def seconds_of(text: str) -> int:
    """Seconds of a written time; a bare number means minutes, as it does for sbatch. Raises ValueError."""
    found: tuple[str | None, ...]
    if text.isdigit():
        found = (None, None, text, None)
    elif match := (_CLOCK.fullmatch(text) or (_UNITS.fullmatch(text) if text else None)):
        found = match.groups()
    elif match := _DAYS.fullmatch(text):
        found = (*match.groups(), None)
    elif re.fullmatch(r"\d+:\d\d", text):
        first, second = text.split(":")
        raise ValueError(
            f"{text} may mean hours:minutes or minutes:seconds. "
            f"Write {first}h{int(second)}m, or {first}m{int(second)}s."
        )
    else:
        raise ValueError(f"{text!r} is no time. It takes {TIME_FORMS}.")
    days, hours, minutes, seconds = (int(part or 0) for part in found)
    total = 86_400 * days + 3600 * hours + 60 * minutes + seconds
    if total <= 0:
        raise ValueError(f"{text} is no time at all. It takes {TIME_FORMS}.")
    return total


def minutes_of(text: str) -> int:
    """Whole minutes, rounded up: Slurm's own resolution."""
    return math.ceil(seconds_of(text) / 60)


def megabytes_of(text: str) -> int:
    """Megabytes (of 2^20 bytes, as Slurm counts) of a written size, rounded up. Raises ValueError."""
    match = _MEMORY.fullmatch(text)
    if match is None or int(match[1]) == 0:
        unit = f" A number needs its unit: {text}GB or {text}MB." if text.isdigit() else ""
        raise ValueError(f"{text!r} is no amount of memory. It takes {MEMORY_FORMS} (whole numbers).{unit}")
    number, unit = int(match[1]), match[2].upper()
    return math.ceil(number / 1024) if unit == "K" else number * {"M": 1, "G": 1024, "T": 1024**2}[unit]


def _time(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        value = f"{value}m" if value > 0 else str(value)
    elif isinstance(value, float):
        raise ValueError(f"{value:g} is no time. It takes {TIME_FORMS}.")
    if isinstance(value, str):
        seconds_of(value)
    return value


def _memory(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value:g}"
    if isinstance(value, str):
        megabytes_of(value)
        found = _MEMORY.fullmatch(value)
        assert found is not None
        return f"{found[1]}{found[2].upper()}B"
    return value


Time = Annotated[str, BeforeValidator(_time)]
"""A time limit; whole minutes may be written as a number and become `90m`."""
Memory = Annotated[str, BeforeValidator(_memory)]
"""An amount of memory in Slurm's units, normalised to `64GB`."""
