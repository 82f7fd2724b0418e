"""A decoder layer as a straight line of operations, for decoding.

At a few rows a layer's time goes into many small operations, and on a CPU into calling modules. Llama's and Qwen3's
layers are written out here: one product for queries, keys and values, one for gate and up, norms and rotary embedding
of queries and keys together, residuals added inside the products. On a GPU the projections' weights are laid one
behind the other in memory once, so that the joined weight is a view of the parameters; on a CPU, where models are
small, it is a copy made when decoding begins.

Suffixes: A rows, G tokens, N = A x G positions, H query heads, K key-value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention_kernel import available
from .fused_op_kernels import HeadNorms, rms_norm, rotate, silu_mul

DECODERS = ("LlamaModel", "Qwen3Model")
LAYERS = ("LlamaDecoderLayer", "Qwen3DecoderLayer")
"""Classes whose formula is the one below."""


@contextmanager
def lean_layers(network: nn.Module) -> Iterator[None]:
    """Within it layers of the known classes run their written-out form in passes with a ragged cache.

    Parameters must not change within it; before and after they may, in place.
    """
    patched = []
    try:
        for module in list(network.modules()):
            forward = None
            if type(module).__name__ in LAYERS:
                forward = lean_forward(module)
            elif type(module).__name__ in DECODERS:
                forward = _lean_decoder(module)
            if forward is not None:
                module.forward = forward  # type: ignore[method-assign]
                patched.append(module)
        yield
    finally:
        for module in patched:
            del module.__dict__["forward"]


def _lean_decoder(decoder: Any) -> Callable[..., Any] | None:
    """Embedding, layers, norm: without what a general forward pass sets up at every call."""
    if "forward" in decoder.__dict__:
        return None
    original, layers = decoder.forward, list(decoder.layers)

    def forward(*, ragged: Any = None, **inputs: Any) -> Any:
        if ragged is None or torch.is_grad_enabled():
            return original(**inputs, **({} if ragged is None else {"ragged": ragged}))
        hidden = decoder.embed_tokens(inputs["input_ids"])
        shared = {
            "attention_mask": None,
            "position_ids": inputs["position_ids"],
            "position_embeddings": decoder.rotary_emb(hidden, inputs["position_ids"]),
            "past_key_values": ragged,
            "use_cache": True,
            "ragged": ragged,
        }
        for layer in layers:
            hidden = layer.forward(hidden, **shared)
        return SimpleNamespace(last_hidden_state=decoder.norm(hidden))

    return forward


def lean_forward(layer: Any) -> Callable[..., Any] | None:
    """A `forward` that gives what the layer's own gives, up to rounding. None where there is none."""
    attention, mlp = layer.self_attn, layer.mlp
    device = attention.q_proj.weight.device
    known = isinstance(mlp.act_fn, nn.SiLU | _silu_class()) and "forward" not in layer.__dict__
    if not known or not (device.type == "cpu" or available(device)):
        return None
    if device.type == "cuda" and (attention.q_proj.bias is not None or mlp.gate_proj.bias is not None):
        return None  # joined biases are copies, and a captured pass would keep reading an old one
    D = attention.head_dim
    qkv_weight, qkv_bias = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
    gated_weight, gated_bias = _joined(mlp.gate_proj, mlp.up_proj)
    H, K = attention.q_proj.weight.shape[0] // D, attention.k_proj.weight.shape[0] // D
    index, scaling = attention.layer_idx, attention.scaling
    window = getattr(attention, "sliding_window", None)
    first, second = layer.input_layernorm, layer.post_attention_layernorm
    small = _KernelOperations(attention) if available(device) else _PlainOperations(attention, H, K)
    original = layer.forward

    def forward(hidden_states: Tensor, *args: Any, ragged: Any = None, **kwargs: Any) -> Any:
        if ragged is None or torch.is_grad_enabled():
            return original(hidden_states, *args, **kwargs)
        A, G, _ = hidden_states.shape
        hidden_N = hidden_states.reshape(A * G, -1)
        normal_N = small.norm(hidden_N, first)
        heads_AXGD = (
            functional.linear(normal_N, qkv_weight, qkv_bias).view(A, G, H + 2 * K, D).transpose(1, 2)
        )
        query_AHGD, key_AKGD = small.rotate(heads_AXGD[:, : H + K], H, *kwargs["position_embeddings"])
        seen = ragged.attend(index, query_AHGD, key_AKGD, heads_AXGD[:, H + K :], scaling, window)
        hidden_N = _add_product(hidden_N, seen.reshape(A * G, H * D), attention.o_proj)
        normal_N = small.norm(hidden_N, second)
        gate_N, up_N = functional.linear(normal_N, gated_weight, gated_bias).chunk(2, -1)
        hidden_N = _add_product(hidden_N, small.gate(gate_N, up_N), mlp.down_proj)
        return hidden_N.view(A, G, -1)

    return forward


class _KernelOperations:
    """The small operations as Triton kernels."""

    def __init__(self, attention: Any) -> None:
        query = getattr(attention, "q_norm", None)
        self.norms: HeadNorms | None = None
        if query is not None:
            self.norms = HeadNorms(query.weight, attention.k_norm.weight, query.variance_epsilon)

    def norm(self, hidden_N: Tensor, norm: Any) -> Tensor:
        return rms_norm(hidden_N, norm.weight, norm.variance_epsilon)

    def rotate(self, heads_AXGD: Tensor, H: int, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return rotate(heads_AXGD[:, :H], heads_AXGD[:, H:], cos, sin, self.norms)

    def gate(self, gate_N: Tensor, up_N: Tensor) -> Tensor:
        return silu_mul(gate_N, up_N)


class _PlainOperations:
    """The small operations in PyTorch, queries and keys together."""

    def __init__(self, attention: Any, H: int, K: int) -> None:
        norm = getattr(attention, "q_norm", None)
        self.eps = 0.0 if norm is None else norm.variance_epsilon
        self.scale_X1D: Tensor | None = None
        if norm is not None:
            scales = [norm.weight.expand(H, -1), attention.k_norm.weight.expand(K, -1)]
            self.scale_X1D = torch.cat(scales).unsqueeze(1)
        self.kept: tuple[Tensor | None, Tensor | None] = (None, None)
        """The sine of a pass, and with the sign of the half that a rotation moves into its place."""

    def norm(self, hidden_N: Tensor, norm: Any) -> Tensor:
        return functional.rms_norm(hidden_N, norm.weight.shape, norm.weight, norm.variance_epsilon)

    def rotate(self, heads_AXGD: Tensor, H: int, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        D = heads_AXGD.shape[-1]
        if self.scale_X1D is not None:
            heads_AXGD = functional.rms_norm(heads_AXGD, (D,), None, self.eps) * self.scale_X1D
        if self.kept[0] is not sin:
            self.kept = (sin, torch.cat((-sin[..., : D // 2], sin[..., D // 2 :]), -1).unsqueeze(1))
        signed = self.kept[1]
        assert signed is not None
        heads_AXGD = heads_AXGD * cos.unsqueeze(1) + heads_AXGD.roll(D // 2, -1) * signed
        return heads_AXGD[:, :H], heads_AXGD[:, H:]

    def gate(self, gate_N: Tensor, up_N: Tensor) -> Tensor:
        return functional.silu(gate_N).mul_(up_N)


def _silu_class() -> Any:
    from transformers.activations import ACT2CLS

    found = ACT2CLS["silu"]
    return found[0] if isinstance(found, tuple) else found


def _joined(*projections: Any) -> tuple[Tensor, Tensor | None]:
    """Weights (and biases) one below the other."""
    weights, biases = [p.weight for p in projections], [p.bias for p in projections]
    on_gpu = weights[0].device.type == "cuda"
    bias = None if biases[0] is None else torch.cat([b.detach() for b in biases])
    return (_laid_together(weights) if on_gpu else torch.cat([w.detach() for w in weights])), bias


def _laid_together(weights: list[nn.Parameter]) -> Tensor:
    """A view of all weights as one. Moves them into one buffer first, if need be; they stay the same parameters."""
    first = weights[0]
    end = first.data_ptr()
    together = True
    for weight in weights:
        together = together and weight.data_ptr() == end and weight.is_contiguous()
        end = weight.data_ptr() + weight.nbytes
    rows = sum(weight.shape[0] for weight in weights)
    if not together or first.untyped_storage().data_ptr() != weights[-1].untyped_storage().data_ptr():
        buffer = torch.cat([weight.detach() for weight in weights])
        for weight, part in zip(weights, buffer.split([w.shape[0] for w in weights]), strict=True):
            weight.data = part
    return first.detach().as_strided((rows, first.shape[1]), (first.shape[1], 1))


def _add_product(residual_N: Tensor, input_N: Tensor, projection: Any) -> Tensor:
    """The residual, in its place, plus the projection of the input."""
    residual_N.addmm_(input_N, projection.weight.t())
    return residual_N if projection.bias is None else residual_N.add_(projection.bias)
