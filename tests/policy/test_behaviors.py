"""Each arm's behaviour policy and its schedule."""

import itertools
import math

import pytest
import torch

from tests.enumeration import behavior_at
from trb_lab.policy.arms import ARMS
from trb_lab.policy.behaviors import student_rollouts, trust_region_rollouts
from trb_lab.policy.coupling import redraw_rate, total_variation
from trb_lab.policy.trust_region import trust_region
from trb_lab.spec.schedule import annealed
from trb_lab.spec.warmup import ARM_SPECS, MixtureWarmup, OpdWarmup, TeacherForcedWarmup, TrbWarmup

ROWS = 8


@pytest.fixture
def log_probs():
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.log_softmax(torch.randn(ROWS, 10, generator=generator), -1) for _ in range(2))


def test_every_arm_has_a_function():
    assert set(ARMS) == {cls.model_fields["kind"].default for cls in ARM_SPECS}


def test_opd_never_needs_the_teacher():
    assert not behavior_at(OpdWarmup(), 0, ROWS, 0).needs_teacher


def test_trb_anneals_linearly_and_then_lets_the_teacher_go(log_probs):
    warmup = TrbWarmup(kl_budget=0.02, steps=4)
    assert [warmup.kl_budget_at(k) for k in range(6)] == pytest.approx([0.02, 0.015, 0.01, 0.005, 0, 0])
    behavior = behavior_at(warmup, 1, ROWS, 0)
    target = behavior.target(*log_probs, behavior.row_values)
    expected = trust_region(*log_probs, 0.015)
    assert torch.equal(target.log_mu_NV, expected.log_mu_BV)
    torch.testing.assert_close(target.kl_N, expected.kl_B)
    assert behavior.is_trust_region
    assert torch.equal(target.beta_N, expected.beta_B)
    assert not behavior_at(warmup, 4, ROWS, 0).needs_teacher
    assert not behavior_at(TrbWarmup(kl_budget=0.0, steps=4), 0, ROWS, 0).needs_teacher


def test_budgets_may_differ_from_row_to_row(log_probs):
    """Each row is solved by its own budget; 0 gives the student, infinity the teacher."""
    budgets = torch.tensor([0.0, 1e-3, 0.01, 0.05, 0.5, 5.0, 100.0, math.inf])
    behavior = trust_region_rollouts(budgets, 0.02)
    assert behavior.value == 0.02
    assert behavior.row_values.dtype == torch.float64
    target = behavior.target(*log_probs, behavior.row_values)
    for row, eps in enumerate(budgets.double()):
        alone = trust_region(*(part[row : row + 1] for part in log_probs), eps[None])
        assert torch.equal(target.log_mu_NV[row], alone.log_mu_BV[0])
    assert torch.equal(target.log_mu_NV[0], log_probs[0][0])
    torch.testing.assert_close(target.log_mu_NV[-1], log_probs[1][-1])
    assert (target.kl_N[:-1] <= budgets[:-1] * (1 + 1e-5)).all()


def test_guessed_redraw_rates():
    """Three quarters of Pinsker's bound; half the share of teacher-driven tokens, whose TV is not known."""
    for eps in (0.001, 0.02, 0.5):
        guess = trust_region_rollouts(torch.full((ROWS,), eps), eps).expected_redraws
        assert guess == pytest.approx(0.75 * math.sqrt(eps / 2))
    assert trust_region_rollouts(torch.full((ROWS,), math.inf), math.inf).expected_redraws < 1
    assert behavior_at(MixtureWarmup(weight=0.4, steps=4), 0, ROWS, 0).expected_redraws == pytest.approx(0.2)
    forced = behavior_at(TeacherForcedWarmup(share=0.5, steps=4), 0, ROWS, 0)
    assert forced.expected_redraws == pytest.approx(0.25)
    assert student_rollouts(ROWS).expected_redraws == 0


def test_a_mixture_redraws_its_weight_of_the_total_variation(log_probs):
    """TV(p, (1 - lam) p + lam q) = lam TV(p, q)."""
    behavior = behavior_at(MixtureWarmup(weight=0.4, steps=4), 0, ROWS, 0)
    target = behavior.target(*log_probs, behavior.row_values)
    torch.testing.assert_close(redraw_rate(log_probs[0], target), 0.4 * total_variation(*log_probs))


def test_token_mixture(log_probs):
    log_p, log_q = log_probs
    behavior = behavior_at(MixtureWarmup(weight=0.4, steps=4, anneal="constant"), 2, ROWS, 0)
    target = behavior.target(log_p, log_q, behavior.row_values)
    mu = 0.6 * log_p.exp() + 0.4 * log_q.exp()
    torch.testing.assert_close(target.log_mu_NV.exp(), mu)
    torch.testing.assert_close(target.kl_N, (mu * (mu.log() - log_p)).sum(-1))


def test_full_weight_is_the_teacher(log_probs):
    behavior = behavior_at(MixtureWarmup(weight=1.0, steps=2), 0, ROWS, 0)
    torch.testing.assert_close(behavior.target(*log_probs, behavior.row_values).log_mu_NV, log_probs[1])


def test_teacher_forced_drives_an_exact_share_of_rows(log_probs):
    log_p, log_q = log_probs
    warmup = TeacherForcedWarmup(steps=4)
    counts = [int(behavior_at(warmup, k, ROWS, 3).row_values.sum()) for k in range(5)]
    assert counts == [8, 6, 4, 2, 0]
    behavior = behavior_at(warmup, 2, ROWS, 3)
    target = behavior.target(log_p, log_q, behavior.row_values)
    for row in range(ROWS):
        assert torch.equal(target.log_mu_NV[row], (log_q if behavior.row_values[row] else log_p)[row])
    assert torch.equal(behavior.row_values, behavior_at(warmup, 2, ROWS, 3).row_values)
    drawn = {tuple(behavior_at(warmup, 2, ROWS, seed).row_values.tolist()) for seed in range(20)}
    assert len(drawn) > 5


def test_sequence_mixture_flips_a_fair_coin_for_each_row():
    warmup = MixtureWarmup(weight=0.3, level="sequence", anneal="constant", steps=400)
    heads = sum(int(behavior_at(warmup, k, 50, 0).row_values.sum()) for k in range(400))
    spread = math.sqrt(20_000 * 0.3 * 0.7)
    assert abs(heads - 6000) < 4 * spread


@pytest.mark.parametrize("kind", ["linear", "cosine", "exponential", "step", "constant"])
def test_every_anneal_starts_at_its_initial_value_and_ends_at_zero(kind):
    warmup = TrbWarmup(kl_budget=0.1, anneal=kind, steps=8)
    values = [warmup.kl_budget_at(k) for k in range(10)]
    assert values[0] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(values))
    assert all(v > 0 for v in values[:8])
    assert values[8:] == [0.0, 0.0]


def test_anneal_shapes_in_closed_form():
    def values(anneal):
        warmup = TrbWarmup(kl_budget=1.0, anneal=anneal, steps=4)
        return [annealed(1.0, warmup.anneal, 4, k) for k in range(5)]

    assert values("linear") == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert values("cosine") == pytest.approx(
        [1, 0.5 + 0.5 * math.cos(math.pi / 4), 0.5, 0.5 - 0.5 * math.cos(math.pi / 4), 0]
    )
    assert values({"kind": "exponential", "final_fraction": 0.0001}) == pytest.approx(
        [1, 0.1, 0.01, 0.001, 0]
    )
    assert values({"kind": "step", "stages": 2}) == pytest.approx([1, 1, 0.5, 0.5, 0])
    assert values("constant") == [1, 1, 1, 1, 0]
