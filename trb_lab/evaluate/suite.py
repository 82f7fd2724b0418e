"""pass@1 from n samples a problem at temperature 1, on several evaluation sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trb_lab.errors import UsageError
from trb_lab.models.load import LanguageModel
from trb_lab.policy.behaviors import student_rollouts
from trb_lab.rollout.engine import Draws, Keep, RolloutEngine, RolloutRequest, Rollouts
from trb_lab.spec.dataset import EvalSet
from trb_lab.spec.experiment import EvalSpec, PromptSpec
from trb_lab.tasks.datasets import load_problems
from trb_lab.tasks.grading import Grader, check_golds
from trb_lab.tasks.problem import Problem
from trb_lab.tasks.prompts import encode_prompts
from trb_lab.tasks.responses import response_statistics, verdict_statistics
from trb_lab.worker import Stopped

ROWS_AT_ONCE = 1024
"""Responses asked of the engine at once, so that a large set with many samples does not exist whole."""


@dataclass(frozen=True)
class LoadedSet:
    """One evaluation set as the evaluated model sees it."""

    name: str
    problems: list[Problem]
    prompt_ids: list[list[int]]
    num_dropped: int


def pass_at_1(correct: Sequence[bool], samples: int) -> tuple[float, float]:
    """Mean over problems of c/n, and its standard error clustered by problem.

    `correct` lists `samples` verdicts for each problem in turn. With one problem the error is 0.
    """
    shares = [sum(correct[i : i + samples]) / samples for i in range(0, len(correct), samples)]
    mean = math.fsum(shares) / len(shares)
    if len(shares) < 2:
        return mean, 0.0
    variance = math.fsum((share - mean) ** 2 for share in shares) / (len(shares) - 1)
    return mean, math.sqrt(variance / len(shares))


class Suite:
    """The evaluation sets of a spec, loaded once, evaluated as often as asked.

    The draws are keyed by (evaluation seed, training seed, set, problem, sample): arms with the same training seed
    share them, different training seeds do not, and they do not depend on the step.
    """

    def __init__(
        self,
        sets: Sequence[EvalSet],
        spec: EvalSpec,
        prompt: PromptSpec,
        model: LanguageModel,
        engine: RolloutEngine,
        grader: Grader,
        *,
        seed: int,
        max_prompt_tokens: int,
        max_new_tokens: int,
    ) -> None:
        self.spec, self.model, self.engine, self.grader, self.seed = spec, model, engine, grader, seed
        self.max_new_tokens = max_new_tokens
        self.sets = [self._load(s, prompt, max_prompt_tokens) for s in sets]

    def _load(self, eval_set: EvalSet, prompt: PromptSpec, max_prompt_tokens: int) -> LoadedSet:
        source = f"eval.sets.{eval_set.name}"
        problems = load_problems(eval_set.dataset, source=source)
        unanswered = sum(problem.answer is None for problem in problems)
        if unanswered:
            raise UsageError(
                f"{source}: {unanswered} of {len(problems)} problems have no answer to grade against. "
                "Name the column or key of the answers, or leave these problems out."
            )
        check_golds(problems, self.grader, source=source)
        encoded = encode_prompts(
            problems, [(self.model.tokenizer, self.model.spec)], prompt, max_prompt_tokens, source=source
        )
        return LoadedSet(eval_set.name, encoded.problems, encoded.token_ids[0], encoded.num_dropped)

    def evaluate(self, should_stop: Callable[[], bool] = lambda: False) -> dict[str, dict[str, Any]]:
        """Scores of every set, by name; see docs/files.md for the entries.

        Raises Stopped, between two batches, when `should_stop` says so.
        """
        return {loaded.name: self._evaluate_set(loaded, should_stop) for loaded in self.sets}

    def _evaluate_set(self, loaded: LoadedSet, should_stop: Callable[[], bool]) -> dict[str, Any]:
        samples = self.spec.samples
        problems = [i for i in range(len(loaded.problems)) for _ in range(samples)]
        responses: list[list[int]] = []
        lengths: list[int] = []
        finished: list[bool] = []
        for start in range(0, len(problems), ROWS_AT_ONCE):
            if should_stop():
                raise Stopped(f"stopped while evaluating {loaded.name}; the same command evaluates again")
            rows = range(start, min(start + ROWS_AT_ONCE, len(problems)))
            part = self._sample(loaded, [problems[row] for row in rows], rows)
            responses += part.responses()
            lengths += part.lengths_B.tolist()
            finished += part.finished_B.tolist()
        texts = self.model.tokenizer.batch_decode(responses, skip_special_tokens=True)
        golds = [str(loaded.problems[i].answer) for i in problems]
        verdicts = self.grader.grade(list(zip(golds, texts, strict=True)))
        mean, stderr = pass_at_1([v.correct for v in verdicts], samples)
        graded = verdict_statistics(verdicts)
        return {
            "pass_at_1": mean,
            "stderr": stderr,
            "num_problems": len(loaded.problems),
            "num_samples": samples,
            **response_statistics(responses, lengths, finished),
            "no_answer_share": graded["no_answer_share"],
            "timeouts": graded["timeouts"],
        }

    def _sample(self, loaded: LoadedSet, problems: Sequence[int], rows: range) -> Rollouts:
        stream = f"eval/{loaded.name}/{self.seed}"
        request = RolloutRequest(
            [loaded.prompt_ids[i] for i in problems],
            None,
            Draws.keyed(self.spec.seed, stream, 0, rows, self.max_new_tokens, coupled=False),
        )
        return self.engine.rollout(request, student_rollouts(len(rows)), Keep())


def as_metrics(scores: dict[str, dict[str, Any]]) -> dict[str, float]:
    """`eval/<set>/<name>` for metrics.jsonl, and the mean over sets."""
    metrics = {
        f"eval/{name}/{key}": value
        for name, entry in scores.items()
        for key, value in entry.items()
        if key not in ("num_problems", "num_samples")
    }
    mean = mean_score(scores)
    return metrics if mean is None else {**metrics, "eval/mean/pass_at_1": mean}


def mean_score(scores: dict[str, dict[str, Any]]) -> float | None:
    """Mean of pass@1 over sets; None without sets."""
    if not scores:
        return None
    return math.fsum(entry["pass_at_1"] for entry in scores.values()) / len(scores)
