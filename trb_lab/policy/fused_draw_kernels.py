"""Triton kernels that draw tokens by inverting a cumulative distribution in two steps: a chunk, then a token in it.

The first kernel of each pair takes the mass of every chunk, the second joins the masses of a row (float64), picks
the chunk that holds the uniform's share and scans that chunk alone. Rounding can leave no token past the share: the
last one with mass in the chunk is then taken, so that what is returned always has mass.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .fused_kernels import centred, finite, scores, tilt_weights

_NEG_INF = tl.constexpr(float("-inf"))


@triton.jit
def _pick_chunk(mass, uniform, PAD: tl.constexpr):
    """The chunk that holds the share `uniform` of all mass, and the mass before the point in it. float64."""
    index = tl.arange(0, PAD)
    goal = uniform * tl.sum(mass, 0)
    chosen = tl.min(tl.where((tl.cumsum(mass, 0) > goal) & (mass > 0.0), index, PAD), 0)
    last = tl.max(tl.where(mass > 0.0, index, 0), 0)
    chosen = tl.where(chosen < PAD, chosen, last)
    return chosen, goal - tl.sum(tl.where(index < chosen, mass, 0.0), 0)


@triton.jit
def _pick_token(weight, order, goal, first, SIZE: tl.constexpr):
    """Where the running sum of `weight` passes `goal`, else the last weight; the greatest `order` without weights."""
    index = tl.arange(0, SIZE)
    found = tl.min(tl.where((tl.cumsum(weight, 0) > goal) & (weight > 0.0), index, SIZE), 0)
    last = tl.max(tl.where(weight > 0.0, index, -1), 0)
    last = tl.where(last >= 0, last, tl.argmax(order, 0))
    return first + tl.where(found < SIZE, found, last)


@triton.jit
def draw_sums(ptr, stop_ptr, stride, stop, sums_ptr, size, CHUNK: tl.constexpr, PAD: tl.constexpr):
    """Maximum and sum of exp of one chunk of a row."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    z = scores(ptr, stop_ptr, stride, stop, row, chunk * CHUNK + tl.arange(0, CHUNK), size)
    top = tl.max(z, 0)
    at = sums_ptr + row * (2 * PAD) + chunk
    tl.store(at, top)
    tl.store(at + PAD, tl.sum(tl.exp(z - finite(top)), 0))


@triton.jit
def draw_pick(
    ptr, stop_ptr, stride, stop, uniform_ptr, sums_ptr, token_ptr, normaliser_ptr, size, chunks,
    CHUNK: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """One token of softmax(scores), and the log normaliser."""
    row, index = tl.program_id(0), tl.arange(0, PAD)
    live, at = index < chunks, sums_ptr + row * (2 * PAD) + index
    tops = tl.load(at, mask=live, other=_NEG_INF)
    top = tl.max(tops, 0)
    scale = tl.exp(tops - finite(top)).to(tl.float64)
    mass = tl.load(at + PAD, mask=live, other=0.0).to(tl.float64) * scale
    chunk, goal = _pick_chunk(mass, tl.load(uniform_ptr + row), PAD)
    chosen_top = tl.max(tl.where(index == chunk, tops, _NEG_INF), 0)
    goal = goal / tl.exp(chosen_top - finite(top)).to(tl.float64)  # in the chunk's own scale
    z = scores(ptr, stop_ptr, stride, stop, row, chunk * CHUNK + tl.arange(0, CHUNK), size)
    token = _pick_token(tl.exp(z - finite(chosen_top)), z, goal.to(tl.float32), chunk * CHUNK, CHUNK)
    tl.store(token_ptr + row, token)
    tl.store(normaliser_ptr + row, finite(top) + tl.log(tl.sum(mass, 0)))


@triton.jit
def _excess(
    p_ptr, p_stop_ptr, p_stride, p_stop, q_ptr, q_stop_ptr, q_stride, q_stop, beta_ptr, log_zp_ptr, log_zq_ptr,
    log_zmu_ptr, row, chunk, size, EXACT: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """mu - p at one chunk of a row; -inf where mu has no mass."""
    cols = chunk * CHUNK + tl.arange(0, CHUNK)
    zp = scores(p_ptr, p_stop_ptr, p_stride, p_stop, row, cols, size)
    zq = scores(q_ptr, q_stop_ptr, q_stride, q_stop, row, cols, size)
    beta, log_zp = tl.load(beta_ptr + row), tl.load(log_zp_ptr + row)
    common, r = centred(zp, zq, tl.load(log_zq_ptr + row) - log_zp, EXACT)
    outside = tl.where(beta > 0.0, _NEG_INF, 0.0)  # mu = p at beta 0, also where q has no mass
    u = tl.where(common, beta * r - tl.load(log_zmu_ptr + row), outside)
    mu, gain, _ = tilt_weights(zp - log_zp, u, 0.0)
    return tl.where(mu > 0.0, gain, _NEG_INF)


@triton.jit
def residual_sums(
    p_ptr, p_stop_ptr, p_stride, p_stop, q_ptr, q_stop_ptr, q_stride, q_stop, beta_ptr, log_zp_ptr, log_zq_ptr,
    log_zmu_ptr, rows_ptr, sums_ptr, size,
    HAS_ROWS: tl.constexpr, EXACT: tl.constexpr, CHUNK: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """Maximum of mu - p and sum of its positive part, of one chunk."""
    place, chunk = tl.program_id(0), tl.program_id(1)
    row = tl.load(rows_ptr + place) if HAS_ROWS else place
    excess = _excess(
        p_ptr, p_stop_ptr, p_stride, p_stop, q_ptr, q_stop_ptr, q_stride, q_stop,
        beta_ptr, log_zp_ptr, log_zq_ptr, log_zmu_ptr, row, chunk, size, EXACT, CHUNK,
    )  # fmt: skip
    at = sums_ptr + place * (2 * PAD) + chunk
    tl.store(at, tl.max(excess, 0))
    tl.store(at + PAD, tl.sum(tl.maximum(excess, 0.0), 0))


@triton.jit
def residual_pick(
    p_ptr, p_stop_ptr, p_stride, p_stop, q_ptr, q_stop_ptr, q_stride, q_stop, beta_ptr, log_zp_ptr, log_zq_ptr,
    log_zmu_ptr, rows_ptr, uniform_ptr, sums_ptr, token_ptr, size, chunks,
    HAS_ROWS: tl.constexpr, EXACT: tl.constexpr, CHUNK: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """One token of the normalised positive part of mu - p; the greatest mu - p where that part is empty."""
    place, index = tl.program_id(0), tl.arange(0, PAD)
    row = tl.load(rows_ptr + place) if HAS_ROWS else place
    live, at = index < chunks, sums_ptr + place * (2 * PAD) + index
    mass = tl.load(at + PAD, mask=live, other=0.0).to(tl.float64)
    chunk, goal = _pick_chunk(mass, tl.load(uniform_ptr + place), PAD)
    heaviest = tl.argmax(tl.load(at, mask=live, other=_NEG_INF), 0)
    chunk = tl.where(tl.sum(mass, 0) > 0.0, chunk, heaviest)
    excess = _excess(
        p_ptr, p_stop_ptr, p_stride, p_stop, q_ptr, q_stop_ptr, q_stride, q_stop,
        beta_ptr, log_zp_ptr, log_zq_ptr, log_zmu_ptr, row, chunk, size, EXACT, CHUNK,
    )  # fmt: skip
    token = _pick_token(tl.maximum(excess, 0.0), excess, goal.to(tl.float32), chunk * CHUNK, CHUNK)
    tl.store(token_ptr + place, token)
