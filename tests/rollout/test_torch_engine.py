"""The engine's records against a fresh forward pass, repeatability, and what it does not compute."""

import copy
from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
import torch

from tests.enumeration import (
    ARMS,
    COSTS,
    STUDENT_ALONE,
    behavior_at,
    exact_copy,
    fresh_probabilities,
    mu_at,
    responses_of,
)
from tests.tiny import STUDENT_EOS, TEACHER_EOS, tiny_pair
from trb_lab.errors import UsageError
from trb_lab.policy.behaviors import StepBehavior, Target, student_rollouts
from trb_lab.rollout.blocks import BlockChooser
from trb_lab.rollout.cached_model import CachedModel
from trb_lab.rollout.engine import Draws, Keep, RolloutRequest
from trb_lab.rollout.torch_engine import STUDENT_BLOCK, TorchEngine
from trb_lab.spec.warmup import OpdWarmup, TrbWarmup

V, ROWS = 6, 24
BLOCKS = (1, 2, 4, 8, None)
KEEP = Keep(top_k=3, teacher_hidden=True)
TEACHER_FIELDS = ("teacher_logprob_BT", "teacher_entropy_BT", "teacher_support_BTK", "teacher_hidden_BTH")


@cache
def pair_of():
    return tiny_pair(V, sharpness=1.0, seed=8)


@pytest.fixture
def pair():
    return pair_of()


def unequal_request(depth=12, block=None, step=3):
    rng = np.random.default_rng(0)
    student = [rng.integers(2, V, size=rng.integers(1, 7)).tolist() for _ in range(ROWS)]
    teacher = [rng.integers(2, V, size=rng.integers(1, 9)).tolist() for _ in range(ROWS)]
    return RolloutRequest(student, teacher, Draws.keyed(9, "rollout", step, range(ROWS), depth), block)


def small_engine():
    """Decodes 7 rows at once and scores 40 tokens, 7 logits at once."""
    return TorchEngine(pair_of(), max_rows=7, score_tokens=40, chunk_tokens=7)


@cache
def rollout(arm, block):
    """24 ragged rows; block None adapts to a made-up cost table."""
    behavior = ARMS[arm].behavior(ROWS)
    block = block or BlockChooser(None, COSTS).at(behavior)
    return small_engine().rollout(unequal_request(block=block), behavior, KEEP)


def scored(rollouts):
    """The rollouts with the teacher's statistics from a scoring pass."""
    without = replace(rollouts, **dict.fromkeys(TEACHER_FIELDS))
    small_engine().score(without, KEEP)
    return without


def only_rows(asked, behavior, rows):
    """Some rows of a request, as a request."""
    student, teacher = (
        [prompts[r] for r in rows] for prompts in (asked.student_prompts, asked.teacher_prompts)
    )
    draws = Draws(asked.draws.draft_BT[rows], asked.draws.keep_BT[rows], asked.draws.redraw_BT[rows])
    part = RolloutRequest(student, teacher, draws, asked.block_tokens)
    return part, replace(behavior, row_values=behavior.row_values[rows])


def assert_same(one, other):
    """Bit for bit."""
    for field in fields(one):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, torch.Tensor):
            assert torch.equal(left, right), field.name


@pytest.mark.parametrize("arm", ARMS)
def test_records_equal_a_fresh_forward_pass(pair, arm):
    """Statistics kept from the verification, for every block length: against the definition in float64."""
    behavior = ARMS[arm].behavior(ROWS)
    exact = exact_copy(pair.student), exact_copy(pair.teacher)
    for block in BLOCKS:
        rollouts = rollout(arm, block)
        if not behavior.needs_teacher:
            assert rollouts.teacher_logprob_BT is None
            rollouts = scored(rollouts)
        mask_BT = rollouts.mask_BT
        assert len(set(rollouts.lengths_B.tolist())) > 3
        prompts = rollouts.student_prompts, rollouts.teacher_prompts
        p_BTV, q_BTV = (fresh_probabilities(exact[i], prompts[i], rollouts, V) for i in range(2))
        p_NV, q_NV = p_BTV[mask_BT], q_BTV[mask_BT]
        mu_NV = mu_at(ARMS[arm], p_BTV, q_BTV, mask_BT, behavior.row_values)
        tokens_N1 = rollouts.tokens_BT[mask_BT][:, None]
        rate_N = 0.5 * (mu_NV - p_NV).abs().sum(-1)
        if ARMS[arm].redraw_rate is not None:
            rate_N = ARMS[arm].redraw_rate(p_NV, q_NV)
        log_q_NV = q_NV.log()
        support_NK = rollouts.support_BTK[mask_BT]
        assert torch.equal(support_NK, p_NV.topk(3, -1).indices)
        gap_NV = torch.where(mu_NV > 0, (mu_NV / p_NV).log(), 0.0)
        expected = {
            "student_logprob_BT": p_NV.gather(-1, tokens_N1).squeeze(-1).log(),
            "teacher_logprob_BT": q_NV.gather(-1, tokens_N1).squeeze(-1).log(),
            "behavior_logprob_BT": mu_NV.gather(-1, tokens_N1).squeeze(-1).log(),
            "teacher_entropy_BT": -torch.where(q_NV > 0, q_NV * log_q_NV, 0.0).sum(-1),
            "redraw_BT": rate_N,
            "kl_BT": (mu_NV * gap_NV).sum(-1),
            "teacher_support_BTK": log_q_NV.gather(-1, support_NK),
        }
        # beta may stop short by the solver's tolerance, which moves mu besides rounding.
        blends = arm.startswith(("trb", "fixed", "saki"))
        solver = {"behavior_logprob_BT", "redraw_BT", "kl_BT"} if blends else set()
        for name, values_N in expected.items():
            found = getattr(rollouts, name)
            tolerance = 1e-4 if name in solver else 1e-5
            torch.testing.assert_close(
                found[mask_BT].double(), values_N, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
            )
            assert (found[~mask_BT] == 0).all()


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm not in STUDENT_ALONE])
def test_scoring_agrees_with_what_the_verification_kept(arm):
    for block in BLOCKS:
        kept = rollout(arm, block)
        again = scored(kept)
        for name in TEACHER_FIELDS:
            torch.testing.assert_close(getattr(kept, name), getattr(again, name), rtol=0, atol=1e-5)


@pytest.mark.parametrize("arm", ["opd", "trb_0.05", "skd_2_published", "teacher_forced_half"])
def test_rows_end_with_the_stop_token_or_at_the_limit(arm):
    rollouts = rollout(arm, 4)
    for row, length in enumerate(rollouts.lengths_B.tolist()):
        assert not rollouts.mask_BT[row, length:].any()
        assert (rollouts.tokens_BT[row, length:] == 0).all()
        response = rollouts.tokens_BT[row, :length].tolist()
        assert bool(rollouts.finished_B[row]) == (response[-1] == STUDENT_EOS)
        assert rollouts.finished_B[row] or length == 12
        assert STUDENT_EOS not in response[:-1]


# ---- repeatability ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["opd", "trb_0.05", "mixture_sequence", "skd_2_published"])
def test_the_same_request_repeats_bit_for_bit(pair, arm):
    """By the same engine, whose caches are dirty then, and by another one."""
    behavior, asked = ARMS[arm].behavior(ROWS), unequal_request(block=4)
    engine = TorchEngine(pair, max_rows=7)
    first = engine.rollout(asked, behavior, KEEP)
    engine.rollout(unequal_request(step=8, block=3), behavior, KEEP)
    assert_same(first, engine.rollout(asked, behavior, KEEP))
    assert_same(first, TorchEngine(pair, max_rows=7).rollout(asked, behavior, KEEP))


@pytest.mark.parametrize("arm", ["opd", "trb_0.05", "teacher_forced_half"])
def test_a_row_does_not_depend_on_its_batch(pair, arm):
    """Keyed draws: the same tokens whether rows are decoded together, in groups of 5, or alone."""
    asked, behavior = unequal_request(), ARMS[arm].behavior(ROWS)
    together = TorchEngine(pair).rollout(asked, behavior, Keep(top_k=2))
    grouped = TorchEngine(pair, max_rows=5).rollout(asked, behavior, Keep(top_k=2))
    assert responses_of(together) == responses_of(grouped)
    torch.testing.assert_close(together.student_logprob_BT, grouped.student_logprob_BT, rtol=0, atol=1e-5)
    for row in (0, 7, 23):
        alone = TorchEngine(pair).rollout(*only_rows(asked, behavior, [row]), Keep())
        assert responses_of(alone) == [responses_of(together)[row]]


@pytest.mark.parametrize("arm", ["opd", "trb_0.05", "teacher_forced_half", "skd_2_published"])
def test_batch_invariance_holds_bit_for_bit(pair, arm):
    """Whatever rows are asked for beside a row, in whatever order, and whatever an engine did before."""
    asked, behavior = unequal_request(block=4), ARMS[arm].behavior(ROWS)
    whole = TorchEngine(pair, batch_invariant=True).rollout(asked, behavior, KEEP)
    engine = TorchEngine(pair, max_rows=9, batch_invariant=True)
    for rows in ([23, 4, 11, 7, 4], [7], list(range(ROWS))[::-1]):
        part = engine.rollout(*only_rows(asked, behavior, rows), KEEP)
        for i, row in enumerate(rows):
            length = int(whole.lengths_B[row])
            assert int(part.lengths_B[i]) == length
            for field in fields(part):
                value = getattr(part, field.name)
                if isinstance(value, torch.Tensor) and value.dim() > 1:
                    expected = getattr(whole, field.name)[row, :length]
                    assert torch.equal(value[i, :length], expected), field.name


def test_batch_invariance_is_refused_where_it_does_not_hold(pair):
    half = replace(pair, student=copy.deepcopy(pair.student).bfloat16())
    with pytest.raises(UsageError, match="float32"):
        TorchEngine(half, batch_invariant=True)
    TorchEngine(half)


# ---- interface -------------------------------------------------------------------------------------------------


def test_the_teacher_is_not_run_where_it_is_not_needed(pair):
    def forbidden(*args, **kwargs):
        raise AssertionError("the teacher was run")

    without = replace(pair)
    without.teacher = type("Forbidden", (), {"hidden": forbidden, "logits": forbidden})()
    draws = replace(unequal_request().draws, keep_BT=None, redraw_BT=None)
    asked = replace(unequal_request(), teacher_prompts=None, draws=draws)
    for warmup, step in ((OpdWarmup(), 0), (TrbWarmup(kl_budget=0.1, steps=4), 4)):
        behavior = behavior_at(warmup, step, ROWS, seed=1)
        rollouts = TorchEngine(without).rollout(asked, behavior, Keep(top_k=2))
        assert rollouts.teacher_logprob_BT is None
        assert rollouts.work.verified_tokens == 0
        assert torch.equal(rollouts.behavior_logprob_BT, rollouts.student_logprob_BT)


def test_a_behavior_that_needs_the_teacher_asks_for_its_prompts(pair):
    asked, behavior = replace(unequal_request(), teacher_prompts=None), ARMS["trb_0.05"].behavior(ROWS)
    with pytest.raises(ValueError, match="teacher prompts"):
        TorchEngine(pair).rollout(asked, behavior, Keep())


def test_the_student_emits_its_own_stop_id_and_never_the_teachers():
    rollouts = rollout("teacher_forced", 4)
    tokens = rollouts.tokens_BT[rollouts.mask_BT]
    assert not (tokens == TEACHER_EOS).any()
    assert (tokens == STUDENT_EOS).any()
    assert all(STUDENT_EOS not in response for response in rollouts.responses())


@pytest.mark.parametrize("block", BLOCKS)
def test_third_behaviors_plug_in(pair, block):
    """The engine knows only the interface: a behaviour policy written here works."""

    def row_value_always(log_p, log_q, value):
        log_mu = torch.full_like(log_p, -torch.inf)
        log_mu.scatter_(-1, value.long()[:, None], 0.0)
        return Target(log_mu, torch.zeros(len(log_p)))

    behavior = StepBehavior(1.0, row_value_always, 2.0 + torch.arange(ROWS, dtype=torch.float64) % 4)
    rollouts = TorchEngine(pair, max_rows=5).rollout(unequal_request(3, block), behavior, Keep())
    assert responses_of(rollouts) == [(2 + row % 4,) * 3 for row in range(ROWS)]


@pytest.mark.parametrize(("arm", "block"), [("opd", None), ("opd", 1), ("trb_0.05", 1), ("trb_0.05", 4)])
def test_decoding_ends_with_the_longest_row_and_rows_leave_on_the_way(pair, monkeypatch, arm, block):
    """A row that has ended is fed no more: it takes part in its own blocks alone, and `work` counts them."""
    fed = {id(pair.student): [], id(pair.teacher): []}
    real = CachedModel.extend

    def counted(self, ids_AG):
        fed[id(self.model)].append(tuple(ids_AG.shape))
        return real(self, ids_AG)

    behavior, engine = ARMS[arm].behavior(ROWS), TorchEngine(pair)
    engine.rollout(unequal_request(200, block), behavior, Keep())  # the first one checks the models
    monkeypatch.setattr(CachedModel, "extend", counted)
    rollouts = engine.rollout(unequal_request(200, block), behavior, Keep())
    work, size = rollouts.work, block or STUDENT_BLOCK
    drafts, verifications = fed[id(pair.student)], fed[id(pair.teacher)]
    assert len(drafts) == work.draft_passes == size * work.rounds
    assert all(tokens == 1 for _, tokens in drafts)
    assert sum(rows for rows, _ in drafts) == work.drafted_tokens
    blocks_B = -(-rollouts.lengths_B // size)
    if not behavior.needs_teacher:
        assert not verifications
        assert work.rounds == int(blocks_B.max())
        assert work.drafted_tokens == size * int(blocks_B.sum())
        return
    assert [tokens for _, tokens in verifications] == [size] * work.rounds
    assert sum(rows * tokens for rows, tokens in verifications) == work.verified_tokens
    if size == 1:
        assert work.rounds == int(rollouts.lengths_B.max())
        assert work.verified_tokens == rollouts.num_tokens
    # Every block of a row commits to the end, or to its first redrawn token.
    redraws_B = rollouts.redrawn_BT.sum(-1)
    assert work.verified_tokens <= size * int((blocks_B + redraws_B).sum())


def test_changed_weights_count_from_the_next_rollout_on(pair):
    """Training moves the student's weights in place between rollouts of one engine."""
    moved = tiny_pair(V, sharpness=1.0, seed=8)
    engine, asked = TorchEngine(moved, max_rows=7), unequal_request()
    behavior = student_rollouts(ROWS)
    before = engine.rollout(asked, behavior, KEEP)
    with torch.no_grad():
        for parameter in moved.student.parameters():
            parameter.mul_(1.3)
    after = engine.rollout(asked, behavior, KEEP)
    assert responses_of(before) != responses_of(after)
    assert_same(after, TorchEngine(moved, max_rows=7).rollout(asked, behavior, KEEP))
