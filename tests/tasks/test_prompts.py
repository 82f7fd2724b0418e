from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from trb_lab.errors import UsageError
from trb_lab.spec.experiment import ModelSpec, PromptSpec
from trb_lab.tasks.problem import Problem
from trb_lab.tasks.prompts import encode_prompts, render

SPECIAL = ["<s>", "</s>", "<u>", "<a>", "<y>"]
CHAT = (
    "<s>{% for m in messages %}{{ {'system': '<y>', 'user': '<u>'}[m.role] + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
THINKING = CHAT + "{% if not enable_thinking %}no think{% endif %}"


def tokenizer(chat_template: str | None = None, affixes: str = "<s> $A") -> Any:
    """One token a character, the special ones whole; `affixes` is what it puts around plain text."""
    characters = [chr(c) for c in range(32, 127)] + ["\n"]
    vocabulary = {token: i for i, token in enumerate(SPECIAL + characters)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    core.post_processor = processors.TemplateProcessing(
        single=affixes, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", additional_special_tokens=SPECIAL[2:]
    )
    made.chat_template = chat_template
    return made


def text_of(tokens: Any, spec: dict, prompt: PromptSpec, problem: str = "1+1") -> str:
    return tokens.decode(render(tokens, ModelSpec(name="m", **spec), prompt, problem))


STEP_BY_STEP = PromptSpec(system="box it", plain="Q: {prompt}\nA: ")


def test_chat_writes_system_and_user_and_one_bos() -> None:
    assert text_of(tokenizer(CHAT), {}, STEP_BY_STEP) == "<s><y>box it<u>1+1<a>"
    assert text_of(tokenizer(CHAT), {"template": "chat"}, PromptSpec()) == "<s><u>1+1<a>"


def test_plain_puts_the_system_prompt_first_and_one_bos() -> None:
    assert text_of(tokenizer(), {}, STEP_BY_STEP) == "<s>box it\n\nQ: 1+1\nA: "
    assert text_of(tokenizer(CHAT), {"template": "plain"}, PromptSpec()) == "<s>1+1\n"
    assert text_of(tokenizer(), {}, PromptSpec(plain="<s>{prompt}")) == "<s>1+1"


def test_braces_in_problems_are_text() -> None:
    assert (
        text_of(tokenizer(affixes="$A"), {}, PromptSpec(), "\\frac{1}{n} {prompt}")
        == "\\frac{1}{n} {prompt}\n"
    )


def test_an_end_token_that_the_tokenizer_appends_is_taken_off() -> None:
    assert text_of(tokenizer(affixes="<s> $A </s>"), {}, PromptSpec(plain="{prompt}")) == "<s>1+1"


@pytest.mark.parametrize(("thinking", "end"), [(True, "<a>"), (False, "<a>no think")])
def test_thinking_mode_reaches_templates_that_know_it(thinking: bool, end: str) -> None:
    assert text_of(tokenizer(THINKING), {"thinking": thinking}, PromptSpec()).endswith(end)


def test_chat_without_a_template_says_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"'m' has no chat template.*template: plain"):
        text_of(tokenizer(), {"template": "chat"}, PromptSpec())


def test_a_template_that_refuses_says_what_to_do() -> None:
    refusing = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    )
    with pytest.raises(UsageError, match=r"System role not supported.*leave prompt.system out"):
        text_of(tokenizer(refusing), {}, STEP_BY_STEP)


def test_plain_layout_without_a_place_for_the_problem_is_refused() -> None:
    with pytest.raises(UsageError, match=r"needs \{prompt\}"):
        text_of(tokenizer(), {}, PromptSpec(plain="Solve."))


def test_prompts_too_long_in_either_model_are_dropped_and_counted() -> None:
    problems = [Problem("9" * n, "1", f"p{n}") for n in (1, 5, 6, 3)]
    student, teacher = (tokenizer(), ModelSpec(name="s")), (tokenizer(CHAT), ModelSpec(name="t"))
    encoded = encode_prompts(problems, [student, teacher], PromptSpec(), max_prompt_tokens=8)
    assert [p.id for p in encoded.problems] == ["p1", "p5", "p3"]  # six digits are 8 tokens here, 9 there
    assert encoded.num_dropped == 1
    for (tokens, spec), ids in zip([student, teacher], encoded.token_ids, strict=True):
        assert ids == [render(tokens, spec, PromptSpec(), p.prompt) for p in encoded.problems]
    alone = encode_prompts(problems, [student], PromptSpec(), max_prompt_tokens=8)
    assert alone.num_dropped == 0


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(
        UsageError, match=r"eval: none of its 1 prompts fits .* = 4 tokens; the shortest takes 8"
    ):
        encode_prompts(
            [Problem("9" * 6, "1", "p")], [(tokenizer(), ModelSpec(name="s"))], PromptSpec(), 4, source="eval"
        )
