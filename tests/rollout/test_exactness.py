"""Draft-and-verify against lock-step decoding and against the enumerated distribution, for every arm.

Tokens do not depend on the block length, so equality with lock-step over many rows is the sharper test; the
chi-square tests against the enumeration say that lock-step itself is right. Rows have prompts of unequal length, and
fewer are decoded at once than are asked for, so that waiting ones take the places of those that end.

Threshold: about 45 runs x 5 tests are made with fixed draws; at 1e-4 each, the chance that a right engine fails one
of them on other draws is under 225 x 1e-4 = 2.3 % (Bonferroni). Faults
must fall under 1e-9; at these sizes those below give 1e-14 or less.
"""

import math
from functools import cache

import pytest
import torch

from tests.enumeration import (
    ARMS,
    BANKED,
    BUDGETS,
    PROMPTS,
    STUDENT_ALONE,
    Arm,
    Enumeration,
    blend_of,
    draw_steps,
    exact_copy,
    fresh_probabilities,
    mu_at,
    ragged_request,
    responses_of,
)
from tests.tiny import tiny_pair
from trb_lab.policy.behaviors import trust_region_rollouts
from trb_lab.policy.coupling import Target, sample
from trb_lab.rollout import judge as judging
from trb_lab.rollout.batch import Batch
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
@pytest.mark.parametrize("name", ["trb_0.5", "trb_banked", "skd_2_published", "skd_2_released_code"])
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
    changes = name not in (*STUDENT_ALONE, "trb_0.0")  # nothing is redrawn there
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


def at_responses(name, rows=1500, block=4, depth=6, max_rows=400):
    """Rollouts of an arm with p and q [B, T, V] of their positions, in float64."""
    pair, arm = pair_of(), ARMS[name]
    behavior = arm.behavior(rows)
    asked = ragged_request(rows, depth, f"{name}/rates", block=block)
    rollouts = TorchEngine(pair, max_rows=max_rows).rollout(asked, behavior, Keep())
    p_BTV, q_BTV = (
        fresh_probabilities(exact_copy(model), prompts, rollouts, 6)
        for model, prompts in (
            (pair.student, asked.student_prompts),
            (pair.teacher, asked.teacher_prompts),
        )
    )
    return rollouts, p_BTV, q_BTV


@pytest.mark.parametrize("eps", BUDGETS)
def test_the_realised_kl_stays_in_the_budget(eps):
    """To the tolerance of method.md, section 2, for the KL as recorded and as recomputed from the recorded beta."""
    rollouts, p_BTV, q_BTV = at_responses(f"trb_{eps}")
    mask_BT = rollouts.mask_BT
    beta_N = rollouts.beta_BT[mask_BT].double()
    recorded_N = rollouts.kl_BT[mask_BT].double()
    _, kl_N = blend_of(p_BTV[mask_BT], q_BTV[mask_BT], beta_N)
    torch.testing.assert_close(recorded_N, kl_N, rtol=2e-5, atol=1e-8)
    spent_N = beta_N < 1
    for found_N in (recorded_N, kl_N):
        assert (found_N <= eps * (1 + 1e-5) + 1e-12).all()
        if eps > 0:
            assert (found_N[spent_N] >= eps * (1 - 1e-4)).all()
    if math.isinf(eps):
        assert (beta_N == 1).all()


def test_a_banked_row_spends_at_most_a_budget_a_token():
    """KL of the first t tokens <= t budgets, for every row and t; some tokens spend more than the budget of one.

    The KL is recomputed in float64 from the recorded beta.
    """
    eps = BANKED
    rollouts, p_BTV, q_BTV = at_responses("trb_banked", rows=300, depth=24, max_rows=40)
    mask_BT, beta_BT = rollouts.mask_BT, rollouts.beta_BT.double()
    kl_BT = torch.zeros_like(beta_BT)
    kl_BT[mask_BT] = blend_of(p_BTV[mask_BT], q_BTV[mask_BT], beta_BT[mask_BT])[1]
    torch.testing.assert_close(rollouts.kl_BT.double(), kl_BT, rtol=2e-5, atol=1e-8)
    allowed_T = eps * torch.arange(1, mask_BT.shape[1] + 1)
    assert (kl_BT.cumsum(-1) <= allowed_T * (1 + 1e-5)).all()
    assert (kl_BT > 1.2 * eps).any()
    # Where the blend stops short of the teacher, nothing is left in the bank.
    binds_BT = mask_BT & (beta_BT < 1)
    assert (kl_BT.cumsum(-1)[binds_BT] >= (allowed_T * (1 - 1e-4)).expand_as(kl_BT)[binds_BT]).all()


def test_a_banked_row_starts_as_one_with_a_budget_a_token():
    """Equal first tokens, KL and beta; the second token of a row that saved something may spend more."""
    pair, drawn = pair_of(), {}
    for name in ("trb_banked", f"trb_{BANKED}"):
        asked = ragged_request(300, 2, "banked or not", block=2)
        drawn[name] = TorchEngine(pair, max_rows=40).rollout(asked, ARMS[name].behavior(300), Keep())
    banked, plain = drawn.values()
    assert torch.equal(banked.tokens_BT[:, 0], plain.tokens_BT[:, 0])
    for field in ("kl_BT", "beta_BT", "behavior_logprob_BT"):
        torch.testing.assert_close(
            getattr(banked, field)[:, 0], getattr(plain, field)[:, 0], rtol=1e-4, atol=1e-6
        )
    assert (banked.kl_BT[:, 1] > plain.kl_BT[:, 1] * 1.2).any()


@pytest.mark.parametrize("block", [1, 2, 4, 8])
def test_a_banked_row_keeps_its_own_bank(block):
    """Rows that end, wait, and move into others' slots: the beta of every token is that of its own row's history."""
    rollouts, p_BTV, q_BTV = at_responses("trb_banked", rows=60, depth=16, block=block, max_rows=7)
    mask_BT = rollouts.mask_BT
    assert len(set(rollouts.lengths_B.tolist())) > 5
    value_B = torch.full((60,), BANKED, dtype=torch.float64)
    mu_NV = mu_at(ARMS["trb_banked"], p_BTV, q_BTV, mask_BT, value_B)
    logprob_N = mu_NV.gather(-1, rollouts.tokens_BT[mask_BT][:, None]).squeeze(-1).log()
    torch.testing.assert_close(rollouts.behavior_logprob_BT[mask_BT].double(), logprob_N, rtol=0, atol=1e-4)


@pytest.mark.parametrize("fault", ["bank of another row", "bank kept for the next row", "bank not moved"])
def test_a_mixed_up_bank_is_caught(fault, monkeypatch):
    """The test above fails where banks go astray."""
    if fault == "bank of another row":
        real = judging.PlainJudge.judge
        monkeypatch.setattr(
            judging.PlainJudge, "judge",
            lambda self, drafts, look: real(self, drafts, look._replace(bank_A=look.bank_A.roll(1))),
        )  # fmt: skip
    elif fault == "bank kept for the next row":
        fill = Batch._fill

        def keeping(self, free):
            bank_S = self.bank_S.clone()
            fill(self, free)
            self.bank_S = torch.where(self.bank_S == 0, bank_S, self.bank_S)

        monkeypatch.setattr(Batch, "_fill", keeping)
    else:
        close = Batch._close

        def left_behind(self, slot):
            bank = self.bank_S[slot].clone()
            close(self, slot)
            self.bank_S[slot] = bank

        monkeypatch.setattr(Batch, "_close", left_behind)
    with pytest.raises(AssertionError):
        test_a_banked_row_keeps_its_own_bank(4)


@pytest.mark.parametrize("name", [name for name in ARMS if name not in STUDENT_ALONE])
def test_redraws_happen_at_their_rate(name):
    """The share of redrawn tokens is within 4 standard errors of the mean rate (TV(p, mu), or the arm's own)."""
    rollouts, p_BTV, q_BTV = at_responses(name)
    arm, mask_BT = ARMS[name], rollouts.mask_BT
    rate_N, redrawn_N = rollouts.redraw_BT[mask_BT].double(), rollouts.redrawn_BT[mask_BT].double()
    if arm.redraw_rate:
        expected_N = arm.redraw_rate(p_BTV[mask_BT], q_BTV[mask_BT])
    else:
        mu_NV = mu_at(arm, p_BTV, q_BTV, mask_BT, arm.behavior(len(mask_BT)).row_values)
        expected_N = 0.5 * (mu_NV - p_BTV[mask_BT]).abs().sum(-1)
    # Budgets near 0: the solver may stop 1e-4 short of the budget, so mu moves by 5e-5 of TV. Banks add up.
    torch.testing.assert_close(rate_N, expected_N, rtol=1e-3 if arm.is_banked else 1e-4, atol=2e-6)
    error = math.sqrt(float((rate_N * (1 - rate_N)).clamp_min(0).sum())) / len(rate_N)
    assert abs(float(redrawn_N.mean() - rate_N.mean())) <= 4 * error + 1e-12
    budgets = {"fixed_budget": 0.05, "fixed_epsilon": 0.05, "saki": 0.025} | {f"trb_{e}": e for e in BUDGETS}
    eps = budgets.get(name, math.inf)
    assert float(rate_N.max()) <= math.sqrt(eps / 2) * (1 + 1e-5) + 1e-7
    assert float(redrawn_N.mean()) <= math.sqrt(eps / 2)


@pytest.mark.parametrize("name", ["temperature", "temperature_later"])
def test_tempered_rollouts_are_drawn_from_mu_itself(name):
    """Nothing is redrawn; the recorded KL and TV are those from the student."""
    rollouts, p_BTV, q_BTV = at_responses(name, rows=300)
    mask_BT, p_NV = rollouts.mask_BT, p_BTV[rollouts.mask_BT]
    mu_NV = ARMS[name].mu(p_NV, q_BTV[mask_BT], None)
    assert not rollouts.redrawn_BT.any() and rollouts.teacher_logprob_BT is None
    expected = {
        "behavior_logprob_BT": mu_NV.gather(-1, rollouts.tokens_BT[mask_BT][:, None]).squeeze(-1).log(),
        "kl_BT": torch.special.xlogy(mu_NV, torch.where(mu_NV > 0, mu_NV / p_NV, 1.0)).sum(-1),
        "redraw_BT": 0.5 * (mu_NV - p_NV).abs().sum(-1),
    }
    for field, values_N in expected.items():
        torch.testing.assert_close(getattr(rollouts, field)[mask_BT].double(), values_N, rtol=0, atol=1e-5)
