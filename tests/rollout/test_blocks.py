"""Block lengths: what a block commits, which one is fastest, and what the chooser learns."""

import json

import numpy as np
import pytest
import torch

from tests.enumeration import (
    ARMS,
    COSTS,
    behavior_at,
    ragged_request,
)
from tests.tiny import tiny_pair
from trb_lab.policy.behaviors import StepBehavior, student_rollouts, trust_region_rollouts
from trb_lab.rollout.blocks import BLOCKS, EQUAL, BlockChooser, CostTable, committed_tokens
from trb_lab.rollout.costs import measure_costs
from trb_lab.rollout.engine import Keep
from trb_lab.rollout.torch_engine import MAX_BLOCK, TorchEngine
from trb_lab.seeds import generator
from trb_lab.spec.warmup import TrbWarmup

ROWS = 30


def table(draft, verify, blocks=(1, 2, 4, 8)):
    return CostTable("made up", 1, 1, draft, {block: verify(block) for block in blocks})


@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.02, 0.3, 1.0])
def test_committed_tokens_is_the_sum_of_survival_probabilities(rate):
    for block in (1, 2, 7, 16):
        closed = sum((1 - rate) ** j for j in range(block))
        assert committed_tokens(block, rate) == pytest.approx(closed, rel=1e-6)


def test_committed_tokens_against_simulation():
    """Tokens up to and including the first redrawn one; 4 standard errors."""
    count, rate, block = 20_000, 0.15, 6
    redrawn = generator(0, "blocks").random((count, block)) < rate
    committed = np.where(redrawn.any(1), redrawn.argmax(1) + 1, block)
    assert abs(committed.mean() - committed_tokens(block, rate)) < 4 * committed.std() / np.sqrt(count)


def test_a_cheap_verification_asks_for_short_blocks_and_a_dear_one_for_long_ones():
    cheap, dear = table(1.0, lambda block: 0.001), table(0.001, lambda block: 1.0)
    for rate in (0.05, 0.3):
        assert cheap.best(rate) == 1
        assert dear.best(rate) == 8
    assert dear.best(0.0) == 8  # nothing is thrown away
    assert cheap.best(0.0) == 1  # a thousandth is not worth seven more drafts
    assert table(1.0, lambda block: 5.0).best(1.0) == 1  # one token a block, whatever is drafted
    rates = np.linspace(0, 1, 50)
    blocks = [COSTS.best(rate) for rate in rates]
    assert blocks == sorted(blocks, reverse=True)
    assert len(set(blocks)) > 5


def test_best_is_as_fast_as_the_fastest_and_the_shortest_of_equals():
    costs = table(0.5, lambda block: 0.3 + 0.1 * block**1.2)
    for rate in (0.0, 0.01, 0.1, 0.5):
        seconds = {b: (0.5 * b + 0.3 + 0.1 * b**1.2) / committed_tokens(b, rate) for b in (1, 2, 4, 8)}
        equal = [b for b, s in seconds.items() if s <= min(seconds.values()) / (1 - EQUAL)]
        assert costs.best(rate) == min(equal)
        assert costs.tokens_per_second(4, rate) == pytest.approx(1 / seconds[4])
    proportional = table(0.5, lambda block: 0.25 * block, blocks=(8, 4, 2, 1))
    assert proportional.best(0.0) == 1


def test_a_cost_table_survives_json():
    costs = table(0.125, lambda block: block / 7)
    again = CostTable.from_json(json.loads(json.dumps(costs.as_json())))
    assert again == costs
    assert again.best(0.1) == costs.best(0.1)


def test_blocks_fit_the_engine():
    assert max(BLOCKS) <= MAX_BLOCK
    assert min(BLOCKS) == 1


# ---- chooser ---------------------------------------------------------------------------------------------------


def rollouts_of(pair, behavior, step=0, block=4):
    return TorchEngine(pair).rollout(ragged_request(ROWS, 6, "chooser", step, block), behavior, Keep())


@pytest.fixture(scope="module")
def pair():
    return tiny_pair(6, sharpness=1.0, seed=8)


def test_a_fixed_block_is_taken_and_none_is_chosen_without_a_teacher():
    behavior = trust_region_rollouts(torch.full((ROWS,), 0.1), 0.1)
    assert BlockChooser(3).at(behavior) == 3
    assert BlockChooser(3).at(student_rollouts(ROWS)) is None
    assert BlockChooser(None).needs_costs(behavior)
    assert not BlockChooser(3).needs_costs(behavior)
    assert not BlockChooser(None).needs_costs(student_rollouts(ROWS))
    assert not BlockChooser(None, COSTS).needs_costs(behavior)


def test_the_ratio_is_what_was_seen_over_what_was_guessed(pair):
    behavior = trust_region_rollouts(torch.full((ROWS,), 0.1), 0.1)
    chooser = BlockChooser(None, COSTS, redraw_ratio=3.0)
    assert chooser.at(behavior) == COSTS.best(3.0 * behavior.expected_redraws)
    rollouts = rollouts_of(pair, behavior)
    chooser.observe(behavior, rollouts)
    seen = float(rollouts.redraw_BT.sum() / rollouts.mask_BT.sum())
    assert chooser.redraw_ratio == pytest.approx(seen / behavior.expected_redraws, rel=1e-6)
    assert chooser.at(behavior) == COSTS.best(seen)
    smaller = trust_region_rollouts(torch.full((ROWS,), 0.025), 0.025)  # half the guess
    assert chooser.at(smaller) == COSTS.best(seen / 2)


def test_a_step_without_the_teacher_or_without_a_guess_teaches_nothing(pair):
    chooser = BlockChooser(None, COSTS, redraw_ratio=1.5)
    student = student_rollouts(ROWS)
    chooser.observe(student, rollouts_of(pair, student))
    unguessed = StepBehavior(
        1.0, ARMS["skd_2_published"].behavior(ROWS).target, torch.ones(ROWS, dtype=torch.float64)
    )
    chooser.observe(unguessed, rollouts_of(pair, unguessed))
    assert chooser.redraw_ratio == 1.5


def test_a_resumed_chooser_repeats_its_blocks(pair):
    """The ratio of a checkpoint and the saved table are all that the next block depends on."""

    def run(chooser, steps):
        blocks = []
        for step in steps:
            behavior = behavior_at(TrbWarmup(kl_budget=0.2, steps=6), step, ROWS, seed=1)
            blocks.append(chooser.at(behavior))
            chooser.observe(behavior, rollouts_of(pair, behavior, step, blocks[-1]))
        return blocks

    whole = run(BlockChooser(None, COSTS), range(7))
    first = BlockChooser(None, COSTS)
    blocks = run(first, range(3))
    saved = json.loads(json.dumps({"costs": COSTS.as_json(), "redraw_ratio": first.redraw_ratio}))
    resumed = BlockChooser(None, CostTable.from_json(saved["costs"]), saved["redraw_ratio"])
    assert blocks + run(resumed, range(3, 7)) == whole
    assert whole[6] is None
    assert len(set(whole[:6])) > 2


def test_measured_costs_cover_the_blocks_and_leave_the_engine_usable(pair):
    behavior = trust_region_rollouts(torch.full((ROWS,), 0.1), 0.1)
    asked, engine = ragged_request(ROWS, 6, "chooser", block=4), TorchEngine(pair, max_rows=8)
    expected = engine.rollout(asked, behavior, Keep())
    costs = measure_costs(engine, asked, behavior, Keep(), blocks=(1, 3), repeats=1)
    assert set(costs.verify_seconds) == {1, 3}
    assert costs.rows == 8
    assert min(costs.draft_seconds, *costs.verify_seconds.values()) > 0
    assert costs.best(0.1) in (1, 3)
    assert torch.equal(engine.rollout(asked, behavior, Keep()).tokens_BT, expected.tokens_BT)
