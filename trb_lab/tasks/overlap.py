"""Problems that are asked in evaluation and met in training: shared runs of 13 words.

The usual test for contamination. Words are lower-cased runs of letters and digits. A problem overlaps with a training
prompt when 13 words in a row of it stand in the prompt.

Boilerplate is left out: a run that stands in many different training prompts, or in many different problems of the
set, is an instruction ("put the final answer in ...") or a turn of phrase, and says nothing about one problem. Its
words are taken out of the problem, and only runs of what is left count. So the words next to an instruction, which
many problems share as well, make no run with it.

A problem with fewer than 13 words in a row left has no run, and its words alone say too little (without their signs
`3 + 4` and `3 - 4` are the same): it overlaps when a training prompt is the same text, signs and instructions
included, up to capitals and spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

RUN = 13
"""Words in a row that count as the same passage."""
COMMON_SHARE = 0.05
"""A run in more than this share of the different training prompts, or of the different problems, is boilerplate."""
COMMON_AT_LEAST = 3
"""And in as many of them at least: in a set of few texts, one copied problem is a large share."""

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


def _is_common(count: int, of: int) -> bool:
    return count >= COMMON_AT_LEAST and count > COMMON_SHARE * of


class TrainingText:
    """What the training prompts hold, read once and compared with any number of evaluation sets.

    The sets' runs are few and the prompts' are many: the prompts are kept as words, and walked for each set.
    """

    def __init__(self, prompts: Iterable[str]) -> None:
        texts = list(prompts)
        self._whole: dict[str, int] = {}
        """Each different text, with the first prompt that is it."""
        for i, text in enumerate(texts):
            self._whole.setdefault(_same_text(text), i)
        self._words = [(i, words(texts[i])) for i in self._whole.values()]

    def overlaps(self, problems: Sequence[str]) -> list[Overlap]:
        """The problems that overlap with training prompts, in their order."""
        runs_of = [runs(words(text)) for text in problems]
        distinct = {_same_text(text): i for i, text in enumerate(problems)}
        asked: dict[_Run, int] = {}
        for i in distinct.values():
            for run in set(runs_of[i]):
                asked[run] = asked.get(run, 0) + 1
        met = self._met(set(asked))
        common = {run for run, number in asked.items() if _is_common(number, len(distinct))}
        common |= {run for run, (number, _) in met.items() if _is_common(number, len(self._words))}
        found = []
        for i, text in enumerate(problems):
            own = list(_without(common, runs_of[i]))
            passage = next((run for run in own if run in met), None)
            if passage is not None:
                found.append(Overlap(i, met[passage][1], " ".join(passage)))
            elif not own and (same := _same_text(text)) in self._whole:
                found.append(Overlap(i, self._whole[same], same))
        return found

    def _met(self, wanted: set[_Run]) -> dict[_Run, tuple[int, int]]:
        """Of each wanted run that is in the prompts: the number of different prompts, and the first one."""
        openings = {run[0] for run in wanted}
        met: dict[_Run, tuple[int, int]] = {}
        for prompt, tokens in self._words:
            here = {
                run
                for start in range(len(tokens) - RUN + 1)
                if tokens[start] in openings and (run := tuple(tokens[start : start + RUN])) in wanted
            }
            for run in here:
                number, first = met.get(run, (0, prompt))
                met[run] = (number + 1, first)
        return met


def _without(common: set[_Run], all_runs: Sequence[_Run]) -> Iterator[_Run]:
    """The runs that hold no word of a common one. They begin at consecutive words of one text."""
    starts = [i for i, run in enumerate(all_runs) if run in common]
    taken = {at for start in starts for at in range(start - RUN + 1, start + RUN)}
    return (run for i, run in enumerate(all_runs) if i not in taken)
