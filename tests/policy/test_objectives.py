"""Gradients of the objectives against autograd on their written-out formulas (method, section 1)."""

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from trb_lab.policy import objectives
from trb_lab.policy.arms import ArmContext, arm_at
from trb_lab.spec.warmup import VetoWarmup

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


# ---- one token, other targets, imitation -----------------------------------------------------------------------


def test_sampled_is_the_full_gradient_in_expectation(logits):
    """Each token in turn, weighted with its probability under the student that draws."""
    student = logits[0].clone().requires_grad_()
    log_p, log_q = torch.log_softmax(student, -1), torch.log_softmax(logits[1], -1)
    chance = log_p.detach().exp()
    expected_loss = sum(
        chance[:, token] * objectives.sampled(log_p[:, token], log_q[:, token]) for token in range(V)
    )
    expected_loss.sum().backward()
    p, q, *_ = parts(logits)
    ratio = (p / q).log()
    torch.testing.assert_close(student.grad, p * (ratio - (p * ratio).sum(-1, keepdim=True)))


def test_sampled_survives_a_token_that_the_teacher_excludes():
    log_p = torch.tensor([-1.0], requires_grad=True)
    objectives.sampled(log_p, torch.tensor([-torch.inf])).sum().backward()
    assert torch.isfinite(log_p.grad).all()


def bridge(b):
    """Veto's target as the arm hands it to the loss."""
    warmup = VetoWarmup(b_start=b, anneal="constant")
    return arm_at(warmup, ArmContext(step=0, rows=1, seed=0, steps=10)).target


@pytest.mark.parametrize("b", [0.2, 0.8])
def test_veto_pulls_towards_the_normalised_bridge(logits, b):
    """KL(p || Q) with Q = q p^b / Z held fixed: gradient p (r - E r) with r = log(p / Q), whole and renormalised."""
    p, q, support, p_top, q_top = parts(logits)
    for student, teacher, top in ((p, q, None), (p_top, q_top, support)):
        w = student / student.sum(-1, keepdim=True)
        wanted = teacher * student**b
        ratio = (w / (wanted / wanted.sum(-1, keepdim=True))).log()
        coefficient = w * (ratio - (w * ratio).sum(-1, keepdim=True))
        expected = coefficient if top is None else scattered(coefficient, top)

        def form(log_p, log_q, top=top):
            target = bridge(b)(log_p.detach(), log_q)
            if top is None:
                return objectives.full(log_p, target.log_softmax(-1))
            return objectives.renormalised(log_p, target)

        torch.testing.assert_close(gradient(form, *logits, top), coefficients_to_logit_gradient(expected, p))


@pytest.mark.parametrize("b", [0.2, 0.8])
def test_the_fixed_point_of_veto_is_the_teacher_sharpened(logits, b):
    """At p = q^(1/(1-b)) / Z the student matches its own bridge: no loss, no gradient."""
    fixed = logits[1] / (1 - b)

    def form(log_p, log_q):
        return objectives.full(log_p, bridge(b)(log_p.detach(), log_q).log_softmax(-1))

    assert gradient(form, fixed, logits[1], None).abs().max() < 1e-12
    log_p, log_q = torch.log_softmax(fixed, -1), torch.log_softmax(logits[1], -1)
    assert form(log_p, log_q).abs().max() < 1e-12
    assert gradient(form, logits[1], logits[1], None).abs().max() > 1e-3  # the teacher itself is not


def test_veto_without_an_exponent_has_no_target():
    assert bridge(0.0) is None


def test_imitation_is_the_cross_entropy(logits):
    tokens = logits[1].argmax(-1)
    student = logits[0].clone().requires_grad_()
    objectives.imitation(torch.log_softmax(student, -1), tokens).sum().backward()
    torch.testing.assert_close(student.grad, torch.softmax(logits[0], -1) - one_hot(tokens, V))
    torch.testing.assert_close(
        objectives.imitation(torch.log_softmax(logits[0], -1), tokens),
        cross_entropy(logits[0], tokens, reduction="none"),
    )
    impossible = torch.tensor([[0.0, -torch.inf]])
    assert torch.isfinite(objectives.imitation(impossible, torch.tensor([1]))).all()
