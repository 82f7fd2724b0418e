"""Model folders laid out as Qwen3's: its architecture, vocabulary size, special tokens, stop ids and chat template
layout, with random weights. A base student (stops at <|endoftext|>) and a chat teacher (stops at <|im_end|> too).
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from trb_lab.bench.random_pair import SHAPES, Shape

ORDINARY = 151_643
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCABULARY, LOGITS = 151_669, 151_936
"""Tokens of the tokenizer, and rows of the output head (the rest is padding)."""
ENDOFTEXT, IM_END = 151_643, 151_645

CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""


TINY_STUDENT = Shape("tiny", 16, 32, 1, 2, 1, 8, tied=True)
TINY_TEACHER = Shape("tiny", 24, 48, 2, 2, 1, 8, tied=True)
QWEN3_0P6B, QWEN3_4B = SHAPES["qwen3-0p6b-4b"].student, SHAPES["qwen3-0p6b-4b"].teacher


def qwen3_tokenizer(end: str) -> PreTrainedTokenizerFast:
    """Byte-level pieces for any text, fillers up to the real size, the special tokens at their real ids."""
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    fillers = [f"\u0120filler{i}" for i in range(ORDINARY - len(pieces))]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, *fillers])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    others = ["<think>", "</think>"]
    names = [*SPECIAL, *(f"<|special{i}|>" for i in range(VOCABULARY - ORDINARY - 5)), *others]
    tokenizer.add_tokens([AddedToken(name, special=name not in others, normalized=False) for name in names])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token="<|endoftext|>")
    fast.chat_template = CHAT_TEMPLATE
    assert len(fast) == VOCABULARY
    return fast


def write_model(folder: Path, shape: Shape, *, chat: bool, seed: int, device: str = "cpu") -> Path:
    """A model folder in transformers format, bfloat16."""
    stops = [IM_END, ENDOFTEXT] if chat else [ENDOFTEXT]
    config = Qwen3Config(
        vocab_size=LOGITS,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=32_768,
        eos_token_id=stops[0],
    )
    torch.manual_seed(seed)
    with torch.device(device):
        network = Qwen3ForCausalLM(config).to(torch.bfloat16)
    with torch.no_grad():  # sharper than at initialisation, where every token is as likely as any other
        network.model.norm.weight.mul_(4.0)
    network.generation_config = GenerationConfig(eos_token_id=stops)
    network.save_pretrained(folder)
    qwen3_tokenizer("<|im_end|>" if chat else "<|endoftext|>").save_pretrained(folder)
    return folder


def write_pair(
    folder: Path, student: Shape = TINY_STUDENT, teacher: Shape = TINY_TEACHER, device: str = "cpu"
) -> tuple[Path, Path]:
    return (
        write_model(folder / "student", student, chat=False, seed=0, device=device),
        write_model(folder / "teacher", teacher, chat=True, seed=1, device=device),
    )
