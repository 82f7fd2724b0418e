"""Triton kernels between the passes of `fused_kernels`: one warp a row joins the sums of its chunks, in float64.

They keep a row's constants (ROW_FIELDS) and the state of its search (STATE_FIELDS), and choose the next beta as
`trust_region` does: a step of a fast root-finder, moved as far as bisection needs to finish in MAX_PASSES.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .trust_region import BETA_TOLERANCE, BUDGET_MARGIN, KL_TOLERANCE, MAX_PASSES

SURVEY_SUMS = tl.constexpr(11)
TILT_SUMS = tl.constexpr(5)
LAST_SUMS = tl.constexpr(2)
ROW_FIELDS = tl.constexpr(8)
"""max z_p, c, log sum over `common` of exp(z_p - max), jump, target KL, log Z_p - max z_p, log Z_q, entropy of q."""
STATE_FIELDS = tl.constexpr(7)
"""settled, beta (the next to try, or the answer), A there, low, high, A at low, passes."""
NEAR = tl.constexpr(2e-3)
"""A KL this close (relative) to the target needs no further pass: the step from there has an error of its cube."""
_MARGIN, _SLACK = tl.constexpr(BUDGET_MARGIN), tl.constexpr(KL_TOLERANCE)
_WIDTH, _MAX_PASSES = tl.constexpr(2.0 * BETA_TOLERANCE), tl.constexpr(MAX_PASSES)
_NEG_INF = tl.constexpr(float("-inf"))


@triton.jit
def _log1p(x):
    """log(1 + x) of a float64 scalar: the rounding of 1 + x is put back."""
    y = 1.0 + x
    return tl.log(y) - ((y - 1.0) - x) / y


@triton.jit
def finite(x):
    """x, but 0 for -inf: the maximum of nothing."""
    return tl.where(x == _NEG_INF, 0.0, x)


@triton.jit
def _joined(at, index, live, weight, PAD: tl.constexpr):
    """Chunk sums of one kind, scaled to the row's maximum; float64."""
    return tl.load(at + index * PAD, mask=live, other=0.0).to(tl.float64) * weight


@triton.jit
def _inside(guess, low, high, passes):
    """The guess in float32 steps, moved as far as bisection needs to finish in time (`trust_region._inside`)."""
    half = 0.5 * (high - low)
    middle = low + half
    radius = _WIDTH * tl.exp2(_MAX_PASSES - 1.0 - passes) - half
    radius = tl.where(radius > half, half, tl.where(radius > 0.0, radius, 0.0))
    guess = tl.where((guess > low) & (guess < high), guess, middle)  # NaN included
    guess = tl.where(guess > middle + radius, middle + radius, guess)
    guess = tl.where(guess < middle - radius, middle - radius, guess)
    return guess.to(tl.float32).to(tl.float64)


@triton.jit
def store_state(at, settled, beta, norm, low, high, low_norm, passes):
    tl.store(at, settled)
    tl.store(at + 1, beta)
    tl.store(at + 2, norm)
    tl.store(at + 3, low)
    tl.store(at + 4, high)
    tl.store(at + 5, low_norm)
    tl.store(at + 6, passes)


@triton.jit
def open_rows(sums_ptr, eps_ptr, rows_ptr, state_ptr, chunks, PAD: tl.constexpr):
    """Row constants and the first beta to try, from the survey.

    The first beta is 1 where KL(q || p) may be within the budget, else the root of the series of sqrt(2 KL) to
    second order: beta (1 + beta third / (3 variance)) sqrt(variance), all of r = log q - log p under p.
    """
    row, index = tl.program_id(0), tl.arange(0, PAD)
    eps, row_at = tl.load(eps_ptr + row), rows_ptr + row * ROW_FIELDS
    live = index < chunks
    at = sums_ptr + row * (SURVEY_SUMS * PAD) + index
    max_ps = tl.load(at, mask=live, other=_NEG_INF)
    max_qs = tl.load(at + PAD, mask=live, other=_NEG_INF)
    max_p, max_q = finite(tl.max(max_ps, 0)), finite(tl.max(max_qs, 0))
    by_p, by_q = tl.exp(max_ps - max_p).to(tl.float64), tl.exp(max_qs - max_q).to(tl.float64)
    # d is measured from max q - max p: that of the chunk in its sums, that of the row from here on.
    both = (max_ps > _NEG_INF) & (max_qs > _NEG_INF)
    shift = tl.where(both, (max_qs - max_q) - (max_ps - max_p), 0.0).to(tl.float64)
    p0, p1 = _joined(at, 2, live, by_p, PAD), _joined(at, 8, live, by_p, PAD)
    p2, p3 = _joined(at, 9, live, by_p, PAD), _joined(at, 10, live, by_p, PAD)
    q0, q1 = _joined(at, 6, live, by_q, PAD), _joined(at, 7, live, by_q, PAD)
    out = tl.sum(_joined(at, 3, live, by_p, PAD), 0)
    common, q_common = tl.sum(p0, 0), tl.sum(q0, 0)
    safe = tl.where(common > 0, common, 1.0)
    mean = tl.sum(p1 + shift * p0, 0) / safe
    a = shift - mean
    variance = tl.sum(p2 + a * (2.0 * p1 + a * p0), 0) / safe
    third = tl.sum(p3 + a * (3.0 * p2 + a * (3.0 * p1 + a * p0)), 0) / safe
    jump = _log1p(out / safe)
    log_common = tl.log(safe)
    target = eps * (1.0 - _MARGIN) - jump
    q_mean = tl.sum(q1 + shift * q0, 0) / tl.where(q_common > 0, q_common, 1.0)
    whole = q_mean + tl.log(common + out) - tl.log(tl.where(q_common > 0, q_common, 1.0))  # KL(q || p) or so
    usable = (common > 0) & (q_common > 0) & (eps > 0) & (target > 0)
    maybe = whole * (1.0 - 1e-3) - 1e-5 <= eps
    aim = tl.sqrt(2.0 * target)
    bend = -aim * third / (3.0 * variance * tl.sqrt(variance))
    bend = tl.where(bend > 0.5, 0.5, tl.where(bend > -0.5, bend, -0.5))
    guess = tl.where(maybe, 1.0, _inside(aim / tl.sqrt(variance) * (1.0 + bend), 0.0, 1.0, 0.0))
    q_parts = _joined(at, 4, live, by_q, PAD)
    behind = tl.where(max_qs > _NEG_INF, max_qs - max_q, 0.0).to(tl.float64)
    q_sum, q_log = tl.sum(q_parts, 0), tl.sum(_joined(at, 5, live, by_q, PAD) + q_parts * behind, 0)
    tl.store(row_at, max_p)
    tl.store(row_at + 1, (mean + max_q - max_p).to(tl.float32))
    tl.store(row_at + 2, log_common)
    tl.store(row_at + 3, jump)
    tl.store(row_at + 4, target)
    tl.store(row_at + 5, tl.log(common + out))
    tl.store(row_at + 6, max_q + tl.log(q_sum))
    tl.store(row_at + 7, tl.log(q_sum) - q_log / q_sum)
    settled, zero = tl.where(usable, 0.0, 1.0), tl.zeros([], tl.float64)
    state_at = state_ptr + row * STATE_FIELDS
    store_state(state_at, settled, tl.where(usable, guess, 0.0), zero, zero, zero + 1.0, zero, zero)


@triton.jit
def advance(
    beta, low, high, low_norm, passes, shift, gain, cost, second, third, log_common, jump, target, eps
):
    """Judge the beta that was tried by its sums (frame exp(shift)) and choose the next one, or the answer.

    Returns settled, beta, A at beta, low, high, A at low, passes. The step is the inverse series of
    G(beta) = sqrt(2 KL) to second order: with G' = V2 / G (V2, V3 central moments of u under mu, scaled by beta)
    and G'' = (V2 + V3 - G'^2) / G. Near the target it is the answer, and A there follows from its own series.
    """
    base = tl.exp(log_common - shift)
    total = base + gain
    far = shift - log_common > 300.0
    norm = tl.where(far, shift + tl.log(total) - log_common, _log1p(gain / tl.where(far, 1.0, base)))
    mean = (cost + gain) / total
    kl = tl.where(mean > norm, mean - norm, 0.0)
    m2, m3 = second / total, third / total
    v2, v3 = m2 - mean * mean, m3 - 3.0 * mean * m2 + 2.0 * mean * mean * mean
    passes += 1.0
    feasible = kl <= target * (1.0 + _SLACK)
    low, low_norm = tl.where(feasible, beta, low), tl.where(feasible, norm, low_norm)
    high = tl.where(feasible, high, beta)

    g = tl.sqrt(2.0 * kl)
    slope = v2 / g
    step = (tl.sqrt(2.0 * target) - g) / slope
    bend = -0.5 * (v2 + v3 - slope * slope) / (g * slope) * step
    bend = tl.where(bend > 0.5, 0.5, tl.where(bend > -0.5, bend, -0.5))
    aimed = beta * (1.0 + step * (1.0 + bend))
    aimed = tl.where(aimed < 1.0, aimed, 1.0)

    whole = (beta == 1.0) & (kl + jump <= eps)
    near = (tl.abs(kl - target) <= NEAR * target) & (aimed > 0.0)
    narrow = (high - low <= _WIDTH) | (passes >= _MAX_PASSES)
    answer = aimed.to(tl.float32).to(tl.float64)
    by = answer / beta - 1.0
    answer_norm = norm + by * (mean + by * (0.5 * v2 + by * v3 / 6.0))
    answer, answer_norm = tl.where(near, answer, low), tl.where(near, answer_norm, low_norm)
    answer, answer_norm = tl.where(whole, 1.0, answer), tl.where(whole, norm, answer_norm)
    settled = whole | near | narrow
    beta = tl.where(settled, answer, _inside(aimed, low, high, passes))
    return settled.to(tl.float64), beta, answer_norm, low, high, low_norm, passes


@triton.jit
def next_state(state_at, row_at, sums_ptr, row, eps, chunks, PAD: tl.constexpr):
    """A row's state after the pass whose chunk sums are given; a settled row stays as it is."""
    settled, beta, norm = tl.load(state_at), tl.load(state_at + 1), tl.load(state_at + 2)
    low, high, low_norm = tl.load(state_at + 3), tl.load(state_at + 4), tl.load(state_at + 5)
    passes = tl.load(state_at + 6)
    if settled == 0.0:
        index = tl.arange(0, PAD)
        live = index < chunks
        at = sums_ptr + row * (TILT_SUMS * PAD) + index
        shifts = tl.load(at, mask=live, other=_NEG_INF)
        shift = tl.max(shifts, 0)
        by = tl.exp(shifts - shift).to(tl.float64)
        gain, cost = tl.sum(_joined(at, 1, live, by, PAD), 0), tl.sum(_joined(at, 2, live, by, PAD), 0)
        second, third = tl.sum(_joined(at, 3, live, by, PAD), 0), tl.sum(_joined(at, 4, live, by, PAD), 0)
        settled, beta, norm, low, high, low_norm, passes = advance(
            beta, low, high, low_norm, passes, shift.to(tl.float64), gain, cost, second, third,
            tl.load(row_at + 2), tl.load(row_at + 3), tl.load(row_at + 4), eps,
        )  # fmt: skip
    return settled, beta, norm, low, high, low_norm, passes


@triton.jit
def step(eps_ptr, rows_ptr, state_ptr, sums_ptr, chunks, PAD: tl.constexpr):
    """Join the sums of a wide pass and choose each row's next beta."""
    row = tl.program_id(0)
    row_at, state_at = rows_ptr + row * ROW_FIELDS, state_ptr + row * STATE_FIELDS
    settled, beta, norm, low, high, low_norm, passes = next_state(
        state_at, row_at, sums_ptr, row, tl.load(eps_ptr + row), chunks, PAD
    )
    store_state(state_at, settled, beta, norm, low, high, low_norm, passes)


@triton.jit
def report(rows_ptr, state_ptr, sums_ptr, out_ptr, rows, chunks, PAD: tl.constexpr):
    """Join the last pass: the fields of `FusedBlend`, each a row of out [8, N]."""
    row = tl.program_id(0)
    row_at, state_at = rows_ptr + row * ROW_FIELDS, state_ptr + row * STATE_FIELDS
    beta, norm, jump = tl.load(state_at + 1), tl.load(state_at + 2), tl.load(row_at + 3)
    log_zp, log_zq = tl.load(row_at) + tl.load(row_at + 5), tl.load(row_at + 6)
    index = tl.arange(0, PAD)
    live = index < chunks
    at = sums_ptr + row * (LAST_SUMS * PAD) + index
    gap = tl.sum(tl.load(at, mask=live, other=0.0).to(tl.float64), 0)
    cost = tl.sum(tl.load(at + PAD, mask=live, other=0.0).to(tl.float64), 0)
    outside = 1.0 - tl.exp(-jump)  # p outside the common support: mu is 0 there, and psi(-inf) = 1
    log_mu_norm = norm - jump - beta * (log_zq - log_zp - tl.load(row_at + 1))
    at = out_ptr + row
    tl.store(at, beta)
    tl.store(at + rows, tl.where(beta > 0.0, cost + outside, 0.0))
    tl.store(at + 2 * rows, tl.where(beta > 0.0, 0.5 * (gap + outside), 0.0))
    tl.store(at + 3 * rows, log_zp)
    tl.store(at + 4 * rows, log_zq)
    tl.store(at + 5 * rows, tl.where(beta > 0.0, log_mu_norm, 0.0))
    tl.store(at + 6 * rows, tl.load(row_at + 7))
    tl.store(at + 7 * rows, tl.load(state_at + 6) + 2.0)
