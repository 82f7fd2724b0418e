"""The lock-step engine against enumeration, and its records against a fresh forward pass."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from tests.tiny import STUDENT_EOS, TEACHER_EOS, reference_log_probs, tiny_pair
from trb_lab.policy.behaviors import StepBehavior, Target, behavior_at, student_rollouts
from trb_lab.rollout.engine import Keep, RolloutRequest
from trb_lab.rollout.torch_engine import TorchEngine
from trb_lab.seeds import uniforms
from trb_lab.spec.warmup import MixtureWarmup, OpdWarmup, TeacherForcedWarmup, TrbWarmup

V, DEPTH, ROWS = 6, 3, 8000
STUDENT_PROMPT, TEACHER_PROMPT = [3, 4], [5, 2, 4]
STOPS = (STUDENT_EOS, TEACHER_EOS)

ARMS = {
    "opd": OpdWarmup(),
    "trb": TrbWarmup(kl_budget=0.05, steps=10),
    "trb_small": TrbWarmup(kl_budget=0.001, steps=10),
    "trb_huge": TrbWarmup(kl_budget=50.0, steps=10),
    "mixture": MixtureWarmup(weight=0.5, steps=10),
    "mixture_sequence": MixtureWarmup(weight=0.5, level="sequence", steps=10),
    "teacher_forced": TeacherForcedWarmup(share=1.0, steps=10),
    "teacher_forced_half": TeacherForcedWarmup(share=0.5, steps=10),
}


@pytest.fixture(scope="module")
def pair():
    return tiny_pair(V)


def request(rows, depth, stream="rollout"):
    return RolloutRequest(
        [STUDENT_PROMPT] * rows, [TEACHER_PROMPT] * rows, uniforms(5, stream, 0, range(rows), depth)
    )


def reference_mu(warmup, log_p, log_q, teacher_row):
    """The arm's target in float64, by its definition."""
    p, q = log_p.exp(), log_q.exp()
    if warmup.kind == "opd":
        return p
    if warmup.kind == "teacher_forced" or (warmup.kind == "mixture" and warmup.level == "sequence"):
        return q if teacher_row else p
    if warmup.kind == "mixture":
        return (1 - warmup.weight) * p + warmup.weight * q
    common = torch.isfinite(log_p) & torch.isfinite(log_q)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        mu = torch.where(common, (1 - middle) * log_p + middle * log_q, -torch.inf).softmax(-1)
        kl = float((mu[common] * (mu[common].log() - log_p[common])).sum())
        low, high = (middle, high) if kl <= warmup.kl_budget else (low, middle)
    return torch.where(common, (1 - low) * log_p + low * log_q, -torch.inf).softmax(-1)


def enumerate_responses(pair, warmup, teacher_row):
    """Probability of every response of up to DEPTH tokens (a response ends with the stop token)."""
    cells = {}

    def visit(prefix, probability):
        if len(prefix) == DEPTH or (prefix and prefix[-1] == STUDENT_EOS):
            cells[tuple(prefix)] = cells.get(tuple(prefix), 0.0) + probability
            return
        log_p = reference_log_probs(pair.student, STUDENT_PROMPT + prefix, STOPS, V)
        log_q = reference_log_probs(pair.teacher, TEACHER_PROMPT + prefix, STOPS, V)
        mu = reference_mu(warmup, log_p, log_q, teacher_row)
        for token in range(V):
            if mu[token] > 0:
                visit([*prefix, token], probability * float(mu[token]))

    visit([], 1.0)
    return cells


def responses_of(rollouts):
    return [
        tuple(row[:n])
        for row, n in zip(rollouts.tokens_BT.tolist(), rollouts.lengths_B.tolist(), strict=True)
    ]


def fit(responses, cells):
    """p-value of the chi-square test, cells of expectation under 5 pooled."""
    count = len(responses)
    found = {}
    for response in responses:
        found[response] = found.get(response, 0) + 1
    assert set(found) <= set(cells), "a response of probability 0 was drawn"
    big = [cell for cell, p in cells.items() if p * count >= 5]
    observed = [found.get(cell, 0) for cell in big]
    expected = [cells[cell] * count for cell in big]
    rest_observed, rest_expected = count - sum(observed), count - sum(expected)
    if rest_expected > 5:
        observed.append(rest_observed)
        expected.append(rest_expected)
    expected = np.array(expected) * sum(observed) / sum(expected)
    return chisquare(observed, expected).pvalue


@pytest.mark.parametrize("arm", ARMS)
def test_responses_follow_the_enumerated_distribution(pair, arm):
    warmup = ARMS[arm]
    behavior = behavior_at(warmup, 0, ROWS, seed=1)
    rollouts = TorchEngine(pair).rollout(request(ROWS, DEPTH), behavior, Keep())
    responses = responses_of(rollouts)
    for teacher_row in sorted(set(behavior.teacher_rows.tolist())):
        mine = [r for r, t in zip(responses, behavior.teacher_rows.tolist(), strict=True) if t == teacher_row]
        assert fit(mine, enumerate_responses(pair, warmup, teacher_row)) > 1e-3


def test_the_test_has_power(pair):
    """Sampling from the student instead of mu at eps .05, or a budget 30 % too large, is caught at this sample size."""
    cells = enumerate_responses(pair, ARMS["trb"], False)
    student = TorchEngine(pair).rollout(request(ROWS, DEPTH), student_rollouts(ROWS), Keep())
    assert fit(responses_of(student), cells) < 1e-12
    wide = behavior_at(TrbWarmup(kl_budget=0.065, steps=10), 0, ROWS, seed=1)
    assert fit(responses_of(TorchEngine(pair).rollout(request(ROWS, DEPTH), wide, Keep())), cells) < 1e-3


def unequal_request(rows=24, depth=12):
    rng = np.random.default_rng(0)
    student = [rng.integers(2, V, size=rng.integers(1, 7)).tolist() for _ in range(rows)]
    teacher = [rng.integers(2, V, size=rng.integers(1, 9)).tolist() for _ in range(rows)]
    return RolloutRequest(student, teacher, uniforms(9, "rollout", 3, range(rows), depth))


@pytest.mark.parametrize("arm", ["opd", "trb", "mixture", "teacher_forced_half"])
def test_records_equal_a_fresh_forward_pass(pair, arm):
    """Unequal prompts and lengths, rows leaving the batch: log-probs, KL, TV, entropy, support as recomputed."""
    asked = unequal_request()
    behavior = behavior_at(ARMS[arm], 0, 24, seed=1)
    engine = TorchEngine(pair, score_tokens=40, chunk_tokens=7)
    keep = Keep(top_k=3)
    rollouts = engine.rollout(asked, behavior, keep)
    if rollouts.teacher_logprob_BT is None:
        assert not behavior.needs_teacher
        engine.score(rollouts, keep)
    assert len(set(rollouts.lengths_B.tolist())) > 3
    for row in range(24):
        for t in range(int(rollouts.lengths_B[row])):
            prefix = rollouts.tokens_BT[row, :t].tolist()
            log_p = reference_log_probs(pair.student, asked.student_prompts[row] + prefix, STOPS, V)
            log_q = reference_log_probs(pair.teacher, asked.teacher_prompts[row] + prefix, STOPS, V)
            mu = reference_mu(ARMS[arm], log_p, log_q, bool(behavior.teacher_rows[row]))
            token = int(rollouts.tokens_BT[row, t])
            close = {"abs": 1e-4}
            assert float(rollouts.student_logprob_BT[row, t]) == pytest.approx(float(log_p[token]), **close)
            assert float(rollouts.teacher_logprob_BT[row, t]) == pytest.approx(float(log_q[token]), **close)
            assert float(rollouts.behavior_logprob_BT[row, t]) == pytest.approx(
                float(mu[token].log()), **close
            )
            q = log_q.exp()
            entropy = float(-(q[q > 0] * log_q[q > 0]).sum())
            assert float(rollouts.teacher_entropy_BT[row, t]) == pytest.approx(entropy, **close)
            tv = float(0.5 * (mu - log_p.exp()).abs().sum())
            assert float(rollouts.redraw_BT[row, t]) == pytest.approx(tv, **close)
            kl = float((mu[mu > 0] * (mu[mu > 0].log() - log_p[mu > 0])).sum())
            assert float(rollouts.kl_BT[row, t]) == pytest.approx(kl, **close)
            support = rollouts.support_BTK[row, t]
            assert set(support.tolist()) == set(log_p.topk(3).indices.tolist())
            torch.testing.assert_close(
                rollouts.teacher_support_BTK[row, t].double(), log_q[support], rtol=0, atol=1e-4
            )
    for row in range(24):
        length = int(rollouts.lengths_B[row])
        assert not rollouts.mask_BT[row, length:].any()
        assert (rollouts.tokens_BT[row, length:] == 0).all()
        assert bool(rollouts.finished_B[row]) == (int(rollouts.tokens_BT[row, length - 1]) == STUDENT_EOS)


@pytest.mark.parametrize("arm", ["opd", "trb", "teacher_forced_half"])
def test_a_row_does_not_depend_on_its_batch(pair, arm):
    """Keyed draws: the same tokens whether rows are decoded together, in groups of 5, or alone."""
    asked = unequal_request()
    behavior = behavior_at(ARMS[arm], 0, 24, seed=1)
    together = TorchEngine(pair).rollout(asked, behavior, Keep(top_k=2))
    grouped = TorchEngine(pair, max_rows=5).rollout(asked, behavior, Keep(top_k=2))
    assert responses_of(together) == responses_of(grouped)
    width = int(together.lengths_B.max())
    torch.testing.assert_close(
        together.student_logprob_BT[:, :width], grouped.student_logprob_BT[:, :width], rtol=0, atol=1e-5
    )
    for row in (0, 7, 23):
        one = RolloutRequest(
            [asked.student_prompts[row]], [asked.teacher_prompts[row]], asked.uniforms_BT[row : row + 1]
        )
        alone = replace(behavior, teacher_rows=behavior.teacher_rows[row : row + 1])
        assert responses_of(TorchEngine(pair).rollout(one, alone, Keep())) == [responses_of(together)[row]]


def test_the_teacher_is_not_run_where_it_is_not_needed(pair):
    def forbidden(*args, **kwargs):
        raise AssertionError("the teacher was run")

    without = replace(pair)
    without.teacher = type("Forbidden", (), {"hidden": forbidden, "logits": forbidden})()
    asked = replace(unequal_request(), teacher_prompts=None)
    for step in (0, 4):
        behavior = behavior_at(
            OpdWarmup() if step == 0 else TrbWarmup(kl_budget=0.1, steps=4), step, 24, seed=1
        )
        rollouts = TorchEngine(without).rollout(asked, behavior, Keep(top_k=2))
        assert rollouts.teacher_logprob_BT is None


def test_the_student_emits_its_own_stop_id_and_never_the_teachers(pair):
    rollouts = TorchEngine(pair).rollout(
        request(500, 8), behavior_at(ARMS["teacher_forced"], 0, 500, 0), Keep()
    )
    tokens = rollouts.tokens_BT[rollouts.mask_BT]
    assert not (tokens == TEACHER_EOS).any()
    assert (tokens == STUDENT_EOS).any()
    assert all(STUDENT_EOS not in response for response in rollouts.responses())


def test_third_behaviors_plug_in(pair):
    """The engine knows only the interface: a behaviour policy written here works."""

    def second_token_always(log_p, log_q, rows):
        log_mu = torch.full_like(log_p, -torch.inf)
        log_mu[:, 2] = 0.0
        return Target(log_mu, torch.zeros(log_p.shape[0]))

    behavior = StepBehavior(1.0, second_token_always, torch.zeros(4, dtype=torch.bool))
    rollouts = TorchEngine(pair).rollout(request(4, 3), behavior, Keep())
    assert responses_of(rollouts) == [(2, 2, 2)] * 4


def test_enumeration_is_complete(pair):
    for warmup, teacher_row in itertools.product((ARMS["trb"], ARMS["mixture"]), (False,)):
        assert sum(enumerate_responses(pair, warmup, teacher_row).values()) == pytest.approx(1.0)


def test_decoding_ends_with_the_longest_row_and_rows_leave_on_the_way(pair, monkeypatch):
    """A row that has ended stays ended: no step is decoded after the longest response, and few for dead rows."""
    from trb_lab.rollout.decoder import Decoder

    fed = []
    real = Decoder.append
    monkeypatch.setattr(Decoder, "append", lambda self, tokens: (fed.append(len(tokens)), real(self, tokens)))
    rollouts = TorchEngine(pair).rollout(unequal_request(depth=200), student_rollouts(24), Keep())
    lengths = rollouts.lengths_B
    assert len(fed) == int(lengths.max()) - 1
    needed = int((lengths - 1).sum())
    assert sum(fed) <= needed / 0.6 + 24
