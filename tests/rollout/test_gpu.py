"""The engine on a GPU: the CPU's tokens and records, captured graphs, replacement, and the fused verdict."""

import pytest
import torch

from tests.enumeration import behavior_at
from tests.tiny import tiny_pair
from trb_lab.policy import fused
from trb_lab.policy.behaviors import student_rollouts, trust_region_rollouts
from trb_lab.rollout.engine import Draws, Keep, RolloutRequest
from trb_lab.rollout.judge import FusedJudge, PlainJudge, judge_for
from trb_lab.rollout.torch_engine import TorchEngine
from trb_lab.spec.warmup import (
    FixedEpsilonWarmup,
    MixtureWarmup,
    SakiWarmup,
    SftWarmup,
    SkdWarmup,
    TeacherForcedWarmup,
    TemperatureWarmup,
    TrbWarmup,
    VetoWarmup,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
V, ROWS, DEPTH = 40, 48, 24
FLOATS = (
    "student_logprob_BT", "behavior_logprob_BT", "kl_BT", "redraw_BT", "beta_BT",
    "teacher_logprob_BT", "teacher_entropy_BT", "teacher_support_BTK",
)  # fmt: skip
ARMS = {
    "opd": student_rollouts(ROWS),
    "trb": trust_region_rollouts(torch.full((ROWS,), 0.05), 0.05),
    "trb_mixed_budgets": trust_region_rollouts(torch.linspace(0, 0.2, ROWS), 0.1),
    "mixture": behavior_at(MixtureWarmup(weight=0.5, steps=10), 0, ROWS, 0),
    "mixture_sequence": behavior_at(MixtureWarmup(weight=0.5, level="sequence", steps=10), 0, ROWS, 0),
    "teacher_forced": behavior_at(TeacherForcedWarmup(share=0.5, steps=10), 0, ROWS, 0),
    "fixed_epsilon": behavior_at(FixedEpsilonWarmup(kl_budget=0.05), 9, ROWS, 0),
    "trb_banked": behavior_at(TrbWarmup(kl_budget=0.2, kl_budget_mode="sequence"), 0, ROWS, 0),
    "temperature": behavior_at(TemperatureWarmup(temperature=0.7), 0, ROWS, 0),
    "skd": behavior_at(SkdWarmup(top_k=8), 0, ROWS, 0),
    "skd_released_code": behavior_at(SkdWarmup(top_k=8, variant="released_code"), 0, ROWS, 0),
    "sft": behavior_at(SftWarmup(), 0, ROWS, 0),
    "veto": behavior_at(VetoWarmup(), 0, ROWS, 0),
    "saki": behavior_at(SakiWarmup(kl_budget=0.05), 0, ROWS, 0),
}
FUSED = ("opd", "trb", "trb_mixed_budgets", "fixed_epsilon", "sft", "veto", "saki")
"""Arms that the fused verdict serves; the others take the plain one."""


def request(block: int) -> RolloutRequest:
    draws = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 9, (ROWS, 2), generator=draws).tolist()
    student, teacher = (
        [torch.randint(2, V, (pair[i],), generator=draws).tolist() for pair in lengths] for i in range(2)
    )
    return RolloutRequest(student, teacher, Draws.keyed(3, "gpu", 0, range(ROWS), DEPTH), block)


def pair_on(device: str, dtype: torch.dtype = torch.float32):
    pair = tiny_pair(V)
    for model in (pair.student, pair.teacher):
        model.to(device=device, dtype=dtype)
        model.bind(pair.vocabulary)
    return pair


@pytest.fixture(scope="module")
def engines():
    return {device: TorchEngine(pair_on(device), max_rows=20) for device in ("cpu", "cuda")}


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("block", [1, 5])
def test_the_cpus_rollouts(engines, arm: str, block: int):
    """float32, rows that wait for a place, captured passes; ties within rounding may fall otherwise in few rows."""
    keep = Keep(top_k=4, teacher_top=True)
    here, there = (engines[device].rollout(request(block), ARMS[arm], keep) for device in ("cpu", "cuda"))
    assert (here.teacher_top_BT is None) == (not ARMS[arm].needs_teacher)
    if here.teacher_logprob_BT is None:
        for device, rollouts in (("cpu", here), ("cuda", there)):
            engines[device].score(rollouts, keep)
    same = [
        i
        for i, rows in enumerate(zip(here.responses(), there.responses(), strict=True))
        if rows[0] == rows[1]
    ]
    assert len(same) >= ROWS - 1
    width = min(here.tokens_BT.shape[1], there.tokens_BT.shape[1])
    for name in FLOATS:
        mine, theirs = getattr(here, name), getattr(there, name)
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            torch.testing.assert_close(
                theirs[same][:, :width], mine[same][:, :width], rtol=0, atol=2e-4, msg=name
            )
    for name in ("redrawn_BT", "teacher_top_BT"):
        mine, theirs = getattr(here, name), getattr(there, name)
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            assert torch.equal(theirs[same][:, :width], mine[same][:, :width]), name


def test_the_fused_verdict_is_the_plain_one(engines, monkeypatch):
    """The same pair and draws through both judges."""
    assert fused.available(torch.device("cuda"))
    engine, keep = engines["cuda"], Keep(top_k=4)
    fast = engine.rollout(request(4), ARMS["trb_mixed_budgets"], keep)
    monkeypatch.setattr(fused, "available", lambda device: False)
    plain = engine.rollout(request(4), ARMS["trb_mixed_budgets"], keep)
    assert sum(a == b for a, b in zip(fast.responses(), plain.responses(), strict=True)) >= ROWS - 1
    both = fast.mask_BT[:, :4] & plain.mask_BT[:, :4] & (fast.tokens_BT[:, :4] == plain.tokens_BT[:, :4])
    for name in ("kl_BT", "redraw_BT", "teacher_entropy_BT"):
        torch.testing.assert_close(
            getattr(fast, name)[:, :4][both], getattr(plain, name)[:, :4][both], rtol=0, atol=1e-4
        )


def test_bfloat16_keeps_the_budget():
    engine = TorchEngine(pair_on("cuda", torch.bfloat16))
    rollouts = engine.rollout(
        request(4), trust_region_rollouts(torch.full((ROWS,), 0.01), 0.01), Keep(top_k=4)
    )
    assert float(rollouts.kl_BT.max()) <= 0.01 * (1 + 1e-5)
    seen = rollouts.redrawn_BT[rollouts.mask_BT].float().mean()
    expected = rollouts.redraw_BT[rollouts.mask_BT].mean()
    assert abs(float(seen - expected)) < 4 * (0.05 / rollouts.num_tokens) ** 0.5


@pytest.mark.parametrize("arm", ARMS)
def test_which_verdict_serves_an_arm(engines, arm: str):
    judge = judge_for(engines["cuda"].pair, ARMS[arm], Keep())
    assert isinstance(judge, FusedJudge if arm in FUSED else PlainJudge)
