"""What can be asked of a benchmark on the command line, and what holds where nothing was asked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

from trb_lab.errors import UsageError, did_you_mean

Number = TypeVar("Number", int, float)

BUNDLED, TINY = "bundled", "tiny-qwen3"
PAIRS = {
    BUNDLED: "the pair of trained models that comes with the lab, on its own prompts",
    "qwen3-1p7b-8b": "random weights at the shapes of Qwen3-1.7B and Qwen3-8B; wants a GPU",
    "qwen3-0p6b-4b": "random weights at the shapes of Qwen3-0.6B and Qwen3-4B; wants a GPU",
    TINY: "random weights at a tiny shape, to try the benchmarks of random pairs on a CPU",
}


@dataclass(frozen=True)
class Options:
    """What was asked for; None or empty leaves it to the benchmark."""

    pair: str | None = None
    rows: int | None = None
    context: tuple[int, ...] = ()
    new_tokens: int | None = None
    eps: tuple[float, ...] = ()
    repeats: int | None = None
    runs: int | None = None
    """Runs of a made-up sweep."""

    def given(self) -> list[str]:
        """Names of the options that were asked for."""
        return [part.name for part in fields(self) if getattr(self, part.name) not in (None, ())]

    def check(self, bench: str, taken: Collection[str]) -> None:
        """Raises UsageError for an option that the benchmark does not take, or a value that means nothing."""
        for name in self.given():
            if name not in taken:
                flags = ", ".join(_flag(known) for known in taken)
                raise UsageError(f"bench {bench} takes no {_flag(name)}. It takes: {flags}")
        if self.pair is not None and self.pair not in PAIRS:
            raise UsageError(
                f"--pair {self.pair}: no such pair.{did_you_mean(self.pair, PAIRS)} There are: {', '.join(PAIRS)}"
            )
        for name in ("rows", "new_tokens", "repeats", "runs", "context"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else () if value is None else (value,)
            for number in numbers:
                if number < 1:
                    raise UsageError(f"{_flag(name)} {number}: give a whole number from 1 on")
        for eps in self.eps:
            if not 0.0 < eps < float("inf"):
                raise UsageError(f"--eps {eps:g}: give a budget in nats above 0, for example 0.01")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def numbers(flag: str, given: Sequence[str] | None, kind: Callable[[str], Number]) -> tuple[Number, ...]:
    """Numbers of an option that is given several times, or as a list with commas.

    Raises UsageError for what is no number.
    """
    found: list[Number] = []
    for text in (part.strip() for value in given or () for part in value.split(",")):
        try:
            found.append(kind(text))
        except ValueError:
            example = "1024,4096" if kind is int else "0.01,0.001"
            raise UsageError(f"{flag} '{text}': give numbers, for example {flag} {example}") from None
    return tuple(found)


@dataclass(frozen=True)
class Defaults:
    """Sizes of a pair's benchmarks."""

    rows: int
    new_tokens: int
    context: tuple[int, ...]
    """Tokens in a row's cache half-way through its response; empty where the pair has prompts of its own."""
    eps: tuple[float, ...]
    repeats: int


def defaults(pair: str) -> Defaults:
    """Sizes at which the pair is measured where nothing else is asked for."""
    if pair == BUNDLED:
        return Defaults(rows=64, new_tokens=64, context=(), eps=(0.05,), repeats=7)
    if pair == TINY:
        return Defaults(rows=4, new_tokens=8, context=(24,), eps=(0.01, 0.001), repeats=2)
    return Defaults(rows=32, new_tokens=128, context=(1024,), eps=(0.01, 0.001), repeats=3)


def default_pair(gpu: bool) -> str:
    return "qwen3-1p7b-8b" if gpu else BUNDLED
