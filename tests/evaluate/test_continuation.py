"""Continuations against enumeration, their draws, and the statistics against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.enumeration import exact_copy, exact_probabilities
from tests.tiny import STUDENT_EOS, tiny_pair
from trb_lab.evaluate.continuation import (
    Continuer,
    Estimate,
    FirstStep,
    Item,
    continue_first_step,
    gains,
    prefix_log_probs,
    rates,
)
from trb_lab.models.load import Pair
from trb_lab.policy.behaviors import student_rollouts
from trb_lab.rollout.engine import Draws, Keep, RolloutRequest
from trb_lab.rollout.torch_engine import TorchEngine
from trb_lab.tasks.grading import Verdict
from trb_lab.tasks.problem import Problem

STUDENT_PROMPT, TEACHER_PROMPT = [3, 4], [5, 2, 4]
LIMIT = 4
"""Tokens of a response."""


class LastWord:
    """Grades a response as correct where its last word is the gold."""

    def grade(self, items):
        return [
            Verdict(text.split()[-1:] == [gold], "correct" if text.split()[-1:] == [gold] else "wrong", text)
            for gold, text in items
        ]


def words(ids):
    return [" ".join(f"w{token}" for token in row) for row in ids]


@pytest.fixture(scope="module")
def pair():
    return tiny_pair(sharpness=0.7)


def first_step(pair, rows=24, width=2, arm="a"):
    request = RolloutRequest(
        [list(STUDENT_PROMPT)] * rows,
        [list(TEACHER_PROMPT)] * rows,
        Draws.keyed(3, "t", 0, range(rows), width),
    )
    engine = TorchEngine(pair)
    rollouts = engine.rollout(request, student_rollouts(rows), Keep())
    engine.score(rollouts, Keep())
    return FirstStep(arm, rollouts, [Problem("?", "w3", f"p{i // 2}") for i in range(rows)])


def continuers(pair):
    swapped = Pair(pair.teacher, pair.student, pair.vocabulary)
    return [
        Continuer("teacher", TorchEngine(swapped), lambda r: r.teacher_prompts),
        Continuer("student", TorchEngine(pair), lambda r: r.student_prompts),
    ]


def continued(pair, step, cuts=(2,), samples=4, seed=0):
    return continue_first_step(
        step, continuers(pair), cuts, samples=samples, max_new_tokens=LIMIT, seed=seed, decode=words,
        grader=LastWord(),
    )  # fmt: skip


def exact_success(model, prompt, prefix, size):
    """Probability that the last word of a response of up to LIMIT tokens is w3, by enumeration in float64."""
    model = exact_copy(model)
    total, frontier = 0.0, {tuple(prefix): 1.0}
    while frontier:
        after = {}
        for response, reach in frontier.items():
            ids = torch.tensor([[*prompt, *response]])
            for token, probability in enumerate(exact_probabilities(model, ids, size)[0, -1].tolist()):
                mass = reach * probability
                if token == STUDENT_EOS:
                    total += mass * (response[-1] == 3)
                elif len(response) + 1 == LIMIT:
                    total += mass * (token == 3)
                elif mass > 0:
                    after[(*response, token)] = mass
        frontier = after
    return total


def test_success_is_that_of_the_enumeration(pair):
    step = first_step(pair)
    samples, size = 300, pair.vocabulary.size
    items = continued(pair, step, samples=samples)
    models = {"teacher": (pair.teacher, TEACHER_PROMPT), "student": (pair.student, STUDENT_PROMPT)}
    for name, (model, prompt) in models.items():
        found: dict[tuple, list[bool]] = {}
        for item in items:
            if item.continuer == name:
                prefix = tuple(step.rollouts.tokens_BT[item.row, :2].tolist())
                found.setdefault(prefix, []).append(item.correct)
        assert len(found) > 3
        z = []
        for prefix, marks in found.items():
            p = exact_success(model, prompt, prefix, size)
            z.append((sum(marks) - len(marks) * p) / math.sqrt(len(marks) * p * (1 - p)))
        assert max(map(abs, z)) < 4
    apart = [
        abs(
            exact_success(pair.teacher, TEACHER_PROMPT, p, size)
            - exact_success(pair.student, STUDENT_PROMPT, p, size)
        )
        for p in found
    ]
    assert max(apart) > 0.05  # a test that could not tell the continuers apart would say little


def test_equal_prefixes_are_continued_alike_in_both_arms(pair):
    def comparable(items):
        return [(i.cut, i.continuer, i.row, i.sample, i.answer, i.tokens) for i in items]

    first = continued(pair, first_step(pair, arm="a"), cuts=(1, 2))
    second = continued(pair, first_step(pair, arm="b"), cuts=(1, 2))
    assert comparable(first) == comparable(second)
    assert comparable(continued(pair, first_step(pair), cuts=(1, 2), seed=1)) != comparable(first)


def test_rollouts_that_have_ended_are_counted_apart(pair):
    step = first_step(pair, rows=40)
    items = continued(pair, step, samples=1)
    ended = step.rollouts.finished_B & (step.rollouts.lengths_B <= 2)
    assert 0 < int(ended.sum()) < 40
    assert {i.row for i in items if i.continuer is None} == set(ended.nonzero().flatten().tolist())
    assert {i.row for i in items if i.continuer == "student"} == set((~ended).nonzero().flatten().tolist())
    assert all(i.tokens <= LIMIT - 2 for i in items)


def test_log_probs_of_prefixes(pair):
    step = first_step(pair)
    found = prefix_log_probs(step, 1)
    size = pair.vocabulary.size
    law = exact_probabilities(exact_copy(pair.teacher), torch.tensor([TEACHER_PROMPT]), size)[0, -1].log()
    first = step.rollouts.tokens_BT[:, 0]
    expected = law[first[first != STUDENT_EOS]].mean()
    assert found["teacher_logprob"] == pytest.approx(float(expected), abs=1e-5)


def item(arm, problem, row, sample, correct, continuer="teacher"):
    return Item(arm, 2, continuer, problem, row, sample, correct, "", None, 1, True)


def test_rates_and_gains_by_hand():
    # Problem p: row 0 is continued twice in both arms, row 1 had ended in arm a. Problem q: one row each.
    items = [
        item("a", "p", 0, 0, True), item("a", "p", 0, 1, False), item("a", "p", 1, 0, True, None),
        item("a", "q", 2, 0, True), item("a", "q", 2, 1, True),
        item("b", "p", 0, 0, False), item("b", "p", 0, 1, False),
        item("b", "p", 1, 0, True), item("b", "p", 1, 1, False),
        item("b", "q", 2, 0, True), item("b", "q", 2, 1, False),
    ]  # fmt: skip
    a, b = rates(items, ["a", "b"], ["teacher"], [2])
    assert (a.continued, a.ended, a.ended_correct) == (2, 1, 1.0)
    assert a.success.value == pytest.approx((1 / 2 + 1) / 2)
    assert a.with_ended.value == pytest.approx(((1 / 2 + 1) / 2 + 1) / 2)
    assert b.success.value == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert b.ended_correct is None
    (gain,) = gains(items, ("a", "b"), ["teacher"], [2])
    differences = [1 / 2 - 1 / 4, 1 - 1 / 2]
    assert gain.success.value == pytest.approx(np.mean(differences))
    assert gain.success.stderr == pytest.approx(np.std(differences, ddof=1) / np.sqrt(2))
    assert gain.success.prompts == 2


def test_a_prompt_that_one_arm_has_not_is_no_pair():
    items = [item("a", "p", 0, 0, True), item("b", "p", 0, 0, True, None), item("b", "q", 1, 0, False)]
    (gain,) = gains(items, ("a", "b"), ["teacher"], [2])
    assert gain.success == Estimate(None, None, 0)
    assert gain.with_ended == Estimate(0.0, None, 1)


def test_an_estimate_against_numpy():
    values = [0.2, 0.9, 0.4, 0.4]
    found = Estimate.of(values)
    assert found.value == pytest.approx(np.mean(values))
    assert found.stderr == pytest.approx(np.std(values, ddof=1) / 2)


def test_long_lists_are_asked_for_in_parts(pair, monkeypatch):
    step = first_step(pair, rows=6)
    whole = continued(pair, step)
    monkeypatch.setattr("trb_lab.evaluate.continuation.ROWS_AT_ONCE", 5)
    assert sorted(map(str, continued(pair, step))) == sorted(map(str, whole))
