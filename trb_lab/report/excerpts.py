"""Rollouts of the first step side by side: the reference arm's, and one with the teacher's hand in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from trb_lab.spec.report import ExcerptBlock
from trb_lab.store.run_dir import RunDir, Store

from .settings import Setting, reference_setting

MAX_TOKENS = 400
LIKELY, POSSIBLE = 0.5, 0.1
"""Redraw probabilities from which a token is marked strongly, and weakly."""


@dataclass(frozen=True)
class Token:
    """A piece of a response.

    `mark` is 0 (kept almost surely), 1 or 2 (redrawn with probability of LIKELY or more).
    """

    text: str
    mark: int
    hint: str
    redrawn: bool = False
    """Whether it was redrawn."""
    numbers: tuple[float | None, float | None, float | None] = (None, None, None)
    """Redraw probability, and the student's and the teacher's log-prob (nats); None where unknown."""


@dataclass(frozen=True)
class Excerpt:
    """One response to a prompt."""

    title: str
    run_id: str
    correct: bool | None
    tokens: list[Token]
    cut: bool


@dataclass(frozen=True)
class Pair:
    """A prompt and the responses of two arms to it."""

    prompt: str
    gold: str
    responses: list[Excerpt]


def samples_at(run: RunDir, step: int) -> pd.DataFrame:
    """The run's sampled rollouts of a step; an empty frame where none were kept."""
    folder = run.samples
    if not any(folder.glob("*.parquet")):
        return pd.DataFrame()
    try:
        return pd.read_parquet(folder, filters=[("step", "==", step), ("source", "==", "rollout")])
    except (OSError, ValueError):  # ArrowInvalid is a ValueError
        return pd.DataFrame()


def excerpts(store: Store, settings: list[Setting], block: ExcerptBlock) -> list[Pair]:
    """Prompts that runs of two arms on one seed both kept at the block's step.

    Where the block names no arms: the reference, and TRB where there is one, at its largest budget, where the blend
    shows most; else the first arm with samples. Prompts are the same for all arms of a seed.
    """
    bases, others = _sides(settings, block)
    for base in bases:
        for seed, run_id in sorted(base.run_ids.items()):
            first = samples_at(store.trial(run_id), block.step)
            if first.empty:
                continue
            for other in others:
                run = other.run_ids.get(seed)
                rows = samples_at(store.trial(run), block.step) if run else first.iloc[:0]
                sides = ((base.title, run_id, first), (other.title, str(run), rows))
                pairs = matched_pairs(*sides, most=block.prompts) if not rows.empty else []
                if pairs:
                    return pairs
    return []


def _sides(settings: list[Setting], block: ExcerptBlock) -> tuple[list[Setting], list[Setting]]:
    """The settings that the left side may be of, and those of the right side, the most telling first."""

    def telling(group: list[Setting]) -> list[Setting]:
        return sorted(group, key=lambda s: (s.kind != "trb", -(s.kl_budget or 0.0)))

    if block.arms is not None:
        left, right = ([s for s in settings if s.arm == arm] for arm in block.arms)
        return telling(left), telling(right)
    reference = reference_setting(settings)
    if reference is None:
        return [], []
    return [reference], telling([s for s in settings if s.arm != reference.arm])


def matched_pairs(*sides: tuple[str, str, pd.DataFrame], most: int = 3) -> list[Pair]:
    """Prompts that both sides (title, run id, samples) kept, with one response of each; `most` of them at most."""
    (_, _, first), (_, _, second) = sides
    pairs: list[Pair] = []
    for prompt in first["prompt"]:
        if len(pairs) < most and prompt in set(second["prompt"]) and prompt not in [p.prompt for p in pairs]:
            rows = [frame[frame["prompt"] == prompt].sort_values("row").iloc[0] for _, _, frame in sides]
            responses = [
                _excerpt(row, title, run_id) for row, (title, run_id, _) in zip(rows, sides, strict=True)
            ]
            gold = rows[0].get("gold")
            pairs.append(Pair(str(prompt), "" if gold is None or gold != gold else str(gold), responses))
    return pairs


def _excerpt(row: pd.Series, title: str, run_id: str) -> Excerpt:
    correct = row.get("correct")
    pieces = row.get("tokens")
    pieces = [str(row["response"])] if pieces is None or len(pieces) == 0 else [str(p) for p in pieces]
    columns = {
        c: _numbers(row.get(c), len(pieces))
        for c in ("redraw_probability", "student_logprob", "teacher_logprob")
    }
    redrawn = _numbers(row.get("redrawn"), len(pieces))
    tokens = []
    for i, piece in enumerate(pieces[:MAX_TOKENS]):
        redraw, student, teacher = (columns[c][i] for c in columns)
        mark = 0 if redraw is None else (redraw >= POSSIBLE) + (redraw >= LIKELY)
        names = (("redraw probability", redraw), ("student log-prob", student), ("teacher log-prob", teacher))
        hint = ", ".join(f"{n} {v:.2f}" for n, v in names if v is not None)
        tokens.append(Token(piece, int(mark), hint, bool(redrawn[i]), (redraw, student, teacher)))
    return Excerpt(
        title,
        run_id,
        None if correct is None or pd.isna(correct) else bool(correct),
        tokens,
        len(pieces) > MAX_TOKENS,
    )


def _numbers(values: Any, length: int) -> list[float | None]:
    """A column of per-token numbers, or as many Nones where it is unknown or of another length."""
    if values is None or not hasattr(values, "__len__") or len(values) != length:
        return [None] * length
    return [None if v is None or v != v else float(v) for v in values]
