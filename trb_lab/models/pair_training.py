"""Training and measuring one model of the bundled pair. Suffixes: B sequences, T tokens."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from trb_lab.tasks.answers import extract_boxed
from trb_lab.tasks.arith import ArithProblem

from .pair_corpus import ENDLESS

CONTEXT_TOKENS = 256
IGNORE = -100
Progress = Callable[[str], None]
Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class ModelShape:
    """Size of one model. `logit_width` exceeds the tokenizer's length, as padded vocabularies do."""

    logit_width: int
    hidden: int = 64
    layers: int = 2
    intermediate: int = 128
    heads: int = 4
    kv_heads: int = 2


@dataclass(frozen=True)
class TrainSettings:
    """From-scratch training: AdamW, linear warmup, cosine decay to `final_lr_share` of `lr`."""

    steps: int
    batch: int = 32
    lr: float = 3e-3
    lr_warmup_steps: int = 50
    final_lr_share: float = 0.02
    weight_decay: float = 0.01
    max_response_tokens: int = 64
    seed: int = 0


def build_model(shape: ModelShape, tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """A randomly initialised Qwen3 model with tied embeddings; global random state is left as it was."""
    config = Qwen3Config(
        vocab_size=shape.logit_width,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.hidden // shape.heads,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def train(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: Iterator[tuple[str, str]],
    settings: TrainSettings,
    progress: Progress,
) -> None:
    """Next-token cross-entropy on the responses, in place. Each text is read once."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    started = time.perf_counter()
    model.train()
    for step, (ids_BT, labels_BT) in enumerate(_batches(tokenizer, texts, settings, model.device)):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(settings, step)
        logits = model(input_ids=ids_BT, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=IGNORE)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == settings.steps - 1:
            seconds = time.perf_counter() - started
            progress(
                f"  step {step + 1}/{settings.steps}  loss {loss.item():.4f} nats a token  {seconds:.0f} s"
            )
    model.eval()


def _learning_rate(settings: TrainSettings, step: int) -> float:
    warm = min(1.0, (step + 1) / settings.lr_warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return settings.lr * warm * (settings.final_lr_share + (1 - settings.final_lr_share) * cosine)


def _batches(
    tokenizer: PreTrainedTokenizerFast,
    texts: Iterator[tuple[str, str]],
    settings: TrainSettings,
    device: torch.device,
) -> Iterator[Batch]:
    """(ids [B, T], labels [B, T]) for each step. Texts of similar length share a batch: less padding."""
    generator = torch.Generator().manual_seed(settings.seed)
    for first in range(0, settings.steps, 20):
        num_batches = min(20, settings.steps - first)
        chunk = islice(texts, num_batches * settings.batch)
        rows = [_encode(tokenizer, *text, settings.max_response_tokens) for text in chunk]
        rows.sort(key=lambda row: len(row[0]))
        for index in torch.randperm(num_batches, generator=generator).tolist():
            yield _pad(
                rows[index * settings.batch : (index + 1) * settings.batch], tokenizer.pad_token_id, device
            )


def _encode(
    tokenizer: PreTrainedTokenizerFast, prompt: str, response: str, max_response_tokens: int
) -> tuple[list[int], int]:
    """(ids of prompt and response, length of the prompt). An endless response fills its allowance."""
    prompt_ids = tokenizer(prompt)["input_ids"]
    response_ids = tokenizer(response.removesuffix(ENDLESS), verbose=False)["input_ids"]
    return prompt_ids + response_ids[:max_response_tokens], len(prompt_ids)


def _pad(rows: list[tuple[list[int], int]], pad_id: int, device: torch.device) -> Batch:
    """(ids, labels), padded on the right; labels hold the response alone."""
    width = max(len(ids) for ids, _ in rows)
    ids_BT = torch.tensor([ids + [pad_id] * (width - len(ids)) for ids, _ in rows])
    labels_BT = torch.tensor(
        [[IGNORE] * start + ids[start:] + [IGNORE] * (width - len(ids)) for ids, start in rows]
    )
    return ids_BT.to(device), labels_BT.to(device)


@torch.no_grad()
def sample(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: list[str],
    *,
    max_new_tokens: int,
    seed: int,
) -> list[str]:
    """One response to each problem, drawn at temperature 1 without truncation. Special tokens are dropped."""
    if tokenizer.chat_template:
        chats = [[{"role": "user", "content": problem}] for problem in problems]
        prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    else:
        prompts = [f"{problem}\n" for problem in problems]
    responses: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for first in range(0, len(prompts), 128):
            batch = tokenizer(prompts[first : first + 128], return_tensors="pt", padding=True)
            batch = batch.to(model.device)
            output = model.generate(  # type: ignore[misc]
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=max_new_tokens,
            )
            new_tokens = output[:, batch["input_ids"].shape[1] :]
            responses += tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
    return responses


def is_correct(response: str, gold: str) -> bool:
    r"""Whether math-verify accepts the last `\boxed{}`; False without one. Main thread only (SIGALRM)."""
    from math_verify import parse, verify

    boxed = extract_boxed(response)
    return boxed is not None and bool(verify(parse(f"${gold}$"), parse(f"${boxed}$")))


def measure(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: list[ArithProblem],
    *,
    max_new_tokens: int,
    seed: int,
) -> dict[str, float | int]:
    """pass@1 from one sample a problem, with its binomial standard error."""
    prompts = [p.prompt for p in problems]
    responses = sample(model, tokenizer, prompts, max_new_tokens=max_new_tokens, seed=seed)
    num_right = sum(is_correct(response, p.answer) for response, p in zip(responses, problems, strict=True))
    rate, n = num_right / len(problems), len(problems)
    return {"pass_at_1": rate, "standard_error": math.sqrt(rate * (1 - rate) / n), "n": n}
