"""What can be known of a run's data: sizes, pins, answers, and evaluation problems that are trained on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from trb_lab.spec import ExperimentSpec
from trb_lab.spec.dataset import Dataset, EvalSet, HubDataset
from trb_lab.spec.experiment import ModelSpec
from trb_lab.tasks.datasets import load_counted
from trb_lab.tasks.grading import Grader, check_golds
from trb_lab.tasks.hub_files import NotAtHand, locate
from trb_lab.tasks.overlap import RUN, Overlap, TrainingText
from trb_lab.tasks.problem import LoadedProblems, Problem
from trb_lab.tasks.prompts import encode_prompts

from .findings import Findings

_COMMIT = re.compile(r"[0-9a-f]{40}")


def check_training_data(spec: ExperimentSpec, findings: Findings, grader: Grader) -> list[Problem] | None:
    """Size and reference answers of the training set. None where it could not be read."""
    with findings.guard("dataset"):
        loaded = _load(spec.dataset, "dataset", "dataset", findings)
        if loaded is None:
            return None
        problems = loaded.problems
        if not problems:
            findings.fail("dataset", "holds no problems.")
            return problems
        epochs = spec.steps * spec.rollout.prompts_per_step / len(problems)
        answered = sum(p.answer is not None for p in problems)
        used = f"{spec.steps} steps x {spec.rollout.prompts_per_step} prompts = {epochs:.2g} epochs"
        text = f"{_size(loaded)}; {used}"
        if answered == len(problems):
            findings.ok("dataset", text)
        else:
            unanswered = len(problems) - answered
            findings.warn("dataset", f"{text}; {unanswered} without an answer: they give no reward.")
        check_golds(problems, grader)
        return problems
    return None


@dataclass(frozen=True)
class SetChecks:
    """Checks of evaluation sets: size, reference answers that parse, prompts that fit, no problem trained on."""

    spec: ExperimentSpec
    training: list[Problem] | None
    """Problems of the training set; None where they could not be read."""
    student: tuple[Any, ModelSpec] | None
    """Tokenizer and spec of the student; None where it could not be read."""
    findings: Findings
    grader: Grader

    def check(self) -> None:
        """A line for each set."""
        if not self.spec.eval.sets:
            self.findings.warn(
                "eval.sets", "none: the run is not evaluated. Add sets, for example arith/hard."
            )
        for i, entry in enumerate(self.spec.eval.sets):
            subject = f"eval.sets[{i}] {entry.name}"
            with self.findings.guard(subject):
                self._check(entry, f"eval.sets[{i}].dataset", subject)

    def _check(self, entry: EvalSet, source: str, subject: str) -> None:
        loaded = _load(entry.dataset, source, subject, self.findings)
        if loaded is None:
            return
        problems = loaded.problems
        unanswered = sum(p.answer is None for p in problems)
        if unanswered:
            self.findings.fail(
                subject, f"{unanswered} of {len(problems)} problems have no answer to grade against."
            )
            return
        check_golds(problems, self.grader, source=source)
        samples = entry.samples or self.spec.eval.samples
        text = f"{_size(loaded)} x {samples} samples"
        if self.grader.kind.golds_are_answers:
            text += ", all reference answers parse"
        if self.training is None:
            text += "; not compared with the training prompts, which could not be read"
        concerns = [*self._too_long(problems, source), *self._trained_on(problems)]
        if concerns:
            self.findings.warn(subject, "\n".join([f"{text}; {concerns[0]}", *concerns[1:]]))
        else:
            self.findings.ok(subject, text)

    def _too_long(self, problems: list[Problem], source: str) -> list[str]:
        if self.student is None:
            return []
        limit = self.spec.rollout.max_prompt_tokens
        encoded = encode_prompts(problems, [self.student], self.spec.prompt, limit, source=source)
        if not encoded.num_dropped:
            return []
        return [
            f"{encoded.num_dropped} of them are longer than rollout.max_prompt_tokens = {limit} and are dropped. "
            "Raise it where they matter."
        ]

    def _trained_on(self, problems: list[Problem]) -> list[str]:
        if not self.training:
            return []
        shared = _overlaps(tuple(p.prompt for p in self.training), tuple(p.prompt for p in problems))
        if not shared:
            return []
        first = shared[0]
        return [
            f"{len(shared)} of them share a passage with a training prompt ({RUN} words in a row, common "
            "instructions aside, or the whole text of a shorter problem). Take another split or seed, or leave "
            "them out.",
            f"For example {problems[first.problem].id} in training prompt {self.training[first.prompt].id}: "
            f"{first.passage!r:.120}",
        ]


def _load(dataset: Dataset, source: str, subject: str, findings: Findings) -> LoadedProblems | None:
    """The problems; None, with a line that says why, where a hub set is not on this machine."""
    try:
        loaded = load_counted(dataset, source=source)
    except NotAtHand as error:
        findings.warn(subject, f"could not check: {str(error).removeprefix(f'{source}: ')}")
        return None
    if isinstance(dataset, HubDataset):
        _check_pin(dataset, source, subject, findings)
    return loaded


def _check_pin(dataset: HubDataset, source: str, subject: str, findings: Findings) -> None:
    """A hub set that names no commit may be another one tomorrow. Folders are known by their content."""
    found = locate(dataset, source)
    if found is None or found.commit is None or _COMMIT.fullmatch(dataset.revision or ""):
        return
    findings.warn(
        subject,
        f"'{dataset.id}' is not pinned: its owner can change it. Here lies commit {found.commit}; "
        f"write revision: {found.commit}",
    )


def _size(loaded: LoadedProblems) -> str:
    left_out = "".join(f", {number} left out ({reason})" for reason, number in loaded.left_out.items())
    return f"{len(loaded.problems)} problems{left_out}"


@lru_cache(maxsize=2)
def _training_text(prompts: tuple[str, ...]) -> TrainingText:
    return TrainingText(prompts)


@lru_cache(maxsize=64)
def _overlaps(prompts: tuple[str, ...], problems: tuple[str, ...]) -> tuple[Overlap, ...]:
    """Trials of a sweep share their data: each pair of sets is compared once."""
    return tuple(_training_text(prompts).overlaps(problems))
