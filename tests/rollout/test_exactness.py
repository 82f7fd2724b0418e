"""Draft-and-verify against lock-step decoding and against the enumerated distribution, for every arm.

Tokens do not depend on the block length, so equality with lock-step over many rows is the sharper test; the
chi-square tests against the enumeration say that lock-step itself is right. Rows have prompts of unequal length, and
fewer are decoded at once than are asked for, so that waiting ones take the places of those that end.

Threshold: about 24 runs x 5 tests are made with fixed draws; at 1e-4 each, the chance that a right engine fails one
of them on other draws is under 120 x 1e-4 = 1.2 % (Bonferroni). Faults
must fall under 1e-9; at these sizes those below give 1e-14 or less.
"""

import math
from functools import cache

import pytest
import torch

from tests.enumeration import (
    ARMS,
    BUDGETS,
    PROMPTS,
    Arm,
    Enumeration,
    blend_of,
    draw_steps,
    exact_copy,
    fresh_probabilities,
    ragged_request,
    responses_of,
)
from tests.tiny import tiny_pair
from trb_lab.policy.behaviors import trust_region_rollouts
from trb_lab.policy.coupling import Target, sample
from trb_lab.rollout import judge as judging
from trb_lab.rollout.cached_model import CachedModel
from trb_lab.rollout.engine import Draws, Keep
from trb_lab.rollout.torch_engine import TorchEngine

DEPTH, ROWS, FAULT_ROWS = 4, 3000, 2100  # rows of each of 2 steps
THRESHOLD, CAUGHT = 1e-4, 1e-9
ADAPTIVE = None


@cache
def pair_of(vocabulary=6):
    return tiny_pair(vocabulary, sharpness=1.0, seed=8)


@cache
def enumeration_of(vocabulary=6):
    return Enumeration(pair_of(vocabulary), DEPTH)


def p_values(name, block, vocabulary=6, rows=ROWS):
    arm = ARMS[name]
    drawn = draw_steps(pair_of(vocabulary), arm, rows, DEPTH, block, f"{name}/{block}", rows // 2)
    return enumeration_of(vocabulary).p_values(arm, drawn)


# ---- distribution ----------------------------------------------------------------------------------------------


def test_the_enumeration_is_complete():
    for name, arm in ARMS.items():
        for kind in range(len(PROMPTS)):
            cells = enumeration_of().cells(arm, kind, float(arm.behavior(1).row_values[0]))
            assert sum(cells.values()) == pytest.approx(1.0, abs=1e-12), name


@pytest.mark.parametrize("name", ARMS)
def test_responses_follow_the_enumerated_distribution(name):
    assert min(p_values(name, block=4)) > THRESHOLD


@pytest.mark.parametrize("block", [1, 2, 8, ADAPTIVE])
@pytest.mark.parametrize("name", ["trb_0.5", "skd"])
def test_block_lengths_follow_the_enumerated_distribution(name, block):
    assert min(p_values(name, block)) > THRESHOLD


@pytest.mark.parametrize("name", ["trb_0.05", "mixture"])
def test_a_larger_vocabulary_follows_the_enumerated_distribution(name):
    assert min(p_values(name, 3, vocabulary=9)) > THRESHOLD


@pytest.mark.parametrize("name", ARMS)
def test_block_lengths_draw_the_tokens_of_lock_step(name):
    """A token changes with the block length only where a uniform lies within rounding (1e-6) of a boundary."""

    def tokens(block):
        drawn = draw_steps(pair_of(), ARMS[name], 120, 12, block, f"{name}/equal", max_rows=50)
        return [responses_of(step.rollouts) for step in drawn], [s.rollouts.work.block_tokens for s in drawn]

    lock_step, _ = tokens(1)
    assert len({len(response) for step in lock_step for response in step}) > 3
    for block in (2, 4, 8):
        assert tokens(block) == (lock_step, [block] * 2)
    adaptive, blocks = tokens(ADAPTIVE)
    assert adaptive == lock_step
    changes = name not in ("opd", "trb_0.0")  # nothing is redrawn there
    assert (len(set(blocks)) > 1) == changes


# ---- power -----------------------------------------------------------------------------------------------------


def _redrawn_from_the_position_after(monkeypatch):
    """The residual uses mu of the next position."""
    real = Target.at
    monkeypatch.setattr(
        Target, "at", lambda self, index: real(self, (index + 1).clamp_max(len(self.kl_N) - 1))
    )


def _replaced_at_the_position_after(monkeypatch):
    real = judging._replaced

    def late(drafts_AG, first_A, any_A, tokens_A):
        return real(drafts_AG, (first_A + 1).clamp_max(drafts_AG.shape[1] - 1), any_A, tokens_A)

    monkeypatch.setattr(judging, "_replaced", late)


def _redrawn_from_the_student(monkeypatch):
    monkeypatch.setattr(judging, "redraw", lambda log_p, target, uniform: sample(log_p, uniform))


def _redrawn_from_mu(monkeypatch):
    monkeypatch.setattr(judging, "redraw", lambda log_p, target, uniform: sample(target.log_mu_NV, uniform))


def _bonus_token_kept(monkeypatch):
    """The draft behind the redrawn token, made after another prefix, is kept."""
    real = judging._replaced

    def greedy(drafts_AG, *rest):
        tokens_AG, redrawn_AG, verified_A = real(drafts_AG, *rest)
        return tokens_AG, redrawn_AG, (verified_A + 1).clamp_max(drafts_AG.shape[1])

    monkeypatch.setattr(judging, "_replaced", greedy)


def _draws_reused(source, target):
    """One of a token's three draws does the work of two."""

    def inject(monkeypatch):
        real = Draws.keyed

        def keyed(*args, **kwargs):
            draws = real(*args, **kwargs)
            parts = {name: getattr(draws, name) for name in ("draft_BT", "keep_BT", "redraw_BT")}
            return Draws(**{**parts, target: parts[source]})

        monkeypatch.setattr(Draws, "keyed", staticmethod(keyed))

    return inject


def _no_roll_back(monkeypatch):
    """Both caches keep the token of a dropped draft: lengths are one too far."""
    real = CachedModel.place
    monkeypatch.setattr(CachedModel, "place", lambda self, at_A: real(self, at_A + (at_A > 0).int()))


def _values_of_another_row(monkeypatch):
    real = judging.PlainJudge.judge

    def other(self, drafts_AG, look):
        return real(self, drafts_AG, look._replace(values_A=look.values_A.roll(1)))

    monkeypatch.setattr(judging.PlainJudge, "judge", other)


FAULTS = {
    "residual_of_the_position_after": _redrawn_from_the_position_after,
    "replaced_at_the_position_after": _replaced_at_the_position_after,
    "redrawn_from_the_student": _redrawn_from_the_student,
    "redrawn_from_mu": _redrawn_from_mu,
    "bonus_token_kept": _bonus_token_kept,
    "keep_draw_redraws": _draws_reused("keep_BT", "redraw_BT"),
    "draft_draw_keeps": _draws_reused("draft_BT", "keep_BT"),
    "no_roll_back": _no_roll_back,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(fault, monkeypatch):
    FAULTS[fault](monkeypatch)
    assert min(p_values("trb_0.5", block=4, rows=FAULT_ROWS)) < CAUGHT


def test_a_value_of_another_row_is_caught(monkeypatch):
    _values_of_another_row(monkeypatch)
    assert min(p_values("mixture_sequence", block=4, rows=FAULT_ROWS)) < CAUGHT


def test_a_wrong_budget_is_caught():
    """Student rollouts in place of mu at eps .05, and a budget of .075."""
    wide = Arm(lambda rows: trust_region_rollouts(torch.full((rows,), 0.075), 0.075), ARMS["trb_0.05"].mu)
    for arm, rows, limit in ((ARMS["opd"], FAULT_ROWS, CAUGHT), (wide, 2 * ROWS, THRESHOLD)):
        drawn = draw_steps(pair_of(), arm, rows, DEPTH, 4, "wrong", rows // 2)
        for step in drawn:
            step.behavior.row_values.fill_(0.05)  # what the enumeration takes the budget to be
        assert min(enumeration_of().p_values(ARMS["trb_0.05"], drawn)) < limit


# ---- budget and redraws ----------------------------------------------------------------------------------------


def at_responses(name, rows=1500, block=4):
    """Rollouts of an arm with p and q [N, V] of their positions, in float64."""
    pair, arm = pair_of(), ARMS[name]
    behavior = arm.behavior(rows)
    asked = ragged_request(rows, 6, f"{name}/rates", block=block)
    rollouts = TorchEngine(pair, max_rows=400).rollout(asked, behavior, Keep())
    p_NV, q_NV = (
        fresh_probabilities(exact_copy(model), prompts, rollouts, 6)[rollouts.mask_BT]
        for model, prompts in (
            (pair.student, asked.student_prompts),
            (pair.teacher, asked.teacher_prompts),
        )
    )
    return rollouts, p_NV, q_NV


@pytest.mark.parametrize("eps", BUDGETS)
def test_the_realised_kl_stays_in_the_budget(eps):
    """To the tolerance of method.md, section 2, for the KL as recorded and as recomputed from the recorded beta."""
    rollouts, p_NV, q_NV = at_responses(f"trb_{eps}")
    beta_N = rollouts.beta_BT[rollouts.mask_BT].double()
    recorded_N, (_, kl_N) = rollouts.kl_BT[rollouts.mask_BT].double(), blend_of(p_NV, q_NV, beta_N)
    torch.testing.assert_close(recorded_N, kl_N, rtol=2e-5, atol=1e-8)
    spent_N = beta_N < 1
    for found_N in (recorded_N, kl_N):
        assert (found_N <= eps * (1 + 1e-5) + 1e-12).all()
        if eps > 0:
            assert (found_N[spent_N] >= eps * (1 - 1e-4)).all()
    if math.isinf(eps):
        assert (beta_N == 1).all()


@pytest.mark.parametrize("name", [name for name in ARMS if name != "opd"])
def test_redraws_happen_at_their_rate(name):
    """The share of redrawn tokens is within 4 standard errors of the mean rate (TV(p, mu), or the arm's own)."""
    rollouts, p_NV, q_NV = at_responses(name)
    arm, mask_BT = ARMS[name], rollouts.mask_BT
    rate_N, redrawn_N = rollouts.redraw_BT[mask_BT].double(), rollouts.redrawn_BT[mask_BT].double()
    values_N = arm.behavior(len(mask_BT)).row_values[:, None].expand(mask_BT.shape)[mask_BT]
    expected_N = torch.zeros_like(rate_N)
    for value in values_N.unique().tolist():
        of = values_N == value
        p, q = p_NV[of], q_NV[of]
        mu = arm.mu(p, q, value)
        expected_N[of] = arm.redraw_rate(p, q) if arm.redraw_rate else 0.5 * (mu - p).abs().sum(-1)
    # Budgets near 0: the solver may stop 1e-4 short of the budget, so mu moves by 5e-5 of TV.
    torch.testing.assert_close(rate_N, expected_N, rtol=1e-4, atol=2e-6)
    error = math.sqrt(float((rate_N * (1 - rate_N)).clamp_min(0).sum())) / len(rate_N)
    assert abs(float(redrawn_N.mean() - rate_N.mean())) <= 4 * error + 1e-12
    eps = {"fixed_budget": 0.05}.get(name) or (float(name[4:]) if name.startswith("trb_") else math.inf)
    assert float(rate_N.max()) <= math.sqrt(eps / 2) * (1 + 1e-5) + 1e-7
    assert float(redrawn_N.mean()) <= math.sqrt(eps / 2)
