"""The vocabulary that student and teacher share, and the one stop event.

Logit widths differ from the tokenizer's length (padding rows) and between sizes of a family; end-of-sequence ids
differ between base and chat models. Everything downstream works on the shared ids 0..V-1 with the stop mass of
each model on one coordinate (method, section 2, EOS).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trb_lab.errors import UsageError
from trb_lab.spec.experiment import Loss, TopKLoss
from trb_lab.spec.warmup import ArmSpec, SkdWarmup

MAX_MISMATCH_SHARE = 0.01
"""More ids than this with different tokens: the tokenizers are of different families."""


@dataclass(frozen=True)
class SharedVocabulary:
    """Ids are token ids of both tokenizers."""

    size: int
    """V: shared ids are 0..V-1."""
    stop_id: int
    """The student's end-of-sequence id: the coordinate of the shared stop event, and what is emitted for it."""
    stop_ids: tuple[int, ...]
    """Union of both models' stop ids."""
    masked_ids: tuple[int, ...]
    """Shared ids that never carry mass: other stop ids, and ids whose tokens differ between the tokenizers."""


def stop_ids_of(tokenizer: Any, generation_config: Any, config: Any) -> tuple[int, ...]:
    """A model's end-of-sequence ids, the primary one first (the tokenizer's, else the generation config's)."""
    found: list[int] = []
    for source in (
        tokenizer.eos_token_id,
        getattr(generation_config, "eos_token_id", None),
        getattr(config, "eos_token_id", None),
    ):
        for value in source if isinstance(source, list | tuple) else [source]:
            if value is not None and int(value) not in found:
                found.append(int(value))
    if not found:
        raise UsageError(
            "the model names no end-of-sequence id (tokenizer, generation_config.json, config.json)"
        )
    return tuple(found)


def share_vocabulary(
    student_tokenizer: Any,
    teacher_tokenizer: Any,
    student_stop_ids: tuple[int, ...],
    teacher_stop_ids: tuple[int, ...],
) -> SharedVocabulary:
    """Compare two tokenizers id by id. Raises UsageError where they are not of one family."""
    size = min(len(student_tokenizer), len(teacher_tokenizer))
    student_tokens = student_tokenizer.convert_ids_to_tokens(list(range(size)))
    teacher_tokens = teacher_tokenizer.convert_ids_to_tokens(list(range(size)))
    different = [i for i, (s, t) in enumerate(zip(student_tokens, teacher_tokens, strict=True)) if s != t]
    if len(different) > MAX_MISMATCH_SHARE * size:
        i = different[0]
        raise UsageError(
            f"student and teacher do not share a vocabulary: {len(different)} of {size} ids stand for different tokens "
            f"(id {i} is {student_tokens[i]!r} and {teacher_tokens[i]!r}). Choose models of one tokenizer family."
        )
    confused = [i for i in (*student_stop_ids, *teacher_stop_ids) if i in different]
    if confused:
        i = confused[0]
        raise UsageError(
            f"id {i} ends a response in one model and is another token in the other "
            f"({student_tokens[i]!r} and {teacher_tokens[i]!r}): their stop events cannot be merged."
        )
    stop_id = student_stop_ids[0]
    if stop_id >= size:
        raise UsageError(
            f"the student's end-of-sequence id {stop_id} is outside the {size} ids shared with the teacher"
        )
    union = tuple(dict.fromkeys(student_stop_ids + teacher_stop_ids))
    masked = sorted({i for i in different if i != stop_id} | {i for i in union if i != stop_id and i < size})
    return SharedVocabulary(size, stop_id, union, tuple(masked))


def check_support(loss: Loss, vocabulary: SharedVocabulary, warmup: ArmSpec) -> None:
    """Raises UsageError where the loss, or the SKD arm, wants more tokens than the models share."""
    wanted = {
        "loss.top_k": loss.top_k if isinstance(loss, TopKLoss) else 0,
        "warmup.top_k": warmup.top_k if isinstance(warmup, SkdWarmup) else 0,
    }
    for key, top_k in wanted.items():
        if top_k > vocabulary.size:
            raise UsageError(
                f"{key} is {top_k} and the models share {vocabulary.size} tokens: "
                f"lower it to at most {vocabulary.size}."
            )
