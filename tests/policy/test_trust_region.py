"""The solver against a float64 bisection, a convex optimiser, and the corner cases of method.md, section 2."""

import math

import pytest
import torch
from scipy.optimize import minimize

from trb_lab.policy.trust_region import trust_region

BUDGETS = (1e-6, 1e-4, 1e-3, 0.01, 0.05, 0.5, 5.0, 100.0)


def reference_kl(log_p, log_q, beta):
    """KL(mu_beta || p) and log mu_beta in float64."""
    log_mu = torch.log_softmax(log_p + beta[:, None] * (log_q - log_p), -1)
    return (log_mu.exp() * (log_mu - log_p)).sum(-1), log_mu


def reference_beta(log_p, log_q, eps):
    low, high = torch.zeros(len(log_p), dtype=torch.float64), torch.ones(len(log_p), dtype=torch.float64)
    fits = reference_kl(log_p, log_q, high)[0] <= eps
    for _ in range(80):
        middle = (low + high) / 2
        feasible = reference_kl(log_p, log_q, middle)[0] <= eps
        low, high = torch.where(feasible, middle, low), torch.where(feasible, high, middle)
    return torch.where(fits, 1.0, low)


def assert_right(logits_p, logits_q, eps):
    """A beta is right in the sense of method.md: feasible, and either close or spending the budget."""
    given_p, given_q = torch.log_softmax(logits_p.float(), -1), torch.log_softmax(logits_q.float(), -1)
    # Under 1e-4 nats the rounding of float32 log-probs themselves moves the KL by more than the tolerance, so the
    # reference starts from the same rounded values there; from 1e-4 on it starts from the logits.
    source_p, source_q = (given_p, given_q) if eps < 1e-4 else (logits_p, logits_q)
    log_p, log_q = torch.log_softmax(source_p.double(), -1), torch.log_softmax(source_q.double(), -1)
    blend = trust_region(given_p, given_q, eps)
    beta = blend.beta_B.double()
    kl, log_mu = reference_kl(log_p, log_q, beta)
    close = (beta - reference_beta(log_p, log_q, eps)).abs() <= 1e-6
    assert (kl <= eps * (1 + 1e-5)).all()
    assert (close | (kl >= eps * (1 - 1e-4))).all()
    torch.testing.assert_close(blend.log_mu_BV.double().exp(), log_mu.exp(), rtol=0, atol=2e-5)
    torch.testing.assert_close(blend.log_mu_BV.exp().sum(-1), torch.ones(len(log_p)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 30.0, 200.0])
@pytest.mark.parametrize("gap", [1e-4, 0.01, 0.3, 3.0, 50.0])
def test_beta_is_right_against_float64(scale, gap):
    generator = torch.Generator().manual_seed(7)
    for vocabulary in (8, 192):
        p = torch.randn(32, vocabulary, generator=generator) * scale
        q = p + torch.randn(32, vocabulary, generator=generator) * gap
        for eps in BUDGETS:
            assert_right(p, q, eps)


def test_large_vocabulary():
    generator = torch.Generator().manual_seed(3)
    p = torch.randn(4, 50_000, generator=generator) * 3
    for eps in (1e-4, 0.01, 0.5):
        assert_right(p, p + torch.randn(4, 50_000, generator=generator), eps)


@pytest.mark.parametrize("eps", [1e-3, 0.02, 0.3])
def test_solves_the_constrained_problem_itself(eps):
    """No closed form: minimise KL(mu||q) subject to KL(mu||p) <= eps over the simplex with a convex optimiser."""
    generator = torch.Generator().manual_seed(11)
    for _ in range(5):
        log_p = torch.log_softmax(torch.randn(4, generator=generator, dtype=torch.float64), -1)
        log_q = torch.log_softmax(torch.randn(4, generator=generator, dtype=torch.float64) * 2, -1)
        p, q = log_p.exp().numpy(), log_q.exp().numpy()

        def kl(mu, other):
            return float((mu * (torch.tensor(mu / other).log().numpy())).sum())

        found = minimize(
            lambda mu, q=q: kl(mu, q),
            p,
            method="SLSQP",
            bounds=[(1e-9, 1)] * 4,
            constraints=[
                {"type": "eq", "fun": lambda mu: mu.sum() - 1},
                {"type": "ineq", "fun": lambda mu, p=p: eps - kl(mu, p)},
            ],
            options={"maxiter": 500, "ftol": 1e-13},
        )
        assert found.success
        mu = trust_region(log_p[None], log_q[None], eps).log_mu_BV[0].exp().numpy()
        assert kl(mu, p) <= eps * (1 + 1e-6)
        assert kl(mu, q) <= found.fun + 1e-4
        assert abs(mu - found.x).max() < 2e-3


def test_identical_distributions_give_the_teacher():
    log_p = torch.log_softmax(torch.randn(3, 10), -1)
    blend = trust_region(log_p, log_p.clone(), 0.01)
    assert (blend.beta_B == 1).all()
    torch.testing.assert_close(blend.log_mu_BV, log_p)


def test_zero_budget_gives_the_student_exactly():
    log_p, log_q = (torch.log_softmax(torch.randn(5, 10), -1) for _ in range(2))
    blend = trust_region(log_p, log_q, 0.0)
    assert torch.equal(blend.log_mu_BV, log_p)
    assert (blend.beta_B == 0).all()
    assert (blend.kl_B == 0).all()


def test_huge_budget_gives_the_teacher():
    log_p, log_q = (torch.log_softmax(torch.randn(5, 10) * 4, -1) for _ in range(2))
    blend = trust_region(log_p, log_q, 1e4)
    assert (blend.beta_B == 1).all()
    torch.testing.assert_close(blend.log_mu_BV, log_q, rtol=0, atol=1e-5)


def test_one_hot_rows():
    """p one-hot: one common token, mu = p whatever q says. q one-hot: KL(mu||p) jumps to -log p(a)."""
    neg = -math.inf
    one_hot = torch.tensor([[0.0, neg, neg]])
    spread = torch.log(torch.tensor([[0.2, 0.5, 0.3]]))
    blend = trust_region(one_hot, spread, 0.1)
    assert torch.equal(blend.log_mu_BV.exp(), one_hot.exp())
    refused = trust_region(spread, one_hot, 1.0)  # -log 0.2 = 1.609 > 1
    assert torch.equal(refused.log_mu_BV, spread)
    assert refused.beta_B.item() == 0
    allowed = trust_region(spread, one_hot, 1.7)
    torch.testing.assert_close(allowed.log_mu_BV.exp(), one_hot.exp())


def test_partial_support_blends_on_the_common_part():
    log_p = torch.log(torch.tensor([[0.5, 0.45, 0.05, 0.0]], dtype=torch.float64))
    log_q = torch.log(torch.tensor([[0.1, 0.6, 0.0, 0.3]], dtype=torch.float64))
    eps = 0.15  # above -log 0.95 = 0.0513
    blend = trust_region(log_p, log_q, eps)
    mu = blend.log_mu_BV[0].exp()
    assert mu[2] == 0
    assert mu[3] == 0
    kl = float((mu[:2] * (mu[:2].log() - log_p[0, :2])).sum())
    assert eps * (1 - 1e-4) <= kl <= eps * (1 + 1e-5)
    assert float(blend.kl_B) == pytest.approx(kl, rel=1e-6)
    ratio = (mu[1] / mu[0]).log()
    beta = float(blend.beta_B)
    assert float(ratio) == pytest.approx((1 - beta) * math.log(0.45 / 0.5) + beta * math.log(6), rel=1e-9)
    assert trust_region(log_p, log_q, 0.05).beta_B.item() == 0  # under the jump: the student


def test_disjoint_supports_and_padding_rows_give_the_student():
    neg = -math.inf
    log_p = torch.tensor([[0.0, neg, neg], [math.log(0.5), math.log(0.5), neg]])
    log_q = torch.tensor([[neg, 0.0, neg], [math.log(0.25), math.log(0.75), neg]])
    blend = trust_region(log_p, log_q, 0.02)
    assert torch.equal(blend.log_mu_BV[0], log_p[0])
    assert torch.isfinite(blend.beta_B).all()
    assert blend.log_mu_BV[1, 2] == neg


def test_bfloat16_logits_are_taken_at_their_value():
    generator = torch.Generator().manual_seed(1)
    p = (torch.randn(16, 300, generator=generator) * 4).bfloat16()
    q = (p + torch.randn(16, 300, generator=generator)).bfloat16()
    assert_right(p, q, 0.01)


def test_rows_do_not_depend_on_their_batch_and_budgets_may_differ():
    generator = torch.Generator().manual_seed(5)
    log_p = torch.log_softmax(torch.randn(20, 50, generator=generator) * 5, -1)
    log_q = torch.log_softmax(torch.randn(20, 50, generator=generator) * 5, -1)
    budgets = torch.logspace(-5, 1, 20)
    together = trust_region(log_p, log_q, budgets)
    for i in range(20):
        alone = trust_region(log_p[i : i + 1], log_q[i : i + 1], float(budgets[i]))
        assert torch.equal(alone.log_mu_BV[0], together.log_mu_BV[i])


def test_redraw_probability_obeys_pinsker():
    from trb_lab.policy.coupling import total_variation

    generator = torch.Generator().manual_seed(9)
    log_p = torch.log_softmax(torch.randn(200, 60, generator=generator) * 3, -1)
    log_q = torch.log_softmax(torch.randn(200, 60, generator=generator) * 3, -1)
    for eps in (0.001, 0.01, 0.05):
        blend = trust_region(log_p, log_q, eps)
        assert total_variation(log_p, blend.log_mu_BV).max() <= math.sqrt(eps / 2) * (1 + 1e-5)
