"""Triton kernels of the fused trust-region blend: one program for each chunk of a row (see `fused.blend`).

With d = z_q - z_p (scores), a constant c close to E_p[d] and u = beta (d - c), mu_beta is proportional to p e^u, and

    A  = log E_p[e^u] = log1p(E_p[expm1(u)])
    KL = E_p[psi(u)] / (1 + x) - (log1p(x) - x / (1 + x)),   x = E_p[expm1(u)],   psi(u) = u e^u - expm1(u) >= 0.

Every term of E_p[psi] is at least 0 and the bracket is O(x^2), so float32 sums give the KL with a relative error
near 1e-7 however small it is; beta A' - A from plain sums would lose it. Sums of a chunk are float32, what joins the
chunks is float64. `common` is the common support of p and q; the KL above is to p renormalised there, and
`jump` = -log p(common) is added to it.

Wide kernels run one program for each (row, chunk) and write float32 sums; between them small kernels, one warp a row,
join these and keep the row's state (`fused_rows`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .fused_rows import (
    LAST_SUMS,
    ROW_FIELDS,
    STATE_FIELDS,
    SURVEY_SUMS,
    TILT_SUMS,
    advance,
    finite,
    next_state,
    store_state,
)

_NEG_INF = tl.constexpr(float("-inf"))


@triton.jit
def scores(logits_ptr, stop_ptr, stride, stop_id, row, cols, size):
    """Canonical scores of one row at `cols`, float32; -inf from `size` on."""
    at = logits_ptr + row.to(tl.int64) * stride + cols
    z = tl.load(at, mask=cols < size, other=_NEG_INF).to(tl.float32)
    return tl.where(cols == stop_id, tl.load(stop_ptr + row), z)


@triton.jit
def centred(zp, zq, center, EXACT: tl.constexpr):
    """Whether a token is in the common support, and d - c there (0 elsewhere).

    For float32 scores (EXACT) the rounding of z_q - z_p is put back: at p close to q it is not small against d - c.
    """
    common = (zp > _NEG_INF) & (zq > _NEG_INF)
    d = zq - zp
    r = d - center
    if EXACT:
        back = d - zq
        r += (zq - (d - back)) - (zp + back)
    return common, tl.where(common, r, 0.0)


@triton.jit
def tilt_weights(log_w, u, shift):
    """w e^u, w expm1(u) and w psi(u) for w = exp(log_w - shift); a series where |u| < 1/2."""
    w = tl.exp(log_w - shift)
    tilted = tl.exp(log_w + u - shift)
    h = 1.0 / 5040 + u * (1.0 / 40320)  # (expm1(u) - u) / u^2
    h = 1.0 / 720 + u * h
    h = 1.0 / 120 + u * h
    h = 1.0 / 24 + u * h
    h = 1.0 / 6 + u * h
    h = 0.5 + u * h
    small = tl.abs(u) < 0.5
    gain = tl.where(small, w * (u + u * u * h), tilted - w)
    cost = tl.where(small, w * (u * u) * (1.0 + u * h - h), u * tilted - (tilted - w))
    return tilted, gain, cost


@triton.jit
def survey(
    p_ptr, p_stop_ptr, p_stride, p_stop, q_ptr, q_stop_ptr, q_stride, q_stop, sums_ptr, size,
    CHUNK: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """First pass: maxima and sums of both sides, moments of d under p, and what KL(q || p) and q's entropy need."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    cols = chunk * CHUNK + tl.arange(0, CHUNK)
    zp = scores(p_ptr, p_stop_ptr, p_stride, p_stop, row, cols, size)
    zq = scores(q_ptr, q_stop_ptr, q_stride, q_stop, row, cols, size)
    max_p, max_q = tl.max(zp, 0), tl.max(zq, 0)
    log_p, log_q = zp - finite(max_p), zq - finite(max_q)
    p, q = tl.exp(log_p), tl.exp(log_q)
    common = (zp > _NEG_INF) & (zq > _NEG_INF)
    d = tl.where(common, log_q - log_p, 0.0)
    p_common, q_common = tl.where(common, p, 0.0), tl.where(common, q, 0.0)
    at = sums_ptr + row * (SURVEY_SUMS * PAD) + chunk
    tl.store(at, max_p)
    tl.store(at + PAD, max_q)
    tl.store(at + 2 * PAD, tl.sum(p_common, 0))
    tl.store(at + 3 * PAD, tl.sum(tl.where(common, 0.0, p), 0))
    tl.store(at + 4 * PAD, tl.sum(q, 0))
    tl.store(at + 5 * PAD, tl.sum(tl.where(zq > _NEG_INF, q * log_q, 0.0), 0))
    tl.store(at + 6 * PAD, tl.sum(q_common, 0))
    tl.store(at + 7 * PAD, tl.sum(q_common * d, 0))
    tl.store(at + 8 * PAD, tl.sum(p_common * d, 0))
    tl.store(at + 9 * PAD, tl.sum(p_common * d * d, 0))
    tl.store(at + 10 * PAD, tl.sum(p_common * d * d * d, 0))


@triton.jit
def _try(
    p_ptr, p_stop_ptr, p_stride, p_stop, q_ptr, q_stop_ptr, q_stride, q_stop, row, chunk, beta, max_p, center,
    size, EXACT: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Sums of one chunk at beta, all in the frame exp(shift): shift, w expm1(u), w psi(u), w e^u u^2, w e^u u^3."""
    cols = chunk * CHUNK + tl.arange(0, CHUNK)
    zp = scores(p_ptr, p_stop_ptr, p_stride, p_stop, row, cols, size)
    zq = scores(q_ptr, q_stop_ptr, q_stride, q_stop, row, cols, size)
    common, r = centred(zp, zq, center.to(tl.float32), EXACT)
    log_w = tl.where(common, zp - max_p.to(tl.float32), _NEG_INF)
    u = beta.to(tl.float32) * r
    shift = tl.max(log_w + tl.maximum(u, 0.0), 0)
    tilted, gain, cost = tilt_weights(log_w, u, finite(shift))
    second = tilted * u * u
    return shift, tl.sum(gain, 0), tl.sum(cost, 0), tl.sum(second, 0), tl.sum(second * u, 0)


@triton.jit
def tilt(
    p_ptr, p_stop_ptr, p_stride, p_stop, q_ptr, q_stop_ptr, q_stride, q_stop, rows_ptr, state_ptr, sums_ptr, size,
    EXACT: tl.constexpr, CHUNK: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """This chunk's sums at the row's beta, if the row is not settled."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    row_at, state_at = rows_ptr + row * ROW_FIELDS, state_ptr + row * STATE_FIELDS
    if tl.load(state_at) == 0.0:
        shift, gain, cost, second, third = _try(
            p_ptr, p_stop_ptr, p_stride, p_stop, q_ptr, q_stop_ptr, q_stride, q_stop,
            row, chunk, tl.load(state_at + 1), tl.load(row_at), tl.load(row_at + 1), size, EXACT, CHUNK,
        )  # fmt: skip
        at = sums_ptr + row * (TILT_SUMS * PAD) + chunk
        tl.store(at, shift)
        tl.store(at + PAD, gain)
        tl.store(at + 2 * PAD, cost)
        tl.store(at + 3 * PAD, second)
        tl.store(at + 4 * PAD, third)


@triton.jit
def finish(
    p_ptr, p_stop_ptr, p_stride, p_stop, q_ptr, q_stop_ptr, q_stride, q_stop, eps_ptr, rows_ptr,
    state_ptr, sums_ptr, size,
    CHUNKS: tl.constexpr, EXACT: tl.constexpr, CHUNK: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """The rows that the wide passes left open, one program each, until they are settled."""
    row = tl.program_id(0)
    row_at, state_at = rows_ptr + row * ROW_FIELDS, state_ptr + row * STATE_FIELDS
    eps = tl.load(eps_ptr + row)
    max_p, center, log_common = tl.load(row_at), tl.load(row_at + 1), tl.load(row_at + 2)
    jump, target = tl.load(row_at + 3), tl.load(row_at + 4)
    settled, beta, norm, low, high, low_norm, passes = next_state(
        state_at, row_at, sums_ptr, row, eps, CHUNKS, PAD
    )
    while settled == 0.0:
        frame = tl.zeros([], tl.float64) - 1e30
        gain, cost = tl.zeros([], tl.float64), tl.zeros([], tl.float64)
        second, third = tl.zeros([], tl.float64), tl.zeros([], tl.float64)
        for chunk in range(CHUNKS):
            shift, gain_c, cost_c, second_c, third_c = _try(
                p_ptr, p_stop_ptr, p_stride, p_stop, q_ptr, q_stop_ptr, q_stride, q_stop,
                row, chunk, beta, max_p, center, size, EXACT, CHUNK,
            )  # fmt: skip
            shift = shift.to(tl.float64)
            top = tl.where(shift > frame, shift, frame)
            old, new = tl.exp(frame - top), tl.exp(shift - top)
            gain, cost = gain * old + gain_c * new, cost * old + cost_c * new
            second, third = second * old + second_c * new, third * old + third_c * new
            frame = top
        settled, beta, norm, low, high, low_norm, passes = advance(
            beta, low, high, low_norm, passes, frame, gain, cost, second, third, log_common, jump, target, eps
        )
    tl.debug_barrier()  # every warp has read the state by now
    store_state(state_at, settled, beta, norm, low, high, low_norm, passes)


@triton.jit
def apply(
    p_ptr, p_stop_ptr, p_stride, p_stop, q_ptr, q_stop_ptr, q_stride, q_stop, rows_ptr, state_ptr, sums_ptr,
    log_mu_ptr, size,
    WRITE: tl.constexpr, EXACT: tl.constexpr, CHUNK: tl.constexpr, PAD: tl.constexpr,
):  # fmt: skip
    """Last pass: sums of |mu - p| and p psi(log mu/p) on the common support; with WRITE also log mu (p at beta 0)."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    row_at, state_at = rows_ptr + row * ROW_FIELDS, state_ptr + row * STATE_FIELDS
    beta, norm = tl.load(state_at + 1), tl.load(state_at + 2)
    if (beta > 0.0) | WRITE:
        cols = chunk * CHUNK + tl.arange(0, CHUNK)
        zp = scores(p_ptr, p_stop_ptr, p_stride, p_stop, row, cols, size)
        zq = scores(q_ptr, q_stop_ptr, q_stride, q_stop, row, cols, size)
        common, r = centred(zp, zq, tl.load(row_at + 1).to(tl.float32), EXACT)
        log_p = zp - tl.load(row_at).to(tl.float32) - tl.load(row_at + 5).to(tl.float32)
        log_p = tl.where(common, log_p, _NEG_INF)
        ratio = beta.to(tl.float32) * r - (norm - tl.load(row_at + 3)).to(tl.float32)
        _, gain, cost = tilt_weights(log_p, tl.where(common, ratio, 0.0), 0.0)
        at = sums_ptr + row * (LAST_SUMS * PAD) + chunk
        tl.store(at, tl.sum(tl.abs(gain), 0))
        tl.store(at + PAD, tl.sum(cost, 0))
        if WRITE:
            log_mu = tl.where(beta > 0.0, log_p + ratio, zp)
            at = log_mu_ptr + row.to(tl.int64) * size + cols
            tl.store(at, log_mu.to(log_mu_ptr.dtype.element_ty), mask=cols < size)
