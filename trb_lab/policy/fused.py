"""The trust-region blend and its draws in a few fused Triton kernels: what a rollout on a GPU calls at each token.

The same science as `trust_region` (float64, on a CPU) and `coupling`, read straight from the logits: no float32 copy
of them, no log-softmax, no distribution written. All functions are deterministic, do not wait for the device, and
give a row the same bits whatever else is in the batch. Scores may be float32, bfloat16 or float16, rows any stride
apart, columns adjacent. Shape suffixes: N rows, M chosen rows, V vocabulary, W logit width.

How a blend goes: one survey of both rows (sums and moments), passes that each try one beta, a last pass for TV and
KL; 3 or 4 passes in all for most rows. A pass is one launch over (row, chunk of CHUNK columns), so that a small batch
fills the device too. Rows that are still open after WIDE_PASSES tries, few, go on alone: the number of launches does
not depend on the data.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .eos import NEG_INF, Scores

CHUNK = 2048
"""Columns of one program of the blend; a power of two."""
NUM_WARPS = 4
DRAW_CHUNK = 2048
DRAW_NUM_WARPS = 4
WIDE_PASSES = 3
"""Betas that are tried by all programs of a row together before the rows still open go on alone."""


class FusedBlend(NamedTuple):
    """A batch of blends: float32 [N] each. mu is p where beta is 0."""

    beta: Tensor
    kl: Tensor
    """KL(mu || p), nats."""
    redraw: Tensor
    """TV(p, mu): the chance that a token of p is not kept."""
    log_p_normaliser: Tensor
    """log p = score - this."""
    log_q_normaliser: Tensor
    log_mu_normaliser: Tensor
    """log mu = (1 - beta) log p + beta log q - this on the common support; 0 where beta is 0."""
    teacher_entropy: Tensor
    """Entropy of q, nats."""
    passes: Tensor
    """Sweeps over the vocabulary that the row took, survey and last pass included."""


def available(device: torch.device | str) -> bool:
    """Whether the kernels run on this device: CUDA, or a CPU under TRITON_INTERPRET=1; Triton installed."""
    if importlib.util.find_spec("triton") is None:
        return False
    kind = torch.device(device).type
    return kind == "cuda" or (kind == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")


def draw(scores: Scores, uniform_N: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row from softmax(scores), by inverting its cumulative distribution.

    Args:
        scores: [N, W]; at least one finite score a row.
        uniform_N: float64 uniforms in [0, 1).

    Returns tokens [N], int64, and log normalisers [N], float32. Sums within a chunk are float32 (a token's probability
    is right to about 1e-6 of it plus 1e-7), across chunks float64. A token without mass is never returned.
    """
    from . import fused_draw_kernels as kernels

    logits = _rows(scores.logits_NW)
    rows, chunks, pad = logits.shape[0], _chunks(scores.size, DRAW_CHUNK), _pad(scores.size, DRAW_CHUNK)
    tokens_N = torch.empty(rows, dtype=torch.int64, device=logits.device)
    normaliser_N = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if rows == 0:
        return tokens_N, normaliser_N
    sums = torch.empty(rows, 2, pad, dtype=torch.float32, device=logits.device)
    side = _side(scores, logits)
    shape = {"CHUNK": DRAW_CHUNK, "PAD": pad, "num_warps": DRAW_NUM_WARPS}
    with torch.cuda.device_of(logits):
        kernels.draw_sums[(rows, chunks)](*side, sums, scores.size, **shape)
        kernels.draw_pick[(rows,)](
            *side, uniform_N.contiguous(), sums, tokens_N, normaliser_N, scores.size, chunks, **shape
        )
    return tokens_N, normaliser_N


def blend(p: Scores, q: Scores, eps: float | Tensor) -> FusedBlend:
    """The largest beta in [0, 1] with KL(mu_beta || p) <= eps, row by row (`trust_region`, method, section 2).

    Args:
        p, q: student and teacher [N, W_p], [N, W_q] over the same V = size ids.
        eps: budget in nats, a number or one for each row [N]; 0 gives p, infinity q on the common support.

    Rows whose common support is empty, or whose KL jumps over eps as beta leaves 0, give p (beta 0).
    """
    return _solve(p, q, eps, None)


def blend_log_probs(log_p_NV: Tensor, log_q_NV: Tensor, eps: float | Tensor) -> tuple[Tensor, FusedBlend]:
    """`blend` of plain [N, V] scores; also log mu [N, V], in the dtype of log_p: log_p as given where beta is 0."""
    log_mu_NV = torch.empty(log_p_NV.shape, dtype=log_p_NV.dtype, device=log_p_NV.device)
    empty_N = torch.empty(log_p_NV.shape[0], dtype=torch.float32, device=log_p_NV.device)
    size = log_p_NV.shape[-1]
    p, q = Scores(log_p_NV.detach(), empty_N, -1, size), Scores(log_q_NV.detach(), empty_N, -1, size)
    return log_mu_NV, _solve(p, q, eps, log_mu_NV)


def draw_residual(
    p: Scores, q: Scores, solved: FusedBlend, rows_M: Tensor | None, uniform_M: Tensor
) -> Tensor:
    """One token a row from the normalised positive part of (mu - p): what replaces a token of p that is not kept.

    Args:
        p, q, solved: as given to and by `blend`.
        rows_M: int64 rows to draw for, or None for all N in order.
        uniform_M: float64 uniforms in [0, 1).

    Returns int64 [M]. Where that part is empty (mu = p, or all of it rounds to 0) the token with the greatest mu - p
    among those with mu > 0 is returned: such a row asks for a redraw with a probability of 1e-7 at most.
    """
    from . import fused_draw_kernels as kernels

    p_rows, q_rows = _rows(p.logits_NW), _rows(q.logits_NW)
    count, chunks, pad = uniform_M.shape[0], _chunks(p.size, DRAW_CHUNK), _pad(p.size, DRAW_CHUNK)
    tokens_M = torch.empty(count, dtype=torch.int64, device=p_rows.device)
    if count == 0:
        return tokens_M
    sums = torch.empty(count, 2, pad, dtype=torch.float32, device=p_rows.device)
    index = tokens_M if rows_M is None else rows_M.contiguous()
    normalisers = (solved.beta, solved.log_p_normaliser, solved.log_q_normaliser, solved.log_mu_normaliser)
    inputs = (*_side(p, p_rows), *_side(q, q_rows), *normalisers, index)
    shape: dict[str, Any] = {"HAS_ROWS": rows_M is not None, "EXACT": _exact(p, q)}
    shape |= {"CHUNK": DRAW_CHUNK, "PAD": pad, "num_warps": DRAW_NUM_WARPS}
    with torch.cuda.device_of(p_rows):
        kernels.residual_sums[(count, chunks)](*inputs, sums, p.size, **shape)
        kernels.residual_pick[(count,)](
            *inputs, uniform_M.contiguous(), sums, tokens_M, p.size, chunks, **shape
        )
    return tokens_M


def token_log_probs(
    p: Scores, q: Scores, solved: FusedBlend, tokens_N: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """log p, log q and log mu of one token a row; float32 [N] each, -inf where there is no mass."""
    log_p_N = p.at(tokens_N[:, None]).squeeze(-1) - solved.log_p_normaliser
    log_q_N = q.at(tokens_N[:, None]).squeeze(-1) - solved.log_q_normaliser
    common_N = torch.isfinite(log_p_N) & torch.isfinite(log_q_N)
    log_mu_N = log_p_N + solved.beta * (log_q_N - log_p_N) - solved.log_mu_normaliser
    log_mu_N = torch.where(common_N, log_mu_N, NEG_INF)
    return log_p_N, log_q_N, torch.where(solved.beta == 0, log_p_N, log_mu_N)


def _solve(p: Scores, q: Scores, eps: float | Tensor, log_mu_NV: Tensor | None) -> FusedBlend:
    from . import fused_kernels as kernels
    from . import fused_rows as by_row

    if p.size != q.size:
        raise ValueError(
            f"student and teacher scores cover {p.size} and {q.size} ids: give both one shared vocabulary"
        )
    p_rows, q_rows = _rows(p.logits_NW), _rows(q.logits_NW)
    rows, device, size = p_rows.shape[0], p_rows.device, p.size
    chunks, pad = _chunks(size, CHUNK), _pad(size, CHUNK)
    out = torch.empty(len(FusedBlend._fields), rows, dtype=torch.float32, device=device)
    if rows == 0:
        return FusedBlend(*out)
    if isinstance(eps, Tensor):
        eps_N = eps.to(device=device, dtype=torch.float64).expand(rows).contiguous()
    else:
        eps_N = torch.full((rows,), eps, dtype=torch.float64, device=device)
    constants = torch.empty(rows, by_row.ROW_FIELDS.value, dtype=torch.float64, device=device)
    state = torch.empty(rows, by_row.STATE_FIELDS.value, dtype=torch.float64, device=device)
    sums = torch.empty(rows, by_row.SURVEY_SUMS.value, pad, dtype=torch.float32, device=device)  # of any pass
    inputs = (*_side(p, p_rows), *_side(q, q_rows))
    wide, small = (rows, chunks), (rows,)
    shape: dict[str, Any] = {"CHUNK": CHUNK, "PAD": pad, "num_warps": NUM_WARPS}
    exact = _exact(p, q)
    with torch.cuda.device_of(p_rows):
        kernels.survey[wide](*inputs, sums, size, **shape)
        by_row.open_rows[small](sums, eps_N, constants, state, chunks, PAD=pad, num_warps=1)
        for i in range(WIDE_PASSES):
            if i > 0:
                by_row.step[small](eps_N, constants, state, sums, chunks, PAD=pad, num_warps=1)
            kernels.tilt[wide](*inputs, constants, state, sums, size, EXACT=exact, **shape)
        kernels.finish[small](
            *inputs, eps_N, constants, state, sums, size, CHUNKS=chunks, EXACT=exact, **shape
        )
        write = log_mu_NV is not None
        log_mu = sums if log_mu_NV is None else log_mu_NV
        kernels.apply[wide](*inputs, constants, state, sums, log_mu, size, WRITE=write, EXACT=exact, **shape)
        by_row.report[small](constants, state, sums, out, rows, chunks, PAD=pad, num_warps=1)
    return FusedBlend(*out)


def _rows(logits_NW: Tensor) -> Tensor:
    return logits_NW if logits_NW.stride(-1) == 1 else logits_NW.contiguous()


def _side(scores: Scores, logits_NW: Tensor) -> tuple[Tensor, Tensor, int, int]:
    return logits_NW, scores.stop_N.contiguous(), logits_NW.stride(0), scores.stop_id


def _exact(p: Scores, q: Scores) -> bool:
    """Differences of 16-bit scores are exact in float32, or as good as; those of float32 scores are not."""
    return torch.float32 in (p.logits_NW.dtype, q.logits_NW.dtype)


def _chunks(size: int, chunk: int) -> int:
    return -(-size // chunk)


def _pad(size: int, chunk: int) -> int:
    """The number of chunks, up to the next power of two: the length of a vector of chunk sums."""
    return 1 << (_chunks(size, chunk) - 1).bit_length()
