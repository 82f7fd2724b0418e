"""Memory of the objective beyond its inputs: hidden states, weights and the gradients of both do not count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from trb_lab.models.load import LanguageModel, Pair, pick_device, pick_dtype
from trb_lab.models.vocabulary import SharedVocabulary
from trb_lab.rollout.engine import Rollouts
from trb_lab.spec.experiment import FullLoss, Loss, ModelSpec, ResourcesSpec, TopKLoss
from trb_lab.train.objective import backward_reverse_kl

from .live_memory import peak_bytes
from .measure import hardware, row
from .options import BUNDLED, TINY, Options, default_pair
from .random_pair import SHAPES, PairShape, Shape, TokenCount, random_model
from .setting import TOP_K
from .table import Result, Row, Table

GPU_ROWS, GPU_TOKENS, GPU_UNCHUNKED = 32, 4096, 4096
"""Rows, tokens a row, and the number of positions at which the loss without chunks is tried."""
CPU_ROWS, CPU_TOKENS, CPU_UNCHUNKED = 4, 512, 512
DEFAULT_CHUNK: int = ResourcesSpec.model_fields["loss_chunk_tokens"].default
CHUNKS = sorted({256, DEFAULT_CHUNK, 1024, 4096})
MICRO_BATCH = 16_384
"""The default of `resources.micro_batch_tokens`."""
LIMIT_BYTES = 3e9
"""What this lab asks for at the largest size: default chunks, 131,072 positions, 151,936 logits."""


class GivenStates(nn.Module):
    """A causal LM without a body: a head over hidden states that are given."""

    def __init__(self, hidden_bLH: Tensor, width: int) -> None:
        super().__init__()
        like = {"device": hidden_bLH.device, "dtype": hidden_bLH.dtype}
        self.head = nn.Linear(hidden_bLH.shape[-1], width, bias=False, **like)
        self.hidden_bLH = hidden_bLH

    def get_decoder(self) -> Any:
        return lambda **inputs: SimpleNamespace(last_hidden_state=self.hidden_bLH)

    def get_output_embeddings(self) -> nn.Linear:
        return self.head


def run(options: Options | None = None) -> Result:
    """Peak bytes by chunk length and loss, without the student's body and with it."""
    options = options or Options()
    device = pick_device("auto")
    gpu = device.type == "cuda"
    name = options.pair or (default_pair(gpu) if gpu else TINY)
    shape = SHAPES[TINY if name == BUNDLED else name]
    dtype = pick_dtype("auto", device)
    rows = options.rows or (GPU_ROWS if gpu else CPU_ROWS)
    tokens = options.context[0] if options.context else GPU_TOKENS if gpu else CPU_TOKENS
    found = hardware(device)
    alone = [
        _objective(f"{loss.kind}, chunks of {chunk:,}", shape, device, dtype, rows, tokens, chunk, loss)
        for loss, chunks in ((TopKLoss(top_k=TOP_K), CHUNKS), (FullLoss(), (DEFAULT_CHUNK,)))
        for chunk in chunks
    ]
    small = max(1, min(rows * tokens, GPU_UNCHUNKED if gpu else CPU_UNCHUNKED))
    whole = f"renormalised, no chunks, {small:,} positions alone"
    alone.append(_objective(whole, shape, device, dtype, 1, small, small, TopKLoss(top_k=TOP_K)))
    body = [_with_body(shape, device, dtype, rows, tokens)]
    size = f"{rows} x {tokens:,} tokens, {shape.width:,} logits"
    limit = f"asked for at 32 x 4,096 tokens, 151,936 logits and the default chunk: at most {LIMIT_BYTES / 1e9:g} GB."
    columns = (
        "one chunk of logits: its float32 copy, the least that a loss over the vocabulary holds. all logits: what they "
        "would take without chunks."
    )
    remarks = (limit, columns, *_missing(alone))
    body_title = f"with the student's body, {size}"
    tables = [
        _table(f"head and loss in one micro-batch, {size}", "megabytes beyond the inputs", alone, remarks),
        _table(body_title, "megabytes beyond weights and gradients", body, _missing(body)),
    ]
    how = (
        "the allocator's peak"
        if gpu
        else "live storages of all operations (memory within an operation is not seen)"
    )
    described = {**asdict(found), "pair": name, "counted": how}
    return Result("loss-memory", described, found.line(), tables, (f"pair: {name}; counted: {how}",))


def _table(title: str, unit: str, found: Sequence[Row | str], remarks: tuple[str, ...]) -> Table:
    return Table(title, unit, 1, [line for line in found if isinstance(line, Row)], remarks)


def _missing(found: Sequence[Row | str]) -> tuple[str, ...]:
    return tuple(f"does not fit in memory: {line}" for line in found if isinstance(line, str))


def _objective(
    what: str,
    shape: PairShape,
    device: torch.device,
    dtype: torch.dtype,
    rows: int,
    tokens: int,
    chunk: int,
    loss: Loss,
) -> Row | str:
    """Forward and backward through head and loss over given hidden states."""
    hidden = torch.randn(rows, tokens, shape.student.hidden, device=device).to(dtype).requires_grad_()
    pair = _heads(shape, hidden)
    rollouts = _rollouts(shape, rows, tokens, isinstance(loss, FullLoss), dtype)
    work = partial(_backward, pair, rollouts, loss, chunk, rows * tokens)
    logits = 4.0 * shape.width
    notes = {
        "one_chunk_of_logits": min(chunk, rows * tokens) * logits / 1e6,
        "all_logits": rows * tokens * logits / 1e6,
    }
    return _measured(what, device, work, [hidden, *pair.student.parameters()], notes)


def _with_body(
    shape: PairShape, device: torch.device, dtype: torch.dtype, rows: int, tokens: int
) -> Row | str:
    """The student's forward and backward pass with it, as the trainer runs them with activation checkpointing."""
    student = random_model(shape, shape.student, device, dtype, seed=0)
    student.bind(_vocabulary(shape))
    student.checkpoint_activations()
    student.network.train()
    pair = Pair(student, student, _vocabulary(shape))
    rollouts = _rollouts(shape, rows, tokens, False, dtype)
    work = partial(_backward, pair, rollouts, TopKLoss(top_k=TOP_K), DEFAULT_CHUNK, MICRO_BATCH)
    what = f"renormalised, chunks of {DEFAULT_CHUNK}, micro-batches of {MICRO_BATCH:,} tokens, activation checkpointing"
    return _measured(what, device, work, list(student.parameters()), {})


def _measured(
    what: str, device: torch.device, work: Any, inputs: list[Tensor], notes: dict[str, Any]
) -> Row | str:
    """Megabytes at the peak, less the inputs' gradients, which are part of the result. The name alone: does not fit."""
    try:
        peak = peak_bytes(device, work)
    except torch.OutOfMemoryError:
        return what
    gradients = sum(part.grad.nbytes for part in inputs if part.grad is not None)
    return row(what, [max(peak - gradients, 0) / 1e6], notes=notes)


def _backward(pair: Pair, rollouts: Rollouts, loss: Loss, chunk: int, token_budget: int) -> None:
    backward_reverse_kl(
        pair, rollouts, loss, token_budget=token_budget, chunk_tokens=chunk, after_backward=lambda: None
    )


def _vocabulary(shape: PairShape) -> SharedVocabulary:
    own, other = shape.stop_ids
    return SharedVocabulary(shape.vocabulary, own, shape.stop_ids, (other,))


def _heads(shape: PairShape, hidden_bLH: Tensor) -> Pair:
    """Student and teacher without bodies."""

    def model(own: Shape, hidden: Tensor) -> LanguageModel:
        network = GivenStates(hidden, shape.width)
        bound = LanguageModel(
            network, TokenCount(shape.vocabulary), ModelSpec(name=own.name), shape.stop_ids[:1]
        )
        bound.bind(_vocabulary(shape))
        return bound

    teacher = model(shape.teacher, hidden_bLH.detach().new_zeros(1, 1, shape.teacher.hidden))
    teacher.requires_grad_(False)
    return Pair(model(shape.student, hidden_bLH), teacher, _vocabulary(shape))


def _rollouts(shape: PairShape, rows: int, tokens: int, full: bool, dtype: torch.dtype) -> Rollouts:
    """Full-length responses of random tokens to prompts of one token, with what the losses need."""
    zeros_BT = torch.zeros(rows, tokens)
    return Rollouts(
        student_prompts=[[0]] * rows,
        teacher_prompts=[[0]] * rows,
        tokens_BT=torch.randint(0, shape.vocabulary, (rows, tokens)),
        mask_BT=torch.ones(rows, tokens, dtype=torch.bool),
        finished_B=torch.zeros(rows, dtype=torch.bool),
        student_logprob_BT=zeros_BT,
        behavior_logprob_BT=zeros_BT,
        kl_BT=zeros_BT,
        redraw_BT=zeros_BT,
        redrawn_BT=zeros_BT.bool(),
        support_BTK=torch.randint(0, shape.vocabulary, (rows, tokens, TOP_K)),
        teacher_support_BTK=torch.full((rows, tokens, TOP_K), -2.0),
        teacher_hidden_BTH=torch.randn(rows, tokens, shape.teacher.hidden).to(dtype) if full else None,
    )
