"""Scores from n samples a problem at temperature 1, on several evaluation sets; docs/evaluation.md is the protocol."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trb_lab.errors import UsageError
from trb_lab.models.load import LanguageModel
from trb_lab.policy.behaviors import student_rollouts
from trb_lab.rollout.engine import Draws, Keep, RolloutEngine, RolloutRequest, Rollouts
from trb_lab.spec.dataset import EvalSet
from trb_lab.spec.experiment import EvalSpec, PromptSpec
from trb_lab.store.items import UNTRAINED, write_items
from trb_lab.store.run_dir import RunDir
from trb_lab.tasks.datasets import load_problems
from trb_lab.tasks.grading import Grader, Verdict, check_golds
from trb_lab.tasks.problem import Problem
from trb_lab.tasks.prompts import encode_prompts
from trb_lab.tasks.responses import ends_in_loop, response_statistics, verdict_statistics
from trb_lab.worker import Interrupted, StopFlag, Stopped

from .scores import Sample, at_k, pass_at_1

ROWS_AT_ONCE = 1024
"""Responses asked of the engine at once, so that a large set with many samples does not exist whole."""


COUNTS = ("num_problems", "num_dropped", "num_samples")
"""What of a set's entry is the same at every evaluation: result.json has it, metrics.jsonl has not."""


@dataclass(frozen=True)
class LoadedSet:
    """One evaluation set as the evaluated model sees it."""

    name: str
    problems: list[Problem]
    prompt_ids: list[list[int]]
    num_dropped: int
    """Problems whose prompt was too long."""
    samples: int
    """Samples of each problem."""
    at_k: list[int]
    """k of pass@k, mean@k and maj@k: those above one."""

    def counts(self) -> dict[str, int]:
        """COUNTS of the set, for its entry in result.json."""
        return dict(zip(COUNTS, (len(self.problems), self.num_dropped, self.samples), strict=True))


@dataclass
class _Graded:
    """What is kept of the responses to one set, problem by problem: their tokens would not fit at the paper's size."""

    verdicts: list[Verdict] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    """With the stop token."""
    finished: list[bool] = field(default_factory=list)
    loops: list[bool] = field(default_factory=list)


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
        # Item scores are compared by problem, so two problems of one name would be taken for one.
        assert len({problem.id for problem in problems}) == len(problems), source
        samples = eval_set.samples or self.spec.samples
        ks = [samples] if self.spec.at_k is None else sorted(set(self.spec.at_k))
        return LoadedSet(
            eval_set.name,
            encoded.problems,
            encoded.token_ids[0],
            encoded.num_dropped,
            samples,
            [k for k in ks if k > 1],
        )

    def evaluate(
        self,
        step: int = UNTRAINED,
        *,
        run_dir: RunDir | None = None,
        stop: StopFlag | None = None,
        fence: Callable[[], None] = lambda: None,
    ) -> dict[str, dict[str, Any]]:
        """Scores of every set, by name; see docs/files.md for the entries.

        With a run directory the item scores are written there, as those of `step`, each time after a call of `fence`.
        Raises Stopped, also in the middle of a rollout, when `stop` is raised.
        """
        stop = stop or StopFlag()
        return {loaded.name: self._evaluate_set(loaded, step, run_dir, stop, fence) for loaded in self.sets}

    def _evaluate_set(
        self,
        loaded: LoadedSet,
        step: int,
        run_dir: RunDir | None,
        stop: StopFlag,
        fence: Callable[[], None],
    ) -> dict[str, Any]:
        n = loaded.samples
        graded = self._respond(loaded, stop)
        if run_dir is not None:
            fence()
            write_items(run_dir, step, loaded.name, _item_rows(loaded, graded))
        samples = [Sample(v.correct, self.grader.vote(v)) for v in graded.verdicts]
        problems = [samples[i : i + n] for i in range(0, len(samples), n)]
        mean, stderr = pass_at_1(problems)
        entry: dict[str, Any] = {"pass_at_1": mean, "stderr": stderr}
        for k in loaded.at_k:
            entry.update(at_k(problems, k))
        shares = verdict_statistics(graded.verdicts)
        del shares["correct_share"]  # pass@1
        return {
            **entry,
            **loaded.counts(),
            **response_statistics(graded.lengths, graded.finished, graded.loops),
            **shares,
        }

    def _respond(self, loaded: LoadedSet, stop: StopFlag) -> _Graded:
        problems = [i for i in range(len(loaded.problems)) for _ in range(loaded.samples)]
        graded = _Graded()
        again = f"stopped while evaluating {loaded.name}; the same command evaluates again"
        for start in range(0, len(problems), ROWS_AT_ONCE):
            rows = range(start, min(start + ROWS_AT_ONCE, len(problems)))
            try:
                with stop.interruptible():
                    part = self._sample(loaded, [problems[row] for row in rows], rows)
            except Interrupted:
                raise Stopped(again) from None
            responses = part.responses()
            texts = self.model.tokenizer.batch_decode(responses, skip_special_tokens=True)
            golds = [str(loaded.problems[problems[row]].answer) for row in rows]
            verdicts = self.grader.grade(list(zip(golds, texts, strict=True)))
            if stop():  # a cluster signals every process of a job: one that graded may have ended of it
                raise Stopped(again)
            graded.verdicts += verdicts
            graded.lengths += part.lengths_B.tolist()
            graded.finished += part.finished_B.tolist()
            graded.loops += map(ends_in_loop, responses)
        return graded

    def _sample(self, loaded: LoadedSet, problems: Sequence[int], rows: range) -> Rollouts:
        stream = f"eval/{loaded.name}/{self.seed}"
        request = RolloutRequest(
            [loaded.prompt_ids[i] for i in problems],
            None,
            Draws.keyed(self.spec.seed, stream, 0, rows, self.max_new_tokens, coupled=False),
        )
        return self.engine.rollout(request, student_rollouts(len(rows)), Keep())


def _item_rows(loaded: LoadedSet, graded: _Graded) -> list[dict[str, Any]]:
    """Rows of items.parquet."""
    return [
        {
            "problem": loaded.problems[i // loaded.samples].id,
            "sample": i % loaded.samples,
            "correct": verdict.correct,
            "reason": verdict.reason,
            "answer": verdict.answer,
            "tokens": graded.lengths[i],
            "finished": graded.finished[i],
        }
        for i, verdict in enumerate(graded.verdicts)
    ]


def as_metrics(scores: dict[str, dict[str, Any]]) -> dict[str, float]:
    """`eval/<set>/<name>` for metrics.jsonl, and the mean over sets."""
    metrics = {
        f"eval/{name}/{key}": value
        for name, entry in scores.items()
        for key, value in entry.items()
        if key not in COUNTS
    }
    mean = mean_score(scores)
    return metrics if mean is None else {**metrics, "eval/mean/pass_at_1": mean}


def mean_score(scores: dict[str, dict[str, Any]]) -> float | None:
    """Mean of pass@1 over sets; None without sets."""
    if not scores:
        return None
    return math.fsum(entry["pass_at_1"] for entry in scores.values()) / len(scores)
