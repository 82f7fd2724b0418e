"""Memory of a run, estimated from configurations and safetensors headers. Good to some 30 %."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trb_lab.errors import UsageError
from trb_lab.spec import ExperimentSpec

from .findings import Findings

FULL_ACTIVATION_FACTOR = 34
"""Saved bytes a token and layer over (hidden size x bytes), without checkpointing (fused attention)."""
CHECKPOINTED_ACTIVATION_FACTOR = 2
LOGIT_COPIES = 6
"""float32 copies of a chunk's logits at once: both models', their log-probabilities, gradients."""
ROLLOUT_LOGIT_COPIES = 4
"""Copies of a drafted block's logits at once: both models', drafts kept for the verdict, and its temporaries."""
ROLLOUT_BLOCK = 8
"""Tokens drafted before the teacher looks, as a rule."""


@dataclass(frozen=True)
class ModelSize:
    """What decides a model's memory."""

    parameters: int | None
    """None without weight files."""
    layers: int
    hidden: int
    kv_width: int
    """Width of keys (and of values) of one layer: key-value heads x head size."""
    logit_width: int
    max_context: int | None
    """Positions that it was made for; None where the configuration does not say."""


@dataclass(frozen=True)
class Estimate:
    """Bytes of one trial. The peak holds what is fixed, and the larger of rollout and update."""

    weights: float
    optimizer: float
    kv_cache: float
    rollout_logits: float
    loss_chunk: float
    activations: float

    @property
    def peak(self) -> float:
        rollout = self.kv_cache + self.rollout_logits
        return self.weights + self.optimizer + max(rollout, self.loss_chunk + self.activations)


def model_size(path: Path, config: dict[str, Any]) -> ModelSize:
    """Sizes from config.json and weight file headers. Raises KeyError for a config without them."""
    text = config.get("text_config") or config
    heads = text["num_attention_heads"]
    head_size = text.get("head_dim") or text["hidden_size"] // heads
    shapes = _tensor_shapes(path)
    return ModelSize(
        parameters=sum(_product(shape) for shape in shapes.values()) or None,
        layers=text["num_hidden_layers"],
        hidden=text["hidden_size"],
        kv_width=(text.get("num_key_value_heads") or heads) * head_size,
        logit_width=text["vocab_size"],
        max_context=text.get("max_position_embeddings"),
    )


def _tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """Shapes of all tensors in *.safetensors, read from the headers alone."""
    shapes: dict[str, list[int]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(length))
        shapes.update({name: entry["shape"] for name, entry in header.items() if name != "__metadata__"})
    return shapes


def _product(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def estimate(
    spec: ExperimentSpec,
    student: ModelSize,
    teacher: ModelSize,
    vocabulary_size: int,
    bytes_per_value: int,
    gpu_bytes: int | None = None,
) -> Estimate:
    """Bytes of one trial whose working weights take `bytes_per_value` (2: bfloat16 and float32 masters).

    With `gpu_bytes` the engine decodes as many rows at once as fit, unless the spec says how many.
    """
    from trb_lab.rollout.caches import CACHE_SHARE, DEFAULT_ROWS

    rollout, resources = spec.rollout, spec.resources
    rows = rollout.prompts_per_step * rollout.samples_per_prompt
    row_tokens = rollout.max_prompt_tokens + rollout.max_new_tokens
    all_tokens = rows * row_tokens
    rows = min(rows, resources.rollout_rows or DEFAULT_ROWS)
    # The teacher decodes along only while a warmup drives the rollouts.
    decoding = [student, teacher] if spec.teacher_in_rollout else [student]
    trained, frozen = student.parameters or 0, teacher.parameters or 0
    master = 4 if bytes_per_value < 4 else 0
    factor = CHECKPOINTED_ACTIVATION_FACTOR if resources.activation_checkpointing else FULL_ACTIVATION_FACTOR
    weights = (2 * trained + frozen) * bytes_per_value  # gradients count as weights
    optimizer = trained * (8 + master)
    row_bytes = sum(2 * m.layers * m.kv_width * bytes_per_value * row_tokens for m in decoding)
    if gpu_bytes is not None and resources.rollout_rows is None:
        rows = max(1, min(rows, int(CACHE_SHARE * (gpu_bytes - weights - optimizer)) // row_bytes))
    # Evaluation decodes with the student alone, and may ask for more rows and longer responses.
    eval_tokens = rollout.max_prompt_tokens + (spec.eval.max_new_tokens or rollout.max_new_tokens)
    eval_row_bytes = 2 * student.layers * student.kv_width * bytes_per_value * eval_tokens
    eval_rows = (resources.rollout_rows or DEFAULT_ROWS) if spec.eval.sets else 0
    if gpu_bytes is not None and resources.rollout_rows is None:
        eval_rows = min(eval_rows, int(CACHE_SHARE * (gpu_bytes - weights - optimizer)) // eval_row_bytes)
    layer_bytes = student.hidden * bytes_per_value * student.layers
    return Estimate(
        weights=weights,
        optimizer=optimizer,
        kv_cache=max(row_bytes * rows, eval_row_bytes * eval_rows),
        rollout_logits=rows * ROLLOUT_BLOCK * vocabulary_size * bytes_per_value * ROLLOUT_LOGIT_COPIES,
        loss_chunk=resources.loss_chunk_tokens * vocabulary_size * 4 * LOGIT_COPIES,
        activations=min(resources.micro_batch_tokens, all_tokens) * layer_bytes * factor,
    )


def available_bytes(wanted: str) -> tuple[str, int]:
    """("GPU" or "CPU", memory of the device that resources.device means on this machine)."""
    if wanted != "cpu":
        import torch

        if torch.cuda.is_available():
            return "GPU", int(torch.cuda.get_device_properties(0).total_memory)
        if wanted == "cuda":
            raise UsageError(
                "resources.device is cuda and no GPU is visible on this machine: use auto or cpu."
            )
    return "CPU", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(
    spec: ExperimentSpec,
    student: ModelSize,
    teacher: ModelSize,
    vocabulary_size: int | None,
    findings: Findings,
) -> None:
    """One line: the estimate for one trial on this machine's device, part by part."""
    device, available = available_bytes(spec.resources.device)
    bfloat16 = spec.dtype == "bfloat16" or (spec.dtype == "auto" and device == "GPU")
    found = estimate(
        spec,
        student,
        teacher,
        vocabulary_size or student.logit_width,
        2 if bfloat16 else 4,
        available if device == "GPU" else None,
    )
    dtype = "bfloat16 with float32 masters" if bfloat16 else "float32"
    logits = max(found.loss_chunk, found.rollout_logits)
    text = (
        f"about {size(found.peak)} a trial at most ({dtype}): weights {size(found.weights)}, optimiser "
        f"{size(found.optimizer)}, KV cache {size(found.kv_cache)}, logits {size(logits)}, "
        f"activations {size(found.activations)}; this {device} has {size(available)}"
    )
    if found.peak > 0.9 * available:
        findings.warn("memory", f"{text}.\n{_advice(found)}")
    else:
        findings.ok("memory", text)


def _advice(found: Estimate) -> str:
    if found.kv_cache + found.rollout_logits > found.loss_chunk + found.activations:
        return "Lower resources.rollout_rows (decodes a step's rollouts in parts) or rollout.max_new_tokens."
    if found.activations > found.loss_chunk:
        return "Lower resources.micro_batch_tokens, or set resources.activation_checkpointing: true."
    return "Lower resources.loss_chunk_tokens."


def size(num_bytes: float) -> str:
    for unit, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= scale:
            value = num_bytes / scale
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.2g} {unit}"
    return f"{num_bytes:.0f} B"
