"""Decoding attention over a ragged key-value cache that is written in place, for grouped queries.

PyTorch's own means need either keys repeated for every query head or a mask over the whole capacity, and both read
more memory than the keys that a row has. Here each key and value is read once: the query heads of a group and the G
tokens of a block form one matrix, and the keys of a row are split over programs ("flash-decoding", Dao et al. 2023)
so that a few long rows fill the chip as well as many short ones.

Row lengths are read on the device and the launch grid depends on shapes alone, so a captured graph stays right when
the lengths change between its replays. Compile (call once) before capturing.

Suffixes: B rows, G block tokens, H query heads, K key-value heads, C cache capacity, D head size. Within kernels
M stands for the queries that share a key-value head (block tokens x query heads of the group) and N for keys.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # builds of PyTorch without CUDA come without it
    triton = None

INTERPRETED = triton is not None and os.environ.get("TRITON_INTERPRET") == "1"
"""Kernels of this module run on the CPU, in Python; decided when the module is imported."""

SPLIT_LENGTH: int | None = None
"""Keys of one program; None lets `split_length` choose."""
MIN_PROGRAMS = 768
"""Programs that a launch over full rows should have: several for each of the chip's multiprocessors."""
TILE_BYTES = 16_384
"""Size of the tile of keys in flight; with the head size it gives the number of keys in a tile."""
MAX_QUERIES = 64
"""Queries (M) of one program; more of them are spread over the grid."""
NUM_WARPS = 4
NUM_STAGES = 3


def available(device: torch.device) -> bool:
    """Whether the kernels run on tensors of this device."""
    return triton is not None and (device.type == "cuda" or INTERPRETED)


def jit(function: Callable) -> Any:
    """`triton.jit` where there is Triton; elsewhere the function stays as it is and must not be called."""
    return function if triton is None else triton.jit(function)


@jit
def _write_kernel(
    keys, values, key, value, lengths, num_heads, num_tokens, capacity,
    keys_b, keys_k, keys_c, values_b, values_k, values_c,
    key_b, key_k, key_g, key_d, value_b, value_k, value_g, value_d,
    D: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) // num_tokens).to(tl.int64)
    g = tl.program_id(0) % num_tokens
    position = tl.load(lengths + b).to(tl.int32) + g
    k = (tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K))[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    inside = (position >= 0) & (position < capacity)
    mask = (k < num_heads) & (d < D) & inside
    k = k.to(tl.int64)
    new_key = tl.load(key + b * key_b + k * key_k + g * key_g + d * key_d, mask=mask)
    tl.store(keys + b * keys_b + k * keys_k + position * keys_c + d, new_key, mask=mask)
    new_value = tl.load(value + b * value_b + k * value_k + g * value_g + d * value_d, mask=mask)
    tl.store(values + b * values_b + k * values_k + position * values_c + d, new_value, mask=mask)


@jit
def _attention_kernel(
    query, keys, values, lengths, out, partial, partial_lse,
    scale_log2, num_tokens, num_kv_heads, num_tiles, capacity, split_length, window,
    query_b, query_h, query_g, query_d, keys_b, keys_k, keys_c, values_b, values_k, values_c,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    WINDOWED: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Online softmax over one split of one row's keys, for the queries that share one key-value head."""
    tile = tl.program_id(0) % num_tiles
    pair = tl.program_id(0) // num_tiles
    b = (pair // num_kv_heads).to(tl.int64)
    k = pair % num_kv_heads
    split = tl.program_id(1)
    length = tl.load(lengths + b).to(tl.int32)
    total = tl.minimum(length + num_tokens, capacity)
    first = 0
    if WINDOWED:
        first = tl.maximum(length - window + 1, 0)
    begin = first + split * split_length
    end = tl.minimum(begin + split_length, total)
    if SPLIT:  # noqa: SIM102 (known when compiling; the other is not)
        if begin >= total:
            return

    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    g = m // GROUP
    h = k * GROUP + m % GROUP
    d = tl.arange(0, BLOCK_D)
    in_query = (m < num_tokens * GROUP)[:, None] & (d < D)[None, :]
    query_offsets = h[:, None] * query_h + g[:, None] * query_g + d[None, :] * query_d
    q = tl.load(query + b * query_b + query_offsets, mask=in_query, other=0.0).to(keys.dtype.element_ty)
    position = length + g
    keys += b * keys_b + k.to(tl.int64) * keys_k
    values += b * values_b + k.to(tl.int64) * values_k

    high = tl.full([BLOCK_M], float("-inf"), tl.float32)
    mass = tl.zeros([BLOCK_M], tl.float32)
    mixed = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(begin, end, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        in_row = (n < end)[:, None] & (d < D)[None, :]
        keys_ND = tl.load(keys + n[:, None] * keys_c + d[None, :], mask=in_row, other=0.0)
        scores = tl.dot(q, tl.trans(keys_ND), input_precision=PRECISION) * scale_log2
        visible = (n[None, :] <= position[:, None]) & (n < end)[None, :]
        if WINDOWED:
            visible = visible & (n[None, :] > position[:, None] - window)
        scores = tl.where(visible, scores, float("-inf"))
        new_high = tl.maximum(high, tl.max(scores, 1))
        shift = tl.where(new_high == float("-inf"), 0.0, new_high)  # a query may see no key of this split
        weights = tl.exp2(scores - shift[:, None])
        fade = tl.exp2(high - shift)
        mass = mass * fade + tl.sum(weights, 1)
        values_ND = tl.load(values + n[:, None] * values_c + d[None, :], mask=in_row, other=0.0)
        mixed = mixed * fade[:, None]
        mixed = tl.dot(weights.to(values_ND.dtype), values_ND, mixed, input_precision=PRECISION)
        high = new_high
    mixed = mixed / tl.where(mass == 0.0, 1.0, mass)[:, None]

    row = (b * num_tokens + g) * (num_kv_heads * GROUP) + h  # of [B, G, H]
    if SPLIT:
        row = row * tl.num_programs(1) + split
        tl.store(partial + row[:, None] * D + d[None, :], mixed, mask=in_query)
        tl.store(partial_lse + row, high + tl.log2(mass), mask=m < num_tokens * GROUP)
    else:
        tl.store(out + row[:, None] * D + d[None, :], mixed.to(out.dtype.element_ty), mask=in_query)


@jit
def _combine_kernel(
    partial, partial_lse, lengths, out, num_tokens, num_heads, capacity, num_splits, split_length, window,
    D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr, WINDOWED: tl.constexpr,
):  # fmt: skip
    """Means of one query's splits, weighted by their softmax mass (lse: base-2 logarithm of it)."""
    row = tl.program_id(0).to(tl.int64)
    length = tl.load(lengths + row // (num_tokens * num_heads)).to(tl.int32)
    keys = tl.minimum(length + num_tokens, capacity)
    if WINDOWED:
        keys -= tl.maximum(length - window + 1, 0)
    used = (keys + split_length - 1) // split_length
    d = tl.arange(0, BLOCK_D)
    high = float("-inf")
    mass = 0.0
    mixed = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, used, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        lse = tl.load(partial_lse + row * num_splits + s, mask=s < used, other=float("-inf"))
        means = tl.load(
            partial + (row * num_splits + s)[:, None] * D + d[None, :],
            mask=(s < used)[:, None] & (d < D)[None, :], other=0.0,
        )  # fmt: skip
        new_high = tl.maximum(high, tl.max(lse, 0))
        shift = tl.where(new_high == float("-inf"), 0.0, new_high)
        weights = tl.exp2(lse - shift)
        fade = tl.exp2(high - shift)
        mass = mass * fade + tl.sum(weights, 0)
        mixed = mixed * fade + tl.sum(means * weights[:, None], 0)
        high = new_high
    mixed = mixed / tl.where(mass == 0.0, 1.0, mass)
    tl.store(out + row * D + d, mixed.to(out.dtype.element_ty), mask=d < D)


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least `number`."""
    return 1 << max(number - 1, 0).bit_length()


def split_length(programs: int, queries: int, num_keys: int) -> int:
    """Keys of one program, from shapes alone; `programs` is how many there are before splitting.

    Short enough that rows full of `num_keys` keys give MIN_PROGRAMS programs; long enough that the float32 partial
    results (8 bytes a query and channel, written and read) stay small beside the keys and values of the split.
    """
    if SPLIT_LENGTH is not None:
        return SPLIT_LENGTH
    length = 1024
    while length > 128 and programs * -(-num_keys // length) < MIN_PROGRAMS:
        length //= 2
    return max(length, min(32 * power_of_two(queries), 1024))


def block_keys(block_dim: int, element_bytes: int) -> int:
    """Keys in a tile (N), a power of two from 16 to 128."""
    tile_bytes = TILE_BYTES // 2 if element_bytes == 4 else TILE_BYTES
    return min(max(tile_bytes // (block_dim * element_bytes), 16), 128)


def block_queries(queries: int, element_bytes: int) -> int:
    """Queries of one program (M). Full float32 products leave the matrix units and need registers: few at a time."""
    return min(max(power_of_two(queries), 16), 16 if element_bytes == 4 else MAX_QUERIES)


def write_kv(
    key_cache_BKCD: Tensor,
    value_cache_BKCD: Tensor,
    key_BKGD: Tensor,
    value_BKGD: Tensor,
    lengths_B: Tensor,
) -> None:
    """Store G new keys and values a row at positions lengths .. lengths + G - 1 of the caches, in place.

    The caches may have more rows than the new keys; the new keys may have any strides. Positions outside the
    capacity are skipped. `lengths_B` (int32) is read on the device.
    """
    B, K, G, D = key_BKGD.shape
    _check_cache(key_cache_BKCD, value_cache_BKCD, B, K, D)
    block_heads = min(power_of_two(K), 8)
    with torch.cuda.device_of(key_cache_BKCD):
        _write_kernel[(B * G, -(-K // block_heads))](
            key_cache_BKCD, value_cache_BKCD, key_BKGD, value_BKGD, lengths_B, K, G, key_cache_BKCD.shape[2],
            *key_cache_BKCD.stride()[:3], *value_cache_BKCD.stride()[:3],
            *key_BKGD.stride(), *value_BKGD.stride(),
            D=D, BLOCK_K=block_heads, BLOCK_D=power_of_two(D), num_warps=4,
        )  # fmt: skip


def ragged_attention(
    query_BHGD: Tensor,
    key_cache_BKCD: Tensor,
    value_cache_BKCD: Tensor,
    lengths_B: Tensor,
    scaling: float,
    window: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Attention of G new tokens a row over the row's cache, [B, G, H, D] contiguous, in the query's dtype.

    Query g of row b, at position lengths[b] + g, sees positions 0 .. lengths[b] + g (its own key has been written
    before) and of these, with a `window`, only the newest `window`. Scores are multiplied by `scaling`; softmax and
    sums are in float32. float32 caches are multiplied in full float32 precision.
    """
    B, H, G, D = query_BHGD.shape
    K, C = key_cache_BKCD.shape[1:3]
    _check_cache(key_cache_BKCD, value_cache_BKCD, B, K, D)
    if H % K:
        raise ValueError(f"{H} query heads cannot share {K} key-value heads evenly")
    if out is None:
        out = query_BHGD.new_empty(B, G, H, D)
    elif out.shape != (B, G, H, D) or not out.is_contiguous():
        raise ValueError(f"out is {tuple(out.shape)}; it must be contiguous and {(B, G, H, D)}")
    queries = G * H // K
    element_bytes = key_cache_BKCD.element_size()
    block_m = block_queries(queries, element_bytes)
    tiles = -(-queries // block_m)
    num_keys = C if window is None else min(C, window + G - 1)
    length = split_length(B * K * tiles, queries, num_keys)
    splits = -(-num_keys // length)
    partial = lse = out  # never touched where there is one split
    if splits > 1:
        partial = query_BHGD.new_empty(B, G, H, splits, D, dtype=torch.float32)
        lse = query_BHGD.new_empty(B, G, H, splits, dtype=torch.float32)
    block_dim = max(power_of_two(D), 16)
    with torch.cuda.device_of(query_BHGD):
        _attention_kernel[(B * K * tiles, splits)](
            query_BHGD, key_cache_BKCD, value_cache_BKCD, lengths_B, out, partial, lse,
            scaling * math.log2(math.e), G, K, tiles, C, length, window or 0,
            *query_BHGD.stride(), *key_cache_BKCD.stride()[:3], *value_cache_BKCD.stride()[:3],
            GROUP=H // K, D=D, BLOCK_M=block_m, BLOCK_N=block_keys(block_dim, element_bytes),
            BLOCK_D=block_dim, WINDOWED=window is not None, SPLIT=splits > 1,
            PRECISION="ieee" if element_bytes == 4 else None,
            num_warps=NUM_WARPS, num_stages=NUM_STAGES,
        )  # fmt: skip
        if splits > 1:
            _combine_kernel[(B * G * H,)](
                partial, lse, lengths_B, out, G, H, C, splits, length, window or 0,
                D=D, BLOCK_S=min(power_of_two(splits), 8), BLOCK_D=block_dim, WINDOWED=window is not None,
                num_warps=1,
            )  # fmt: skip
    return out


def _check_cache(key_cache_BKCD: Tensor, value_cache_BKCD: Tensor, B: int, K: int, D: int) -> None:
    slots, heads, _, size = key_cache_BKCD.shape
    if value_cache_BKCD.shape != key_cache_BKCD.shape or slots < B or (heads, size) != (K, D):
        raise ValueError(
            f"caches are {tuple(key_cache_BKCD.shape)} and {tuple(value_cache_BKCD.shape)}; "
            f"needed is [at least {B} rows, {K} heads, capacity, {D}] for both"
        )
    if key_cache_BKCD.stride(3) != 1 or value_cache_BKCD.stride(3) != 1:
        raise ValueError("the channels of a key or value must be adjacent in memory (last stride 1)")
