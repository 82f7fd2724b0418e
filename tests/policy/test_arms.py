"""What each arm does at a step: schedules, targets, masks."""

from types import SimpleNamespace

import pytest
import torch

from trb_lab.errors import UsageError
from trb_lab.policy.arms import ArmContext, arm_at
from trb_lab.spec.schedule import AdaptiveAnneal
from trb_lab.spec.warmup import (
    ARM_SPECS,
    ArmSpec,
    FixedEpsilonWarmup,
    SakiWarmup,
    SftWarmup,
    SkdWarmup,
    TemperatureWarmup,
    TrbWarmup,
    VetoWarmup,
)

RUN = 60


def at(warmup, step, steps=RUN, rows=4):
    return arm_at(warmup, ArmContext(step, rows, seed=0, steps=steps))


@pytest.mark.parametrize("spec", ARM_SPECS, ids=lambda s: s.model_fields["kind"].default)
def test_from_its_horizon_on_every_arm_is_plain_distillation(spec):
    """The spec's horizon is what the function does; before it the arm differs, with its defaults."""
    warmup = spec()
    horizon = warmup.horizon(RUN)
    assert horizon <= RUN

    def is_plain(arm):
        return (
            not arm.behavior.needs_teacher and arm.behavior.alone is None and not (arm.target or arm.imitates)
        )

    assert [is_plain(at(warmup, step, rows=100)) for step in range(RUN)] == [
        step >= horizon for step in range(RUN)
    ]
    assert any(at(warmup, step).behavior.needs_teacher for step in range(RUN)) == (
        warmup.teacher_in_rollout and horizon > 0
    )


def test_a_temperature_goes_to_one():
    warmup = TemperatureWarmup(temperature=0.8, steps=4)
    assert [at(warmup, k).schedule for k in range(6)] == pytest.approx([0.8, 0.85, 0.9, 0.95, 1, 1])
    assert at(warmup, 4).behavior.alone is None
    log_p = torch.log_softmax(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), -1)
    powered = log_p.exp() ** (1 / 0.85)
    found = at(warmup, 1).behavior.alone(log_p)
    torch.testing.assert_close(found.exp(), powered / powered.sum(-1, keepdim=True))
    hot = TemperatureWarmup(temperature=1.5, steps=4)
    assert [at(hot, k).schedule for k in (0, 2, 4)] == pytest.approx([1.5, 1.25, 1.0])
    assert at(TemperatureWarmup(temperature=1.0), 0).behavior.alone is None


def test_veto_decays_over_the_run_or_over_its_steps():
    whole = VetoWarmup(b_start=0.8)
    assert [at(whole, k).schedule for k in (0, 15, 30, 45, 60)] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0])
    short = VetoWarmup(b_start=0.8, steps=4, anneal="step")
    assert [at(short, k).schedule for k in range(5)] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0])
    assert at(short, 4).target is None
    log_p, log_q = torch.tensor([-1.0, -2.0]), torch.tensor([-3.0, -0.5])
    torch.testing.assert_close(at(whole, 15).target(log_p, log_q), log_q + 0.6 * log_p)


def test_saki_marks_the_redrawn_positions_while_it_blends():
    warmup = SakiWarmup(kl_budget=0.02, steps=50)
    values = [at(warmup, k, steps=200).schedule for k in (0, 25, 49, 50)]
    assert values == pytest.approx([0.02, 0.01, 0.0004, 0.0])
    redrawn = torch.tensor([[True, False]])
    assert at(warmup, 25, steps=200).imitates(SimpleNamespace(redrawn_BT=redrawn)) is redrawn
    assert at(warmup, 50, steps=200).imitates is None


def test_a_fixed_budget_holds_to_the_end():
    for step in (0, RUN - 1):
        arm = at(FixedEpsilonWarmup(kl_budget=0.03), step)
        assert arm.schedule == 0.03 and arm.behavior.row_values.tolist() == [0.03] * 4


def test_a_sequence_budget_banks():
    warmup = TrbWarmup(kl_budget=0.1, kl_budget_mode="sequence", steps=10)
    assert at(warmup, 5).behavior.is_banked and at(warmup, 5).behavior.value == pytest.approx(0.05)
    assert not at(TrbWarmup(), 0).behavior.is_banked
    assert isinstance(TrbWarmup(anneal="adaptive").anneal, AdaptiveAnneal)


def test_sft_trains_on_its_own_rollouts():
    assert SftWarmup().horizon(RUN) == 0


@pytest.mark.parametrize("variant", ["published", "released_code"])
def test_skd_with_every_token_in_its_top_k_is_the_student(variant):
    draws = torch.Generator().manual_seed(1)
    log_p, log_q = (torch.log_softmax(torch.randn(6, 9, generator=draws), -1) for _ in range(2))
    target = at(SkdWarmup(top_k=9, variant=variant), 0).behavior.target(log_p, log_q, torch.ones(6))
    torch.testing.assert_close(target.log_mu_NV, log_p)
    torch.testing.assert_close(target.kl_N, torch.zeros(6), atol=1e-6, rtol=0)


def test_an_arm_without_a_function_is_named():
    class Nameless(ArmSpec):
        kind: str = "nameless"

    with pytest.raises(UsageError, match=r"the arm 'nameless' has settings and no function.*trb_lab\.arms"):
        at(Nameless(), 0)
