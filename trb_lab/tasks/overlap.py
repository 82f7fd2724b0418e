"""Problems that are asked in evaluation and met in training: shared runs of 13 words.

The usual test for contamination. Words are lower-cased runs of letters and digits. A problem overlaps with a training
prompt when 13 words in a row of it stand in the prompt. A problem of fewer words has no such run, and its words alone
say too little (without their signs `3 + 4` and `3 - 4` are the same): it overlaps when a training prompt is the same
text, signs included, up to capitals and spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

RUN = 13
"""Words in a row that count as the same passage."""

_WORD = re.compile(r"[^\W_]+")
_Run = tuple[str, ...]


@dataclass(frozen=True)
class Overlap:
    """A problem and the first training prompt that it shares a passage with."""

    problem: int
    prompt: int
    passage: str
    """The first shared run of words, or the whole text of a short problem."""


def words(text: str) -> list[str]:
    """Lower-cased runs of letters and digits."""
    return _WORD.findall(text.lower())


def runs(tokens: Sequence[str]) -> list[_Run]:
    """Every 13 words in a row."""
    return [tuple(tokens[i : i + RUN]) for i in range(len(tokens) - RUN + 1)]


def _same_text(text: str) -> str:
    return " ".join(text.lower().split())


class TrainingText:
    """What the training prompts hold, read once and compared with any number of evaluation sets.

    The sets' runs are few and the prompts' are many: the prompts are kept as words, and walked for each set.
    """

    def __init__(self, prompts: Iterable[str]) -> None:
        texts = list(prompts)
        self._words = [words(text) for text in texts]
        self._whole = {text: i for i, text in reversed(list(enumerate(map(_same_text, texts))))}

    def overlaps(self, problems: Sequence[str]) -> list[Overlap]:
        """The problems that overlap with training prompts, in their order."""
        found: dict[int, Overlap] = {}
        wanted: dict[_Run, list[int]] = {}
        for i, text in enumerate(problems):
            tokens = words(text)
            if len(tokens) >= RUN:
                for run in runs(tokens):
                    wanted.setdefault(run, []).append(i)
            elif (same := _same_text(text)) in self._whole:
                found[i] = Overlap(i, self._whole[same], same)
        openings = {run[0] for run in wanted}
        for prompt, tokens in enumerate(self._words):
            for start in range(len(tokens) - RUN + 1):
                if tokens[start] in openings:
                    run = tuple(tokens[start : start + RUN])
                    for i in wanted.get(run, ()):
                        found.setdefault(i, Overlap(i, prompt, " ".join(run)))
        return [found[i] for i in sorted(found)]
