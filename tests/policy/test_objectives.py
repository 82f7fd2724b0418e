"""Gradients of the objectives against autograd on their written-out formulas (method, section 1)."""

import pytest
import torch

from trb_lab.policy import objectives

V, K = 12, 5


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(7, V, generator=generator, dtype=torch.float64), torch.randn(
        7, V, generator=generator, dtype=torch.float64
    )


def gradient(form, p_logits, q_logits, support):
    logits = p_logits.clone().requires_grad_()
    log_p, log_q = torch.log_softmax(logits, -1), torch.log_softmax(q_logits, -1)
    if support is not None:
        log_p, log_q = log_p.gather(-1, support), log_q.gather(-1, support)
    form(log_p, log_q).sum().backward()
    return logits.grad


def coefficients_to_logit_gradient(coefficient, p):
    """d/dlogits of sum_a c_a log p_a is c - p sum_a c_a."""
    return coefficient - p * coefficient.sum(-1, keepdim=True)


def scattered(values, support):
    return torch.zeros(values.shape[0], V, dtype=values.dtype).scatter(-1, support, values)


def parts(logits):
    p, q = torch.softmax(logits[0], -1), torch.softmax(logits[1], -1)
    support = p.topk(K, -1).indices
    return p, q, support, p.gather(-1, support), q.gather(-1, support)


def test_renormalised(logits):
    p, _, support, p_top, q_top = parts(logits)
    w, v = p_top / p_top.sum(-1, keepdim=True), q_top / q_top.sum(-1, keepdim=True)
    ratio = (w / v).log()
    expected = w * (ratio - (w * ratio).sum(-1, keepdim=True))
    torch.testing.assert_close(
        gradient(objectives.renormalised, *logits, support),
        coefficients_to_logit_gradient(scattered(expected, support), p),
    )


def test_advantage(logits):
    p, _, support, p_top, q_top = parts(logits)
    w = p_top / p_top.sum(-1, keepdim=True)
    expected = w * (p_top / q_top).log()
    torch.testing.assert_close(
        gradient(objectives.advantage, *logits, support),
        coefficients_to_logit_gradient(scattered(expected, support), p),
    )


def test_truncated(logits):
    p, _, support, p_top, q_top = parts(logits)
    expected = p_top * ((p_top / q_top).log() + 1)
    torch.testing.assert_close(
        gradient(objectives.truncated, *logits, support),
        coefficients_to_logit_gradient(scattered(expected, support), p),
    )


def test_full(logits):
    p, q, *_ = parts(logits)
    ratio = (p / q).log()
    expected = p * (ratio - (p * ratio).sum(-1, keepdim=True))
    torch.testing.assert_close(gradient(objectives.full, *logits, None), expected)
    value = objectives.full(torch.log_softmax(logits[0], -1), torch.log_softmax(logits[1], -1))
    torch.testing.assert_close(value, (p * ratio).sum(-1))


@pytest.mark.parametrize("name", ["renormalised", "advantage", "full"])
def test_no_gradient_at_equality(logits, name):
    support = None if name == "full" else logits[0].topk(K, -1).indices
    form = objectives.full if name == "full" else objectives.TOP_K_LOSSES[name]
    assert gradient(form, logits[0], logits[0], support).abs().max() < 1e-12


def test_truncated_pushes_mass_out_of_the_support_at_equality(logits):
    """Its gradient at p = q is that of the top-k mass: descending it lowers the mass."""
    student = logits[0].clone().requires_grad_()
    support = student.topk(K, -1).indices
    torch.softmax(student, -1).gather(-1, support).sum().backward()
    found = gradient(objectives.truncated, logits[0], logits[0], support)
    torch.testing.assert_close(found, student.grad)
    assert found.abs().max() > 1e-2


@pytest.mark.parametrize("name", ["renormalised", "advantage", "truncated"])
def test_tokens_without_mass_make_no_nan(name):
    logits = torch.tensor([[1.0, 0.0, -torch.inf]], requires_grad=True)
    log_p = torch.log_softmax(logits, -1)
    log_q = torch.log(torch.tensor([[0.5, 0.0, 0.5]]))
    loss = objectives.TOP_K_LOSSES[name](log_p, log_q)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()


def test_coarse_kl_is_the_kl_with_the_rest_as_one_token(logits):
    p, q, _, p_top, q_top = parts(logits)
    merged_p = torch.cat([p_top, 1 - p_top.sum(-1, keepdim=True)], -1)
    merged_q = torch.cat([q_top, 1 - q_top.sum(-1, keepdim=True)], -1)
    found = objectives.coarse_kl(p_top.log(), q_top.log())
    torch.testing.assert_close(found, (merged_p * (merged_p / merged_q).log()).sum(-1))
    assert (found <= (p * (p / q).log()).sum(-1)).all()
    assert (objectives.coarse_kl(p_top.log(), p_top.log()) == 0).all()
