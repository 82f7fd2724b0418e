"""Triton kernels for the small operations of a decoder: norm, rotary embedding, gated activation.

They round where transformers' own operations round. Suffixes: B rows, T tokens, H query heads, K key-value heads,
D head size, N channels, R rows of a matrix.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .attention_kernel import jit, power_of_two, triton

if triton is not None:
    import triton.language as tl

MAX_CHANNELS = 16_384
"""Widest norm that one program holds."""
NORM_ELEMENTS = 2048
"""Elements of one program of the norm; narrow norms (of a head) take several rows."""
GATE_ELEMENTS = 1024


@jit
def _rms_norm_kernel(
    hidden, weight, out, num_rows, eps, N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr
):
    r = (tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)).to(tl.int64)
    n = tl.arange(0, BLOCK_N)
    mask = (r < num_rows)[:, None] & (n < N)[None, :]
    offsets = r[:, None] * N + n[None, :]
    x = tl.load(hidden + offsets, mask=mask, other=0.0).to(tl.float32)
    normal = x * tl.rsqrt(tl.sum(x * x, 1) / N + eps)[:, None]
    normal = normal.to(out.dtype.element_ty).to(tl.float32)  # rounded before the weight, as transformers does
    scale = tl.load(weight + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(out + offsets, (normal * scale[None, :]).to(out.dtype.element_ty), mask=mask)


@jit
def _rotate_heads(
    heads, out, weight, eps, cos1, cos2, sin1, sin2, num_heads, heads_h, out_h, d,
    HALF: tl.constexpr, BLOCK_H: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    h = tl.arange(0, BLOCK_H)[:, None]
    mask = (h < num_heads) & (d < HALF)[None, :]
    kind = out.dtype.element_ty
    x1 = tl.load(heads + h * heads_h + d[None, :], mask=mask, other=0.0).to(tl.float32)
    x2 = tl.load(heads + h * heads_h + HALF + d[None, :], mask=mask, other=0.0).to(tl.float32)
    if NORM:  # of the whole head, rounded where _rms_norm_kernel rounds
        scale = tl.rsqrt((tl.sum(x1 * x1, 1) + tl.sum(x2 * x2, 1)) / (2 * HALF) + eps)[:, None]
        w1 = tl.load(weight + d, mask=d < HALF, other=0.0).to(tl.float32)[None, :]
        w2 = tl.load(weight + HALF + d, mask=d < HALF, other=0.0).to(tl.float32)[None, :]
        x1 = ((x1 * scale).to(kind).to(tl.float32) * w1).to(kind).to(tl.float32)
        x2 = ((x2 * scale).to(kind).to(tl.float32) * w2).to(kind).to(tl.float32)
    # Both products are rounded before they are added, as in the sum of tensors that this replaces.
    y1 = (x1 * cos1).to(kind).to(tl.float32) - (x2 * sin1).to(kind).to(tl.float32)
    y2 = (x2 * cos2).to(kind).to(tl.float32) + (x1 * sin2).to(kind).to(tl.float32)
    tl.store(out + h * out_h + d[None, :], y1.to(kind), mask=mask)
    tl.store(out + h * out_h + HALF + d[None, :], y2.to(kind), mask=mask)


@jit
def _rotate_kernel(
    query, key, query_out, key_out, query_weight, key_weight, eps, cos, sin, num_tokens, num_heads, num_kv_heads,
    query_b, query_h, query_t, key_b, key_h, key_t,
    query_out_b, query_out_h, query_out_t, key_out_b, key_out_h, key_out_t, cos_b, cos_t, sin_b, sin_t,
    HALF: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) // num_tokens).to(tl.int64)
    t = tl.program_id(0) % num_tokens
    d = tl.arange(0, BLOCK_D)
    cos += b * cos_b + t * cos_t
    sin += b * sin_b + t * sin_t
    cos1 = tl.load(cos + d, mask=d < HALF, other=0.0).to(tl.float32)[None, :]
    cos2 = tl.load(cos + HALF + d, mask=d < HALF, other=0.0).to(tl.float32)[None, :]
    sin1 = tl.load(sin + d, mask=d < HALF, other=0.0).to(tl.float32)[None, :]
    sin2 = tl.load(sin + HALF + d, mask=d < HALF, other=0.0).to(tl.float32)[None, :]
    query += b * query_b + t * query_t
    query_out += b * query_out_b + t * query_out_t
    _rotate_heads(
        query, query_out, query_weight, eps, cos1, cos2, sin1, sin2, num_heads, query_h, query_out_h, d,
        HALF, BLOCK_H, NORM,
    )  # fmt: skip
    key += b * key_b + t * key_t
    key_out += b * key_out_b + t * key_out_t
    _rotate_heads(
        key, key_out, key_weight, eps, cos1, cos2, sin1, sin2, num_kv_heads, key_h, key_out_h, d,
        HALF, BLOCK_K, NORM,
    )  # fmt: skip


@jit
def _silu_mul_kernel(gate, up, out, size, gate_r, up_r, BLOCK: tl.constexpr):
    r = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(gate + r * gate_r + i, mask=i < size, other=0.0).to(tl.float32)
    active = (x / (1.0 + tl.exp(-x))).to(out.dtype.element_ty).to(tl.float32)
    y = active * tl.load(up + r * up_r + i, mask=i < size, other=0.0).to(tl.float32)
    tl.store(out + r * size + i, y.to(out.dtype.element_ty), mask=i < size)


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last dimension, [..., N], with the rounding of transformers' Llama and Qwen3."""
    hidden = hidden.contiguous()
    N = hidden.shape[-1]
    out = torch.empty_like(hidden)
    num_rows = hidden.numel() // N
    block = power_of_two(N)
    block_rows = max(NORM_ELEMENTS // block, 1)
    with torch.cuda.device_of(hidden):
        _rms_norm_kernel[(-(-num_rows // block_rows),)](
            hidden, weight, out, num_rows, eps, N=N, BLOCK_R=block_rows, BLOCK_N=block,
            num_warps=min(max(block // 512, 4), 16),
        )  # fmt: skip
    return out


class HeadNorms(NamedTuple):
    """Root-mean-square norms of query and key heads, weights [D] each."""

    query: Tensor
    key: Tensor
    eps: float


def rotate(
    query_BHTD: Tensor, key_BKTD: Tensor, cos_BTD: Tensor, sin_BTD: Tensor, norms: HeadNorms | None = None
) -> tuple[Tensor, Tensor]:
    """Rotary embedding (rotate-half form) of queries and keys in one launch, after their norms where there are some.

    cos and sin may have one row for all. The results have the layout of the inputs if those are dense, and are
    transposes of contiguous [B, T, heads, D] otherwise.
    """
    B, H, T, D = query_BHTD.shape
    K = key_BKTD.shape[1]
    query_out, key_out = _like(query_BHTD), _like(key_BKTD)
    cos_b = 0 if cos_BTD.shape[0] == 1 else cos_BTD.stride(0)
    sin_b = 0 if sin_BTD.shape[0] == 1 else sin_BTD.stride(0)
    query_weight, key_weight, eps = norms or (query_BHTD, key_BKTD, 0.0)
    with torch.cuda.device_of(query_BHTD):
        _rotate_kernel[(B * T,)](
            query_BHTD, key_BKTD, query_out, key_out, query_weight, key_weight, eps, cos_BTD, sin_BTD, T, H, K,
            *query_BHTD.stride()[:3], *key_BKTD.stride()[:3], *query_out.stride()[:3], *key_out.stride()[:3],
            cos_b, cos_BTD.stride(1), sin_b, sin_BTD.stride(1),
            HALF=D // 2, BLOCK_D=power_of_two(D // 2), BLOCK_H=power_of_two(H), BLOCK_K=power_of_two(K),
            NORM=norms is not None, num_warps=4,
        )  # fmt: skip
    return query_out, key_out


def _like(heads_BHTD: Tensor) -> Tensor:
    B, H, T, D = heads_BHTD.shape
    dense = heads_BHTD.is_contiguous() or heads_BHTD.transpose(1, 2).is_contiguous()
    return torch.empty_like(heads_BHTD) if dense else heads_BHTD.new_empty(B, T, H, D).transpose(1, 2)


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, elementwise; the activation is rounded to the input's dtype before the product.

    Both may be halves of one tensor's last dimension.
    """
    size = gate.shape[-1]
    gate_RN, up_RN = gate.reshape(-1, size), up.reshape(-1, size)
    out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    with torch.cuda.device_of(gate):
        _silu_mul_kernel[(gate_RN.shape[0], -(-size // GATE_ELEMENTS))](
            gate_RN, up_RN, out, size, gate_RN.stride(0), up_RN.stride(0), BLOCK=GATE_ELEMENTS, num_warps=4
        )
    return out
