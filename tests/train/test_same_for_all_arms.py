"""Data, prompt order and draws depend on the seed alone."""

import numpy as np
import pytest
import torch

from tests.enumeration import behavior_at
from tests.train.experiments import small_spec
from trb_lab.models.load import load_pair
from trb_lab.rollout.engine import Keep
from trb_lab.rollout.torch_engine import TorchEngine
from trb_lab.tasks.grading import Grader
from trb_lab.train.data import TrainingData

WARMUPS = [
    {"kind": "opd"},
    {"kind": "trb", "kl_budget": 0.05, "steps": 3},
    {"kind": "mixture", "weight": 0.5, "steps": 3},
    {"kind": "teacher_forced", "steps": 3},
]
DRAWS = ("draft_BT", "keep_BT", "redraw_BT")


@pytest.fixture(scope="module")
def pair():
    spec = small_spec()
    return load_pair(spec.student, spec.teacher, torch.device("cpu"), torch.float32)


def data_of(pair, **changes):
    with Grader() as grader:
        return TrainingData(small_spec(**changes), pair, grader)


def test_prompts_and_draws_are_the_same_for_every_arm(pair):
    reference = data_of(pair)
    for warmup in WARMUPS:
        data = data_of(pair, warmup=warmup)
        for step in (0, 3, 5):
            ours, theirs = data.prompts_at(step), reference.prompts_at(step)
            assert [p.prompt for p in ours.problems] == [p.prompt for p in theirs.problems]
            assert ours.request.student_prompts == theirs.request.student_prompts
            assert np.array_equal(ours.request.draws.draft_BT, theirs.request.draws.draft_BT)


def test_another_seed_gives_other_prompts_and_draws(pair):
    one, two = data_of(pair, seed=0).prompts_at(0), data_of(pair, seed=1).prompts_at(0)
    assert [p.prompt for p in one.problems] != [p.prompt for p in two.problems]
    assert not np.array_equal(one.request.draws.draft_BT, two.request.draws.draft_BT)


def test_after_the_warmup_every_arm_draws_the_same_rollouts(pair):
    """With equal weights, a step behind the horizon gives the same tokens whatever the arm was."""
    found = []
    for warmup in WARMUPS:
        data = data_of(pair, warmup=warmup)
        behavior = behavior_at(data.spec.warmup, 4, data.rows, data.spec.seed)
        found.append(TorchEngine(pair).rollout(data.prompts_at(4).request, behavior, Keep()).tokens_BT)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_samples_of_a_prompt_differ(pair):
    data = data_of(pair, rollout={"prompts_per_step": 4, "samples_per_prompt": 4, "max_new_tokens": 24})
    prompts = data.prompts_at(0)
    assert len(prompts.problems) == 16
    assert prompts.problems[0] == prompts.problems[3] != prompts.problems[4]
    assert len({tuple(row) for row in prompts.request.draws.draft_BT.tolist()}) == 16
