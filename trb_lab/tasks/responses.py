"""What can be said of a batch of responses beyond the verdicts: lengths, truncation, loops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

LONGEST_PERIOD = 32
"""Tokens in the longest loop that is looked for."""
MIN_REPEATS = 3


def ends_in_loop(tokens: Sequence[int]) -> bool:
    """Whether the response ends in one block of up to LONGEST_PERIOD tokens, MIN_REPEATS times in a row."""
    for period in range(1, min(LONGEST_PERIOD, len(tokens) // MIN_REPEATS) + 1):
        tail = tokens[len(tokens) - period * MIN_REPEATS :]
        # A loop of one token needs as many tokens as the next shortest to count: "..." is no loop.
        if period == 1 and len(set(tokens[-2 * MIN_REPEATS :])) > 1:
            continue
        if all(tail[i] == tail[i % period] for i in range(len(tail))):
            return len(tail) >= 2 * MIN_REPEATS
    return False


def response_statistics(
    lengths: Sequence[int], finished: Sequence[bool], loops: Sequence[bool]
) -> dict[str, float]:
    """Shares and means over responses. `lengths` count the stop token; `loops` are those of `ends_in_loop`."""
    count = len(lengths)
    return {
        "length_mean": sum(lengths) / count,
        "truncated_share": sum(not f for f in finished) / count,
        "repetition_share": sum(loops) / count,
    }


def verdict_statistics(verdicts: Sequence[Any]) -> dict[str, float]:
    """Shares over verdicts. Time-outs (and checks that broke) are counted apart from wrong answers, and so are
    responses without an answer: `unboxed` (something was written, no box), `empty` (nothing was, or an empty box).
    """
    count = len(verdicts)
    reasons = Counter(v.reason for v in verdicts)
    return {
        "correct_share": sum(v.correct for v in verdicts) / count,
        "no_answer_share": (reasons["unboxed"] + reasons["empty"]) / count,
        "unboxed_share": reasons["unboxed"] / count,
        "empty_share": reasons["empty"] / count,
        "timeouts": float(reasons["timeout"] + reasons["error"]),
    }
