"""Prompt-matched rollouts of two runs, side by side, with the redrawn tokens marked."""

from __future__ import annotations

import textwrap
from itertools import zip_longest
from typing import Any

from trb_lab.errors import LabError
from trb_lab.report.excerpts import Excerpt, Pair, matched_pairs, samples_at
from trb_lab.store.run_dir import RunDir, Store

from .targets import run_named, spec_of

MARK = "«{}»"


def excerpts(first: str, second: str, store: Store, *, step: int, rows: int) -> list[Pair]:
    """Up to `rows` prompts that both runs kept at the step, with a response of each.

    Raises LabError where a run kept nothing of the step, or the runs share no prompt.
    """
    runs = [run_named(name, store) for name in (first, second)]
    sides = [(_title(run), run.run_id, samples_at(run, step)) for run in runs]
    for run, (_, _, samples) in zip(runs, sides, strict=True):
        if samples.empty:
            raise LabError(
                f"{run.run_id} kept no rollouts of step {step}: kept are {_kept(run)}. Steps with an evaluation, and "
                "step 0, are kept."
            )
    pairs = matched_pairs(*sides, most=rows)
    if not pairs:
        raise LabError(
            f"{runs[0].run_id} and {runs[1].run_id} share no prompt at step {step}: "
            "compare runs of one seed and data set."
        )
    return pairs


def _title(run: RunDir) -> str:
    spec = spec_of(run)
    return f"{spec.warmup.kind}, seed {spec.seed}"


def _kept(run: RunDir) -> str:
    steps = sorted(
        int(file.stem.split("-")[0].removeprefix("step_"))
        for file in run.samples.glob("step_*-rollout.parquet")
    )
    return ", ".join(map(str, steps)) or "none"


def as_json(pairs: list[Pair]) -> list[dict[str, Any]]:
    """The pairs for scripts: each response with its tokens and whether each was redrawn."""
    return [
        {
            "prompt": pair.prompt,
            "gold": pair.gold,
            "responses": [
                {
                    "run_id": response.run_id,
                    "correct": response.correct,
                    "tokens": [token.text for token in response.tokens],
                    "redrawn": [token.redrawn for token in response.tokens],
                    "cut": response.cut,
                }
                for response in pair.responses
            ],
        }
        for pair in pairs
    ]


def side_by_side(pairs: list[Pair], width: int) -> str:
    """The pairs in two columns that fit `width` characters together."""
    column = max(20, (width - 3) // 2)
    lines: list[str] = []
    for pair in pairs:
        lines += textwrap.wrap(f"prompt: {' '.join(pair.prompt.split())}", width)
        lines += [f"reference answer: {pair.gold or 'none'}"]
        texts = [_lines(response, column) for response in pair.responses]
        lines += [f"{left:<{column}} | {right}".rstrip() for left, right in zip_longest(*texts, fillvalue="")]
        lines.append("")
    return "\n".join([*lines, f"{MARK.format('marked')} tokens were redrawn."])


def _lines(response: Excerpt, width: int) -> list[str]:
    verdict = {None: "not graded", True: "correct", False: "wrong"}[response.correct]
    text = "".join(_marked(t.text) if t.redrawn else t.text for t in response.tokens)
    text += " ..." if response.cut else ""
    found = [*textwrap.wrap(f"{response.run_id} ({response.title}): {verdict}", width), "-" * width]
    for line in text.splitlines():
        found += textwrap.wrap(line, width, drop_whitespace=False) or [""]
    return found


def _marked(piece: str) -> str:
    """A redrawn piece; a line break stays one, after a sign for it."""
    return MARK.format(piece.replace("\n", "⏎")) + "\n" * piece.count("\n")
