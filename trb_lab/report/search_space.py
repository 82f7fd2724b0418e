"""The parameters of a search as axes: where a value lies, and what it is called there."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .search_data import Search
from .setup_facts import flatten

LONGEST = 40
"""Characters of a value in a table."""
MOST_TICKS = 5


@dataclass(frozen=True)
class Axis:
    """One parameter. Choices lie at 0, 1, ... in the order in which they are written."""

    key: str
    name: str
    low: float
    high: float
    log: bool = False
    choices: tuple[Any, ...] = ()
    labels: tuple[str, ...] = ()
    whole: bool = False

    def at(self, value: Any) -> float | None:
        """Where a value lies; None for one that the axis cannot show."""
        if self.choices:
            return next((float(i) for i, c in enumerate(self.choices) if same(c, value)), None)
        if not is_number(value) or (self.log and value <= 0):
            return None
        return float(value)

    def share(self, value: Any) -> float | None:
        """The same as a share of the axis, from 0 at its low end to 1."""
        at = self.at(value)
        if at is None:
            return None
        low, high = (math.log(v) if self.log else v for v in (self.low, self.high))
        return ((math.log(at) if self.log else at) - low) / (high - low) if high > low else 0.5

    def text(self, value: Any) -> str:
        """What tables call a value."""
        if self.choices:
            at = self.at(value)
            return value_text(value) if at is None else self.labels[int(at)]
        return value_text(value)

    def ticks(self, most: int = MOST_TICKS) -> list[tuple[float, str]]:
        """(value, label) of some round numbers, or of every choice."""
        if self.choices:
            return [(float(i), label) for i, label in enumerate(self.labels)]
        values = _log_ticks(self.low, self.high, most) if self.log else self._even_ticks(most)
        return [(v, f"{v:.6g}") for v in values]

    def _even_ticks(self, most: int) -> list[float]:
        from matplotlib.ticker import MaxNLocator

        found = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10], integer=self.whole).tick_values(
            self.low, self.high
        )
        room = 1e-9 * (self.high - self.low)
        return [round(float(v), 12) for v in found if self.low - room <= v <= self.high + room]


def axes_of(search: Search) -> list[Axis]:
    """Every parameter of the space, in its order; wide enough for whatever was tried."""
    return [_axis(search, key, p) for key, p in (search.raw.get("space") or {}).items()]


def _axis(search: Search, key: str, parameter: dict[str, Any]) -> Axis:
    tried = [c.params[key] for c in search.candidates if key in c.params]
    name = search.name(key)
    if parameter["kind"] == "choice":
        choices = list(parameter["values"])
        for value in tried:  # a setting of the arm's grid may lie beside the space
            if not any(same(value, c) for c in choices):
                choices.append(value)
        return Axis(
            key,
            name,
            0.0,
            len(choices) - 1.0,
            choices=tuple(choices),
            labels=tuple(choice_labels(choices)),
        )
    log = bool(parameter.get("log"))
    numbers = [float(v) for v in tried if is_number(v) and (v > 0 or not log)]
    low, high = (float(parameter[k]) for k in ("low", "high"))
    return Axis(key, name, min([low, *numbers]), max([high, *numbers]), log, whole=parameter["kind"] == "int")


def choice_labels(choices: Sequence[Any]) -> list[str]:
    """Short names of choices; of blocks only what tells them apart. No two are the same."""
    texts = [value_text(c) for c in choices]
    blocks = {i: flatten(c) for i, c in enumerate(choices) if isinstance(c, dict)}
    if len(blocks) > 1:
        first = next(iter(blocks.values()))
        common = {k for k, v in first.items() if all(f.get(k) == v for f in blocks.values())}
        for i, block in blocks.items():
            texts[i] = " ".join(f"{k}={v}" for k, v in block.items() if k not in common) or texts[i]
    short = [_shorten(t) for t in texts]
    return [t if short.count(t) == 1 else f"{t} ({i + 1})" for i, t in enumerate(short)]


def value_text(value: Any) -> str:
    """One value on one line: numbers with four digits that matter, blocks as `key=value key=value`."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return _shorten(" ".join(f"{k}={v}" for k, v in flatten(value).items()))
    return _shorten(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _shorten(text: str, longest: int = LONGEST) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def same(a: Any, b: Any) -> bool:
    """Equal, where true is not 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Powers of ten, with 2 and 5 (or 3) between them where those are few; the ends where nothing round is inside."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    room = 1 + 1e-9
    for steps in ((1, 2, 5), (1, 3), (1,)):
        values = [s * 10.0**d for d in decades for s in steps]
        inside = [v for v in values if low / room <= v <= high * room]
        if 2 <= len(inside) <= most:
            return inside
    if len(inside) > most:
        return inside[:: math.ceil(len(inside) / most)]
    return [low, high]
