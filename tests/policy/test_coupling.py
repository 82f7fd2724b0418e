"""Sampling by inversion, the coupling of student and target, total variation, entropy, KL."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from trb_lab.policy.coupling import (
    Target,
    entropy,
    keep_probability,
    kl_divergence,
    redraw,
    redraw_rate,
    sample,
    total_variation,
)
from trb_lab.seeds import uniforms


def test_sample_follows_the_distribution_and_never_leaves_the_support():
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.15, 0.05, 0.0])
    count = 40_000
    draws = torch.from_numpy(uniforms(0, "test", 0, range(count), 1)[:, 0])
    tokens = sample(probabilities.log().expand(count, -1), draws)
    found = torch.bincount(tokens, minlength=7)
    assert found[probabilities == 0].sum() == 0
    kept = probabilities > 0
    assert chisquare(found[kept].numpy(), (probabilities[kept] * count).numpy()).pvalue > 1e-3


def test_sample_at_the_ends_of_the_unit_interval():
    log_p = torch.tensor([[-math.inf, math.log(0.25), math.log(0.75), -math.inf]])
    assert sample(log_p, torch.tensor([0.0], dtype=torch.float64)).item() == 1
    assert sample(log_p, torch.tensor([np.nextafter(1.0, 0.0)], dtype=torch.float64)).item() == 2


def test_total_variation_kl_entropy_against_numpy():
    generator = torch.Generator().manual_seed(0)
    log_a, log_b = (
        torch.log_softmax(torch.randn(4, 9, generator=generator, dtype=torch.float64), -1) for _ in range(2)
    )
    a, b = log_a.exp().numpy(), log_b.exp().numpy()
    np.testing.assert_allclose(total_variation(log_a, log_b), 0.5 * abs(a - b).sum(-1))
    np.testing.assert_allclose(kl_divergence(log_a, log_b), (a * np.log(a / b)).sum(-1))
    np.testing.assert_allclose(entropy(log_a), -(a * np.log(a)).sum(-1))


def test_kl_and_entropy_with_empty_tokens():
    a = torch.tensor([[0.5, 0.5, 0.0]]).log()
    b = torch.tensor([[0.25, 0.25, 0.5]]).log()
    assert abs(kl_divergence(a, b).item() - math.log(2)) < 1e-6
    assert kl_divergence(b, a).item() == math.inf
    assert abs(entropy(a).item() - math.log(2)) < 1e-6


# ---- coupling --------------------------------------------------------------------------------------------------

GRID = 20_000


def two_distributions(empty=False):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 1, 7, generator=generator, dtype=torch.float64) * 2
    if empty:
        logits[0, 0, 1] = logits[1, 0, 4] = -math.inf
    return torch.log_softmax(logits, -1)


def outcome(log_p, target):
    """Distribution of kept drafts and replacements, the replacement by a grid of uniforms (error 1 / GRID)."""
    p = log_p[0].exp()
    tokens = torch.arange(len(p))
    keep = keep_probability(
        log_p.expand(len(p), -1), target.at(torch.zeros(len(p), dtype=torch.int64)), tokens
    )
    keep = keep.nan_to_num(0.0)  # a token that p cannot draft
    grid = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    rows = torch.zeros(GRID, dtype=torch.int64)
    replaced = torch.bincount(redraw(log_p[rows], target.at(rows), grid), minlength=len(p)) / GRID
    return p * keep + (p * (1 - keep)).sum() * replaced, (p * (1 - keep)).sum()


@pytest.mark.parametrize("empty", [False, True])
def test_maximal_coupling_gives_mu_and_redraws_at_the_total_variation(empty):
    log_p, log_mu = two_distributions(empty)
    target = Target(log_mu, kl_divergence(log_mu, log_p))
    found, rate = outcome(log_p, target)
    torch.testing.assert_close(found, log_mu[0].exp(), rtol=0, atol=2 / GRID)
    torch.testing.assert_close(rate, total_variation(log_p, log_mu)[0])
    torch.testing.assert_close(rate, redraw_rate(log_p, target)[0])


def test_a_rule_of_its_own_gives_its_mixture():
    """Drafts outside {0, 3} are redrawn from another distribution: the outcome is the sum of the two parts."""
    log_p, log_other = two_distributions()
    keep = torch.tensor([[1.0, 0, 0, 1.0, 0, 0, 0]], dtype=torch.float64)
    outside = 1 - (log_p.exp() * keep).sum()
    mu = log_p.exp() * keep + outside * log_other.exp()
    target = Target(mu.log(), kl_divergence(mu.log(), log_p), keep_NV=keep, log_redraw_NV=log_other)
    found, rate = outcome(log_p, target)
    torch.testing.assert_close(found, mu[0], rtol=0, atol=2 / GRID)
    torch.testing.assert_close(rate, outside)
    torch.testing.assert_close(redraw_rate(log_p, target)[0], outside)
    assert rate > total_variation(log_p, target.log_mu_NV)[0]  # more than the least possible


def test_equal_distributions_never_redraw():
    """Every draft is kept with probability 1, and a redraw, which cannot happen, would be a draw from mu."""
    log_p, _ = two_distributions().float()
    target = Target(log_p.clone(), torch.zeros(1))
    tokens = torch.arange(7)
    assert (
        keep_probability(log_p.expand(7, -1), Target(log_p.expand(7, -1), torch.zeros(7)), tokens) == 1
    ).all()
    assert redraw_rate(log_p, target).item() == 0
    uniform = torch.tensor([0.6], dtype=torch.float64)
    assert torch.equal(redraw(log_p, target, uniform), sample(log_p, uniform))


def test_a_replacement_is_a_token_that_mu_favours():
    log_p, log_mu = two_distributions()
    uniform = torch.from_numpy(uniforms(0, "redraw", 0, range(500), 1)[:, 0])
    rows = torch.zeros(500, dtype=torch.int64)
    found = redraw(log_p[rows], Target(log_mu, torch.zeros(1)).at(rows), uniform)
    assert set(found.tolist()) <= set((log_mu[0] > log_p[0]).nonzero().squeeze(-1).tolist())


def test_positions_of_a_target():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(5, 3, generator=generator), torch.randn(5, generator=generator)]
    index = torch.tensor([4, 0, 0])
    some = Target(*parts).at(index)
    assert torch.equal(some.log_mu_NV, parts[0][index])
    assert torch.equal(some.kl_N, parts[1][index])
    assert some.beta_N is some.keep_NV is some.log_redraw_NV is None
    whole = Target(*parts, parts[1], parts[0], parts[0]).at(index)
    assert torch.equal(whole.beta_N, parts[1][index])
    assert torch.equal(whole.keep_NV, parts[0][index])
    assert torch.equal(whole.log_redraw_NV, parts[0][index])
