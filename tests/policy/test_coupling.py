"""Sampling by inversion, total variation, entropy, KL."""

import math

import numpy as np
import torch
from scipy.stats import chisquare

from trb_lab.policy.coupling import entropy, kl_divergence, sample, total_variation
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
