"""The plain implementations solve the same problem as the lab: else their speed would say nothing."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

from tests.tiny import STUDENT_EOS, TEACHER_EOS, reference_log_probs, tiny_pair
from trb_lab.bench.reference import TeacherBlend, bisection, generate
from trb_lab.policy.trust_region import trust_region

V, EPS = 6, 0.05
STUDENT_PROMPT, TEACHER_PROMPT = [3, 4], [5, 2, 4]
STOPS = (STUDENT_EOS, TEACHER_EOS)


@pytest.fixture(scope="module")
def pair():
    return tiny_pair(V)


def blend_at(pair, prefix):
    """log mu [V] of TRB after the prefix, from full forward passes in float64."""
    log_p = reference_log_probs(pair.student, STUDENT_PROMPT + prefix, STOPS, V)
    log_q = reference_log_probs(pair.teacher, TEACHER_PROMPT + prefix, STOPS, V)
    return trust_region(log_p[None], log_q[None], EPS).log_mu_BV[0]


@pytest.mark.parametrize("eps", [0.001, 0.05, 0.5])
def test_bisection_finds_the_solvers_beta(eps):
    torch.manual_seed(0)
    log_p = torch.log_softmax(2 * torch.randn(16, 50), -1)
    log_q = torch.log_softmax(2 * torch.randn(16, 50), -1)
    log_p[:, 3] = log_q[:, 3] = -torch.inf
    ours, plain = trust_region(log_p, log_q, eps), bisection(log_p, log_q, eps)
    torch.testing.assert_close(plain.beta_B, ours.beta_B, rtol=5e-5, atol=1e-6)
    torch.testing.assert_close(plain.log_mu_BV, ours.log_mu_BV, rtol=0, atol=1e-3)


def test_bisection_at_the_ends_of_beta():
    log_p = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1]]).log()
    log_q = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.89, 0.11]]).log()
    plain = bisection(log_p, log_q, EPS)
    assert plain.beta_B.tolist() == [1.0, 0.0, 1.0]
    torch.testing.assert_close(plain.log_mu_BV.exp(), torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.89, 0.11]]))


def test_the_logits_processor_blends_at_every_position(pair):
    processor = TeacherBlend(pair, [TEACHER_PROMPT], 4, EPS)
    ids = list(STUDENT_PROMPT)
    for token in [2, 5, 3]:
        with torch.no_grad():
            scores = pair.student.network(input_ids=torch.tensor([ids])).logits[:, -1]
            blended = processor(torch.tensor([ids]), scores)
        assert blended.shape == scores.shape
        assert torch.isinf(blended[0, V:]).all()
        want = blend_at(pair, ids[len(STUDENT_PROMPT) :])
        torch.testing.assert_close(blended[0, :V].exp(), want.float().exp(), rtol=0, atol=1e-4)
        ids.append(token)


def test_generate_with_the_processor_draws_from_the_blend(pair):
    rows = 3000
    torch.manual_seed(0)
    processor = TeacherBlend(pair, [TEACHER_PROMPT] * rows, 2, EPS)
    responses = generate(pair, [STUDENT_PROMPT] * rows, 2, processor)
    drawn = torch.tensor([response[0] for response in responses])
    mu = blend_at(pair, []).exp()
    possible = mu > 0
    counts = torch.bincount(drawn, minlength=V)
    assert counts[~possible].sum() == 0
    assert chisquare(counts[possible], rows * mu[possible] / mu[possible].sum()).pvalue > 1e-3


def test_responses_of_generate_end_at_the_stop_token(pair):
    torch.manual_seed(1)
    prompts = [STUDENT_PROMPT, [2, 3, 4, 5]] * 20
    teacher_prompts = [TEACHER_PROMPT, [4]] * 20
    responses = generate(pair, prompts, 6, TeacherBlend(pair, teacher_prompts, 6, EPS))
    assert len(responses) == len(prompts)
    for response in responses:
        assert 1 <= len(response) <= 6
        assert all(0 <= token < V and token != TEACHER_EOS for token in response)
        assert STUDENT_EOS not in response[:-1]
        assert len(response) == 6 or response[-1] == STUDENT_EOS
    assert len(set(map(len, responses))) > 1
