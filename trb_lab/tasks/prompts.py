"""Problems -> prompt token ids, by each model's own chat template or as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trb_lab.errors import UsageError
from trb_lab.spec.experiment import ModelSpec, PromptSpec

from .problem import Problem

BATCH = 1024
"""Texts tokenised at once."""


@dataclass(frozen=True)
class EncodedPrompts:
    """Problems that fit, and their prompt ids in each model."""

    problems: list[Problem]
    token_ids: list[list[list[int]]]
    """[model][problem][token], the models in the order given."""
    num_dropped: int
    """Problems left out because their prompt was too long in one of the models."""


def encode_prompts(
    problems: Sequence[Problem],
    models: Sequence[tuple[Any, ModelSpec]],
    prompt_spec: PromptSpec,
    max_prompt_tokens: int,
    *,
    source: str = "dataset",
) -> EncodedPrompts:
    """Write every problem as a prompt of every model; drop those over `max_prompt_tokens` in any of them.

    Args:
        models: (tokenizer, spec) of each model: student and teacher, or the one that is evaluated.
        source: key path of the data set, for the error message.

    Raises:
        UsageError: no prompt is short enough, or a template cannot be used.
    """
    ids_by_model = [
        _token_ids(tokenizer, spec, [render_text(tokenizer, spec, prompt_spec, p.prompt) for p in problems])
        for tokenizer, spec in models
    ]
    longest = [max(map(len, lengths)) for lengths in zip(*ids_by_model, strict=True)]
    kept = [i for i, length in enumerate(longest) if length <= max_prompt_tokens]
    if not kept:
        raise UsageError(
            f"{source}: none of its {len(problems)} prompts fits into rollout.max_prompt_tokens = "
            f"{max_prompt_tokens} tokens; the shortest takes {min(longest, default=0)}. "
            "Raise the limit, or shorten prompt.system."
        )
    return EncodedPrompts(
        [problems[i] for i in kept],
        [[ids[i] for i in kept] for ids in ids_by_model],
        len(problems) - len(kept),
    )


def render(tokenizer: Any, model_spec: ModelSpec, prompt_spec: PromptSpec, problem_text: str) -> list[int]:
    """Prompt token ids of one problem, ready for the response to follow. Errors as in `encode_prompts`."""
    return _token_ids(tokenizer, model_spec, [render_text(tokenizer, model_spec, prompt_spec, problem_text)])[
        0
    ]


def uses_chat(tokenizer: Any, model_spec: ModelSpec) -> bool:
    """Whether prompts go through the chat template. Raises UsageError where they must and cannot."""
    if model_spec.template == "chat" and not tokenizer.chat_template:
        raise UsageError(
            f"model '{model_spec.name}' has no chat template, and its template setting is 'chat'. "
            "Write template: plain (or auto), or save a chat_template in its tokenizer folder."
        )
    return model_spec.template != "plain" and bool(tokenizer.chat_template)


def render_text(tokenizer: Any, model_spec: ModelSpec, prompt_spec: PromptSpec, problem_text: str) -> str:
    """The prompt as text, special tokens of the chat template included."""
    if not uses_chat(tokenizer, model_spec):
        if "{prompt}" not in prompt_spec.plain:
            raise UsageError(
                f"prompt.plain needs {{prompt}}, where the problem goes; got {prompt_spec.plain!r}."
            )
        system = f"{prompt_spec.system}\n\n" if prompt_spec.system else ""
        return system + prompt_spec.plain.replace("{prompt}", problem_text)
    messages = [{"role": "system", "content": prompt_spec.system}] if prompt_spec.system else []
    messages.append({"role": "user", "content": problem_text})
    knows_thinking = "enable_thinking" in str(tokenizer.chat_template)
    options = {"enable_thinking": model_spec.thinking} if knows_thinking else {}
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
    except (TemplateError, ValueError) as error:
        raise UsageError(
            f"the chat template of model '{model_spec.name}' refuses the prompt: {error}. Some templates "
            "take no system message: leave prompt.system out, or write template: plain."
        ) from None


def _token_ids(tokenizer: Any, model_spec: ModelSpec, texts: list[str]) -> list[list[int]]:
    """Token ids of prompt texts; chat templates write the special tokens, plain text gets the tokenizer's."""
    add_special = not uses_chat(tokenizer, model_spec)
    ids = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(
            texts[start : start + BATCH],
            add_special_tokens=add_special,
            return_attention_mask=False,
            verbose=False,  # prompts over the limit are counted by us
        )
        ids += batch["input_ids"]
    return [_clean_ends(tokenizer, prompt, text) for prompt, text in zip(ids, texts, strict=True)]


def _clean_ends(tokenizer: Any, ids: list[int], text: str) -> list[int]:
    """One BOS at most, and no EOS that only the tokenizer put at the end: the response is yet to come."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        ids = ids[1:]
    if eos is not None and len(ids) > 1 and ids[-1] == eos and not text.endswith(tokenizer.eos_token):
        ids = ids[:-1]
    return list(ids)
