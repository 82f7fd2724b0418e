"""The fused kernels against float64, run by Triton's interpreter on the CPU.

The interpreter has to be chosen before Triton is first imported, so the claims here, `check_*`, run in a pytest of
their own (`test_kernels_under_the_interpreter`). By hand: TRITON_INTERPRET=1 pytest -o python_functions='check_*'
tests/policy/test_fused.py. Vocabularies are cut into chunks of 256, so that rows span several.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scipy.stats import chi2

from trb_lab.policy import fused
from trb_lab.policy.coupling import entropy, sample, total_variation
from trb_lab.policy.eos import Scores
from trb_lab.policy.trust_region import trust_region

NEG = float("-inf")
BUDGETS = (1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.5, 3.0)


@pytest.mark.parametrize("part", ["blend", "draw"])
def test_kernels_under_the_interpreter(part):
    pytest.importorskip("triton", reason="the fused kernels need triton: pip install triton")
    options = ["-o", "python_functions=check_*", "-k", part, "-p", "no:xdist", "-W", "ignore::RuntimeWarning"]
    command = [sys.executable, "-m", "pytest", "-x", "--tb=short", *options, str(Path(__file__))]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_not_available_without_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not fused.available("cpu")
    pytest.importorskip("triton", reason="the fused kernels need triton: pip install triton")
    assert fused.available("cuda")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(fused, "CHUNK", 256)
    monkeypatch.setattr(fused, "DRAW_CHUNK", 256)


def plain(logits_NW, size=None):
    """Scores without a stop event of their own."""
    return Scores(logits_NW, torch.zeros(len(logits_NW)), -1, size or logits_NW.shape[1])


def log_probs(scores):
    """What the kernels are to read, as float64 log-probabilities [N, V]."""
    z_NV = scores.logits_NW[:, : scores.size].double().clone()
    if scores.stop_id >= 0:
        z_NV[:, scores.stop_id] = scores.stop_N.double()
    return torch.log_softmax(z_NV, -1)


def log_blend(log_p, log_q, beta):
    """log mu_beta on the common support, p where beta is 0; float64."""
    common = torch.isfinite(log_p) & torch.isfinite(log_q)
    tilted = torch.where(common, log_p + beta[:, None] * torch.where(common, log_q - log_p, 0.0), NEG)
    return torch.where(beta[:, None] > 0, torch.log_softmax(tilted, -1), log_p)


def assert_right(p, q, eps):
    """beta is right (method.md, section 2); the other fields belong to it."""
    solved = fused.blend(p, q, eps)
    log_p, log_q = log_probs(p), log_probs(q)
    beta = solved.beta.double()
    log_mu = log_blend(log_p, log_q, beta)
    mu = log_mu.exp()
    kl = torch.where(mu > 0, mu * (log_mu - log_p), 0.0).sum(-1)
    budget = torch.as_tensor(eps, dtype=torch.float64)
    assert (kl <= budget * (1 + 1e-5)).all()
    close = (beta - trust_region(log_p, log_q, eps).beta_B).abs() <= 1e-6
    assert (close | (kl >= budget * (1 - 1e-4))).all()
    expected = {
        "kl": kl,
        "redraw": total_variation(log_p, log_mu),
        "log_p_normaliser": _normaliser(p),
        "log_q_normaliser": _normaliser(q),
        "teacher_entropy": entropy(log_q),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(solved, name).double(), value, rtol=1e-5, atol=1e-5, msg=name)
    torch.testing.assert_close(solved.kl.double(), kl, rtol=1e-5, atol=1e-10)
    tokens = mu.argmax(-1)
    found = torch.stack(fused.token_log_probs(p, q, solved, tokens)).double()
    wanted = torch.stack([x.gather(-1, tokens[:, None]).squeeze(-1) for x in (log_p, log_q, log_mu)])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    return solved


def _normaliser(scores):
    z_NV = scores.logits_NW[:, : scores.size].double().clone()
    if scores.stop_id >= 0:
        z_NV[:, scores.stop_id] = scores.stop_N.double()
    return torch.logsumexp(z_NV, -1)


def pair(rows, vocabulary, scale, gap, seed=0):
    generator = torch.Generator().manual_seed(seed)
    p = torch.randn(rows, vocabulary, generator=generator) * scale + 7
    return p, p + torch.randn(rows, vocabulary, generator=generator) * gap - 3


def check_blend_is_right_from_flat_to_peaked_rows():
    """Scales 0.5 to 30, gaps 0.003 to 10; every row has a budget of its own."""
    for scale, gap in ((0.5, 0.3), (3, 1), (8, 2), (3, 10), (30, 3), (5, 3e-3)):
        p, q = pair(14, 700, scale, gap)
        assert_right(plain(p), plain(q), torch.tensor(BUDGETS * 2, dtype=torch.float64))


def check_blend_is_right_on_a_wide_vocabulary(monkeypatch):
    monkeypatch.setattr(fused, "CHUNK", 1024)
    p, q = pair(7, 5003, 4, 1.5)
    solved = assert_right(plain(p), plain(q), torch.tensor(BUDGETS, dtype=torch.float64))
    assert solved.passes.max() <= 6


def check_blend_takes_bfloat16_at_its_value_with_a_stop_id_masks_padding_and_strides():
    p, q = pair(14, 700, 4, 1.5)
    p, q = p.bfloat16(), q.bfloat16()
    for logits in (p, q):
        logits[:, 17:40] = NEG
        logits[:, 640:] = 60.0  # padding rows of the output layer: must not count
    wide_p = torch.full((14, 1000), 80.0, dtype=torch.bfloat16)
    wide_p[:, :700] = p
    p_scores = Scores(wide_p[:, :700], torch.linspace(5.0, 20.0, 14), 33, 640)
    q_scores = Scores(q[:, :650].contiguous(), torch.linspace(18.0, 2.0, 14), 33, 640)
    assert_right(p_scores, q_scores, torch.tensor(BUDGETS * 2, dtype=torch.float64))


def check_blend_on_part_of_the_support():
    """q = 0 on about a third of the tokens: blended above the jump -log p(supp q), p under it."""
    p, q = pair(4, 600, 2, 1)
    q[:, ::3] = NEG
    p[:, 1::7] = NEG
    jump = -torch.logsumexp(torch.where(torch.isfinite(q), log_probs(plain(p)), NEG), -1)
    solved = assert_right(plain(p), plain(q), jump + 0.02)
    assert (solved.beta > 0).all()
    under = fused.blend(plain(p), plain(q), jump * 0.9)
    assert not under.beta.any() and not under.kl.any() and not under.redraw.any()


def check_blend_corners():
    p, q = pair(3, 300, 3, 1)
    zero, full = fused.blend(plain(p), plain(q), 0.0), fused.blend(plain(p), plain(q), float("inf"))
    assert not zero.beta.any() and not zero.kl.any() and not zero.redraw.any()
    assert (full.beta == 1).all()
    same = fused.blend(plain(p), plain(p.clone() + 2.0), 1e-5)
    assert (same.beta == 1).all()
    assert (same.kl <= 1e-10).all()  # + 2 rounds in float32
    exact = fused.blend(plain(p), plain(p.clone()), 1e-5)
    assert (exact.beta == 1).all() and not exact.kl.any()
    left, right = p.clone(), q.clone()
    left[:, 150:], right[:, :150] = NEG, NEG
    apart = fused.blend(plain(left), plain(right), 5.0)
    assert not apart.beta.any() and torch.isfinite(torch.stack(apart)).all()


def check_blend_finishes_stubborn_rows_alone(monkeypatch):
    """With a single wide pass most rows end in the row-by-row kernel; a row's bits do not depend on its batch."""
    p, q = pair(8, 600, 8, 4)
    many = assert_right(plain(p), plain(q), 0.3)
    alone = fused.blend(plain(p[5:6]), plain(q[5:6]), 0.3)
    assert alone.beta[0] == many.beta[5] and alone.kl[0] == many.kl[5]
    monkeypatch.setattr(fused, "WIDE_PASSES", 1)
    few = assert_right(plain(p), plain(q), 0.3)
    assert few.passes.max() > 3
    torch.testing.assert_close(few.beta, many.beta, rtol=1e-5, atol=0)


def check_blend_writes_log_mu():
    """What `trust_region` returns on a GPU."""
    p, q = pair(6, 700, 3, 2)
    q[:, ::5] = NEG
    log_p, log_q = torch.log_softmax(p, -1), torch.log_softmax(q, -1)
    eps = torch.tensor([0.0, 1e-3, 0.3, 0.6, 1.0, 5.0])
    log_mu, solved = fused.blend_log_probs(log_p, log_q, eps)
    expected = log_blend(log_p.double(), log_q.double(), solved.beta.double())
    torch.testing.assert_close(log_mu.double(), expected, rtol=0, atol=2e-5)
    assert (solved.beta == 0).any() and (solved.beta == 1).any()
    assert torch.equal(log_mu[solved.beta == 0], log_p[solved.beta == 0])


def check_draw_inverts_the_cumulative_distribution():
    """Within 1e-6 of the edge between two tokens either may come; elsewhere the token is the reference's."""
    for dtype in (torch.float32, torch.bfloat16):
        logits = pair(64, 900, 3, 1)[0].to(dtype)
        scores = Scores(logits, torch.full((64,), 12.0), 41, 850)
        uniform = torch.rand(64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        tokens, normaliser = fused.draw(scores, uniform)
        log_p = log_probs(scores)
        edges = torch.stack([sample(log_p, (uniform + nudge).clamp(0, 1 - 1e-9)) for nudge in (-1e-6, 1e-6)])
        assert ((tokens >= edges[0]) & (tokens <= edges[1])).all()
        torch.testing.assert_close(normaliser.double(), _normaliser(scores), rtol=1e-6, atol=1e-6)


def check_draw_survives_extreme_uniforms():
    """Tokens with mass, in range, at u = 0 and u = 1 - 2^-53, for one-hot, peaked, flat and holey rows."""
    logits = torch.full((8, 600), NEG)
    logits[0, 511] = 3.0
    logits[1, 256:258] = torch.tensor([0.0, -80.0])
    logits[2] = 0.0
    logits[3, ::2] = torch.randn(300, generator=torch.Generator().manual_seed(0)) * 20
    logits[4, :10] = -1e4
    logits[5, 590:] = 1e4
    logits[6, 100:110], logits[6, 400] = -60.0, 0.0
    logits[7, 3], logits[7, 599] = 0.0, -16.0
    for value in (0.0, 2.0**-53, 0.5, 1 - 1e-7, 1 - 2.0**-53):
        tokens, _ = fused.draw(plain(logits), torch.full((8,), value, dtype=torch.float64))
        mass = torch.softmax(logits.double(), -1).gather(-1, tokens[:, None])
        assert (mass > 0).all()
        assert tokens[0] == 511 and (value != 0.0 or tokens[7] == 3)


def chi_square(tokens, expected):
    """P-value of the drawn counts; tokens expected fewer than 5 times are one bin."""
    counts = torch.bincount(tokens, minlength=len(expected)).double()
    means = expected * len(tokens)
    rare = means < 5
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    means = torch.cat([means[~rare], means[rare].sum()[None]]).clamp_min(1e-9)
    return chi2.sf(float(((counts - means) ** 2 / means).sum()), len(means) - 1)


def check_draw_residual_and_keep_make_mu():
    """Keep a token of p with min(1, mu/p), else redraw: the result is distributed as mu.

    Chi-square on 1024 draws at a fixed seed. Power: KL(mu||p) is 0.15, so draws of p itself have a noncentrality
    near 1024 x 2 x 0.15 = 300 at about 35 degrees of freedom: refused below 1e-6 with near certainty.
    """
    rows, vocabulary = 1024, 40
    p, q = (x.expand(rows, -1) for x in pair(1, vocabulary, 1, 2, seed=5))
    uniform = torch.rand(3, rows, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    solved_1 = fused.blend(plain(p[:1].contiguous()), plain(q[:1].contiguous()), 0.15)
    solved = fused.FusedBlend(*(field.expand(rows).contiguous() for field in solved_1))
    cumulative = torch.softmax(p[0].double(), -1).cumsum(-1)
    tokens = torch.searchsorted(cumulative, uniform[0]).clamp_max(vocabulary - 1)
    log_p, _, log_mu = fused.token_log_probs(plain(p), plain(q), solved, tokens)
    redrawn = (uniform[1] >= (log_mu - log_p).double().exp()).nonzero().squeeze(-1)
    assert 0.1 * rows < len(redrawn) < 0.4 * rows
    student = tokens.clone()
    tokens[redrawn] = fused.draw_residual(plain(p), plain(q), solved, redrawn, uniform[2, redrawn])
    mu = log_blend(*(log_probs(plain(x[:1])) for x in (p, q)), solved_1.beta.double())[0].exp()
    assert chi_square(tokens, mu) > 0.01
    assert chi_square(student, mu) < 1e-6


def check_draw_residual_inverts_the_cumulative_distribution_of_chosen_rows():
    p, q = pair(12, 700, 3, 1.5)
    q[:, ::9] = NEG
    p_scores, q_scores = Scores(p, torch.full((12,), 14.0), 5, 680), Scores(q, torch.full((12,), 9.0), 5, 680)
    solved = fused.blend(p_scores, q_scores, 0.5)
    rows = torch.tensor([7, 0, 11, 7, 3, 9, 1])
    uniform = torch.tensor([0.0, 0.1, 0.35, 0.5, 0.77, 0.95, 1 - 2.0**-53], dtype=torch.float64)
    tokens = fused.draw_residual(p_scores, q_scores, solved, rows, uniform)
    log_p, log_q = log_probs(p_scores), log_probs(q_scores)
    excess = (log_blend(log_p, log_q, solved.beta.double()).exp() - log_p.exp()).clamp_min(0.0)
    excess = (excess / excess.sum(-1, keepdim=True)).log()[rows]
    edges = torch.stack([sample(excess, (uniform + nudge).clamp(0, 1 - 1e-9)) for nudge in (-1e-5, 1e-5)])
    assert ((tokens >= edges[0]) & (tokens <= edges[1])).all()
    assert torch.isfinite(excess.gather(-1, tokens[:, None])).all()
    everyone = fused.draw_residual(p_scores, q_scores, solved, None, torch.full((12,), 0.35).double())
    assert everyone[11] == tokens[2]


def check_draw_residual_of_nothing_still_has_mass():
    """mu = p by a budget of 0, and by p = q: the positive part is empty."""
    p, q = pair(4, 600, 3, 1)
    p[:, :300] = NEG
    for teacher, eps in ((q, 0.0), (p.clone(), 0.1)):
        solved = fused.blend(plain(p), plain(teacher), eps)
        for value in (0.0, 1 - 2.0**-53):
            uniform = torch.full((4,), value, dtype=torch.float64)
            tokens = fused.draw_residual(plain(p), plain(teacher), solved, None, uniform)
            assert ((tokens >= 300) & (tokens < 600)).all()
