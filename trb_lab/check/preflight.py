"""What can be known of an experiment before it runs. Nothing is trained and no weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from trb_lab.models import catalog
from trb_lab.models.vocabulary import SharedVocabulary, check_support, share_vocabulary, stop_ids_of
from trb_lab.spec import ExperimentSpec
from trb_lab.spec.experiment import ModelSpec
from trb_lab.spec.warmup import ARM_SPECS
from trb_lab.tasks.grading import Grader
from trb_lab.tasks.problem import Problem

from .data import SetChecks, check_training_data
from .findings import Findings
from .memory import ModelSize, check_memory, model_size

SAMPLED_PROMPTS = 256
"""Prompts of a data set that are tokenised to see how long they are."""


@dataclass
class _Model:
    """A model's files, as far as they can be read without its weights."""

    role: str
    spec: ModelSpec
    path: Path
    tokenizer: Any
    size: ModelSize
    stop_ids: tuple[int, ...]


def preflight(spec: ExperimentSpec, findings: Findings, arms: Sequence[ExperimentSpec] = ()) -> None:
    """Check models, vocabulary, stop ids, arms, prompts, data, reference answers and memory, in this order.

    `arms`: the specs whose arms and losses are looked at, with the same models; this one alone by default.
    """
    student = _model("student", spec.student, findings)
    teacher = _model("teacher", spec.teacher, findings)
    vocabulary = None
    if student and teacher:
        with findings.guard("vocabulary"):
            vocabulary = _check_vocabulary(student, teacher, findings)
    if student and teacher and vocabulary:
        _check_stops(student, teacher, vocabulary, findings)
    for other in arms or (spec,):
        with findings.guard(f"arm {other.warmup.kind}"):
            _check_arm(other, vocabulary)
    with (
        findings.guard("grader"),
        Grader(1, spec.resources.grading_timeout_seconds, name=spec.grader) as grader,
    ):
        problems = check_training_data(spec, findings, grader)
        models = [m for m in (student, teacher) if m]
        if problems and models:
            with findings.guard("prompt"):
                _check_prompts(spec, models, problems, findings)
        seen_by = (student.tokenizer, student.spec) if student else None
        SetChecks(spec, problems, seen_by, findings, grader).check()
    if student and teacher:
        with findings.guard("memory"):
            check_memory(spec, student.size, teacher.size, vocabulary.size if vocabulary else None, findings)


def _model(role: str, spec: ModelSpec, findings: Findings) -> _Model | None:
    """Reads a model's files. None, with a line that says why, when they cannot be checked."""
    with findings.guard(role):
        path = catalog.locate(spec)
        if path is None:
            findings.warn(
                role,
                f"could not check: '{spec.name}' is not on this machine. {catalog.how_to_get(spec.name)}",
            )
            return None
        config = _read_json(path / "config.json")
        size = model_size(path, config)
        from trb_lab.models.load import load_tokenizer

        tokenizer = load_tokenizer(catalog.ResolvedModel(spec, path))
        generation = SimpleNamespace(**_read_json(path / "generation_config.json", optional=True))
        stops = stop_ids_of(tokenizer, generation, SimpleNamespace(**config))
        if size.parameters is None:
            findings.fail(
                role, f"no weights (*.safetensors) in {path}. Save the model in transformers format."
            )
        else:
            kind = (config.get("architectures") or [config.get("model_type", "?")])[0]
            findings.ok(role, f"{spec.name}: {kind}, {_count(size.parameters)} parameters, {path}")
        return _Model(role, spec, path, tokenizer, size, stops)
    return None


def _check_arm(spec: ExperimentSpec, vocabulary: SharedVocabulary | None) -> None:
    """Raises UsageError for an arm or a loss that cannot work with these models."""
    if vocabulary:
        check_support(spec.loss, vocabulary, spec.warmup)
    if type(spec.warmup) not in ARM_SPECS:
        from trb_lab.policy.arms import arm_function

        arm_function(spec.warmup.kind)


def _read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    if optional and not path.exists():
        return {}
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _count(number: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _check_vocabulary(student: _Model, teacher: _Model, findings: Findings) -> SharedVocabulary:
    vocabulary = share_vocabulary(student.tokenizer, teacher.tokenizer, student.stop_ids, teacher.stop_ids)
    for model in (student, teacher):
        if model.size.logit_width < vocabulary.size:
            findings.fail(
                "vocabulary",
                f"{model.role} gives {model.size.logit_width} logits for {vocabulary.size} shared tokens: "
                "its tokenizer is not the one that it was trained with.",
            )
            return vocabulary
    padding = ", ".join(
        f"{m.role} {m.size.logit_width} logits ({m.size.logit_width - vocabulary.size} unused)"
        for m in (student, teacher)
    )
    masked = len(vocabulary.masked_ids)
    findings.ok("vocabulary", f"{vocabulary.size} shared tokens; {padding}; {masked} masked")
    return vocabulary


def _check_stops(student: _Model, teacher: _Model, vocabulary: SharedVocabulary, findings: Findings) -> None:
    def names(model: _Model) -> str:
        return ", ".join(f"{i} {model.tokenizer.convert_ids_to_tokens(i)!r}" for i in model.stop_ids)

    same = set(student.stop_ids) == set(teacher.stop_ids)
    merged = "the same in both" if same else f"merged into one stop event, written as {vocabulary.stop_id}"
    findings.ok("stop ids", f"student {names(student)}; teacher {names(teacher)}; {merged}")


def _check_prompts(
    spec: ExperimentSpec, models: list[_Model], problems: list[Problem], findings: Findings
) -> None:
    """Renders the first problem for each model, and sees how many of a sample are too long."""
    from trb_lab.tasks.prompts import encode_prompts, render_text, uses_chat

    stride = max(1, len(problems) // SAMPLED_PROMPTS)
    sample = problems[::stride][:SAMPLED_PROMPTS]
    pairs = [(m.tokenizer, m.spec) for m in models]
    encoded = encode_prompts(sample, pairs, spec.prompt, spec.rollout.max_prompt_tokens)
    for model, ids in zip(models, encoded.token_ids, strict=True):
        text = render_text(model.tokenizer, model.spec, spec.prompt, problems[0].prompt)
        way = "chat template" if uses_chat(model.tokenizer, model.spec) else "plain text"
        unknown = model.tokenizer.unk_token_id
        longest = max(len(row) for row in ids)
        summary = f"{way}, up to {longest} tokens: {_shortened(text)}"
        if unknown is not None and any(unknown in row for row in ids):
            findings.warn(
                f"prompt ({model.role})", f"{summary}\nsome characters are unknown to the tokenizer."
            )
        else:
            findings.ok(f"prompt ({model.role})", summary)
    if encoded.num_dropped:
        findings.warn(
            "prompt",
            f"{encoded.num_dropped} of {len(sample)} sampled prompts are longer than "
            f"rollout.max_prompt_tokens = {spec.rollout.max_prompt_tokens} and would be dropped. "
            "Raise it where they matter.",
        )
    longest = spec.rollout.max_prompt_tokens + max(spec.rollout.max_new_tokens, spec.eval.max_new_tokens or 0)
    for model in models:
        if model.size.max_context is not None and longest > model.size.max_context:
            findings.warn(
                f"prompt ({model.role})",
                f"prompt and response may take {longest} tokens, and the model is made for "
                f"{model.size.max_context}. Lower rollout.max_prompt_tokens or max_new_tokens.",
            )
    chats = [
        m
        for m in models
        if uses_chat(m.tokenizer, m.spec) and "enable_thinking" in str(m.tokenizer.chat_template)
    ]
    if len({m.spec.thinking for m in chats}) > 1:
        findings.warn(
            "prompt", "student and teacher differ in thinking mode. Set `thinking` the same for both."
        )


def _shortened(text: str, limit: int = 120) -> str:
    shown = json.dumps(text, ensure_ascii=False)
    return shown if len(shown) <= limit else f"{shown[: limit // 2]} ... {shown[-limit // 2 :]}"
