r"""The tokenizers of the bundled pair: one vocabulary, two prompt formats, two end tokens.

As with Qwen3 Base and its chat models, student and teacher share every token id but end a response with
different ones, and only the teacher has a chat template. Numbers 0..99 are one token each, the words are
those of the student's digressions and of chat formats, and anything else falls back to letters.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

STUDENT_EOS = "<|endoftext|>"
TEACHER_EOS = "<|im_end|>"
PAD = "<|pad|>"
UNKNOWN = "<|unk|>"
SPECIAL_TOKENS = (STUDENT_EOS, "<|im_start|>", TEACHER_EOS, PAD, UNKNOWN)

SYMBOLS = ("\n", " ", "+", "-", "*", "(", ")", "=", "\\boxed{", "}", ".", ",", "?", "!", ":")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
ROLES = ("system", "user", "assistant")
WORDS = (
    " hmm", " wait", " so", " ok", " well", " let", " me", " see", " i", " think", " maybe", " no", " yes",
    " the", " number", " sum", " is", " not", " was", " of", " and", " again", " check", " what", " that",
    " then", " next", " step",
)  # fmt: skip

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML as Qwen3 writes it. `enable_thinking` changes nothing: the pair has no thinking mode."""


def vocabulary() -> dict[str, int]:
    """Token -> id: special tokens first, then numbers, symbols, roles, words, letters."""
    numbers = tuple(str(n) for n in range(100))
    tokens = (*SPECIAL_TOKENS, *numbers, *SYMBOLS, *ROLES, *WORDS, *LETTERS)
    return {token: index for index, token in enumerate(tokens)}


def build_tokenizer(*, chat: bool) -> PreTrainedTokenizerFast:
    """The teacher's tokenizer (`chat`) or the student's; only end token and chat template differ."""
    core = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNKNOWN))
    core.normalizer = normalizers.Lowercase()
    words = "|".join(word.strip() for word in WORDS)
    # A leading zero is a token of its own, so that "07" survives a round trip as "0", "7".
    pieces = Regex(rf"\\boxed\{{|0(?=\d)|\d{{1,2}}| (?:{words})\b|(?:{'|'.join(ROLES)})\b|\n|.")
    core.pre_tokenizer = pre_tokenizers.Split(pieces, behavior="isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=TEACHER_EOS if chat else STUDENT_EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=["<|im_start|>", STUDENT_EOS if chat else TEACHER_EOS],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=256,
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
