"""From a rollout batch to the metrics of a step, and to sample rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trb_lab.policy.arms import ArmStep
from trb_lab.rollout.engine import Keep, RolloutEngine, Rollouts
from trb_lab.spec.experiment import OptimSpec
from trb_lab.store.run_dir import RunDir
from trb_lab.store.samples import write_samples
from trb_lab.tasks.grading import Verdict
from trb_lab.tasks.problem import Problem
from trb_lab.tasks.responses import ends_in_loop, response_statistics, verdict_statistics

from .objective import LossStats
from .optimizer import learning_rate

NUM_SAMPLES = 8
"""Rollouts kept of a sampled step."""


def _token_mean(values_BT: Tensor, rollouts: Rollouts) -> float:
    return float(values_BT.double()[rollouts.mask_BT].mean())


def step_metrics(
    optim: OptimSpec,
    step: int,
    stats: LossStats,
    grad_norm: float,
    rollouts: Rollouts,
    verdicts: Sequence[Verdict | None],
    arm: ArmStep,
) -> dict[str, float]:
    """The step's line of metrics.jsonl, but for what sampled and evaluated steps add."""
    return {
        "train/loss": stats.loss,
        "train/reverse_kl": stats.reverse_kl,
        "train/logprob_gap": stats.logprob_gap,
        "train/grad_norm": grad_norm,
        "train/lr": learning_rate(optim, step),
        **rollout_metrics(rollouts, verdicts),
        **support_auroc(rollouts, verdicts),
        **policy_metrics(rollouts, arm),
    }


def rollout_metrics(rollouts: Rollouts, verdicts: Sequence[Verdict | None]) -> dict[str, float]:
    """`rollout/*`: lengths, truncation, loops; reward where there are answers to grade against."""
    loops = [ends_in_loop(response) for response in rollouts.responses()]
    values = response_statistics(rollouts.lengths_B.tolist(), rollouts.finished_B.tolist(), loops)
    values["tokens"] = rollouts.num_tokens
    known = [verdict for verdict in verdicts if verdict is not None]
    if known:
        graded = verdict_statistics(known)
        values["reward"] = graded["correct_share"]
        for name in ("no_answer_share", "unboxed_share", "empty_share"):
            values[name] = graded[name]
        values["grading_timeouts"] = graded["timeouts"]
    return {f"rollout/{name}": value for name, value in values.items()}


def support_auroc(rollouts: Rollouts, verdicts: Sequence[Verdict | None]) -> dict[str, float]:
    """How well mean(log q - log p) over a rollout's tokens ranks correct rollouts above incorrect ones.

    The share of (correct, incorrect) pairs that it ranks rightly, ties half: 0.5 is chance. Absent where there is no
    such pair.
    """
    assert rollouts.teacher_logprob_BT is not None
    gap_BT = (rollouts.teacher_logprob_BT - rollouts.student_logprob_BT).double()
    support_B = gap_BT.masked_fill(~rollouts.mask_BT, 0.0).sum(-1) / rollouts.lengths_B
    known = [i for i, verdict in enumerate(verdicts) if verdict is not None]
    correct = torch.tensor([verdict.correct for verdict in verdicts if verdict is not None], dtype=torch.bool)
    support = support_B[known]
    value = auroc(support[correct], support[~correct])
    return {} if value is None else {"rollout/support_auroc": value}


def auroc(positives: Tensor, negatives: Tensor) -> float | None:
    """P(positive > negative) + P(equal) / 2 over all pairs; None where there is none."""
    if not len(positives) or not len(negatives):
        return None
    ordered = negatives.sort().values
    below = torch.searchsorted(ordered, positives, right=False)
    not_above = torch.searchsorted(ordered, positives, right=True)
    return float((below + not_above).double().sum() / (2 * len(positives) * len(negatives)))


def policy_metrics(rollouts: Rollouts, arm: ArmStep) -> dict[str, float]:
    """`policy/*`: what the behaviour policy did. Token means over the batch, nats where it is a log or a KL."""
    assert rollouts.teacher_logprob_BT is not None and rollouts.teacher_entropy_BT is not None
    values = {
        "schedule": arm.schedule,
        "kl_mean": _token_mean(rollouts.kl_BT, rollouts),
        "kl_max": float(rollouts.kl_BT.max()),
        "redraw_rate": _token_mean(rollouts.redraw_BT, rollouts),
        "teacher_entropy": _token_mean(rollouts.teacher_entropy_BT, rollouts),
        "student_logprob": _token_mean(rollouts.student_logprob_BT, rollouts),
        "teacher_logprob": _token_mean(rollouts.teacher_logprob_BT, rollouts),
    }
    if arm.behavior.needs_teacher:
        values["redrawn_share"] = _token_mean(rollouts.redrawn_BT, rollouts)
    if rollouts.beta_BT is not None:
        values["beta_mean"] = _token_mean(rollouts.beta_BT, rollouts)
        values["binding_share"] = _token_mean(rollouts.beta_BT < 1.0, rollouts)
    return {f"policy/{name}": value for name, value in values.items()}


def teacher_logprob_gap(engine: RolloutEngine, rollouts: Rollouts, keep: Keep) -> float:
    """Mean |difference| of the teacher's log-probs between its verify passes and a scoring pass over the same tokens.

    Of the sampled rollouts. Rounding and batching alone make it: near 0 in float32, and a warning where it is not.
    """
    kept = rollouts.first(NUM_SAMPLES)
    again = rollouts.first(NUM_SAMPLES)
    engine.score(again, keep)
    assert kept.teacher_logprob_BT is not None and again.teacher_logprob_BT is not None
    return _token_mean((kept.teacher_logprob_BT - again.teacher_logprob_BT).abs(), kept)


def save_samples(
    run_dir: RunDir,
    step: int,
    problems: Sequence[Problem],
    rollouts: Rollouts,
    verdicts: Sequence[Verdict | None],
    tokenizer: Any,
) -> None:
    """Write the first rollouts of a step to samples.parquet."""
    prompts, golds = [p.prompt for p in problems], [p.answer for p in problems]
    write_samples(run_dir, step, "rollout", sample_rows(rollouts, tokenizer, prompts, golds, verdicts))


def sample_rows(
    rollouts: Rollouts,
    tokenizer: Any,
    prompts: Sequence[str],
    golds: Sequence[str | None],
    verdicts: Sequence[Verdict | None],
) -> list[dict[str, Any]]:
    """The first rollouts as rows of samples.parquet; `prompts` are problem texts, one a rollout."""
    rows = []
    for i in range(min(NUM_SAMPLES, len(prompts))):
        length, verdict = int(rollouts.lengths_B[i]), verdicts[i]
        ids = rollouts.tokens_BT[i, :length].tolist()

        def column(values_BT: Tensor | None, i: int = i, length: int = length) -> list[Any] | None:
            return None if values_BT is None else values_BT[i, :length].tolist()

        rows.append(
            {
                "prompt": prompts[i],
                "response": tokenizer.decode(ids, skip_special_tokens=True),
                "answer": verdict.answer if verdict else None,
                "gold": golds[i],
                "correct": verdict.correct if verdict else None,
                "tokens": [tokenizer.decode([token]) for token in ids],
                "student_logprob": column(rollouts.student_logprob_BT),
                "teacher_logprob": column(rollouts.teacher_logprob_BT),
                "behavior_logprob": column(rollouts.behavior_logprob_BT),
                "redraw_probability": column(rollouts.redraw_BT),
                "redrawn": column(rollouts.redrawn_BT),
            }
        )
    return rows
