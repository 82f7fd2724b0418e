"""What adaptive anneals follow: monotone, bounded, and the same after a resume."""

import itertools
from dataclasses import asdict

import numpy as np
import pytest

from trb_lab.policy.arms import ArmContext, arm_at
from trb_lab.policy.feedback import SIGNALS, SMOOTHING, Feedback
from trb_lab.spec.schedule import AdaptiveAnneal
from trb_lab.spec.warmup import TrbWarmup

ANNEALS = [AdaptiveAnneal(), AdaptiveAnneal(signal="binding_share")]


def after(values, signal="reverse_kl", feedback=None):
    feedback = feedback or Feedback()
    for value in values:
        feedback = feedback.after({SIGNALS[signal]: value})
    return feedback


@pytest.mark.parametrize("anneal", ANNEALS, ids=lambda a: a.signal)
def test_what_remains_never_rises_and_stays_between_0_and_1(anneal):
    rng, feedback, seen = np.random.default_rng(0), Feedback(), [1.0]
    for value in rng.exponential(1.0, size=200):
        feedback = after([value], anneal.signal, feedback)
        seen.append(feedback.remaining(anneal))
    assert all(0.0 <= b <= a <= 1.0 for a, b in itertools.pairwise(seen))
    assert seen[1] == 1.0 and 0 < seen[-1] < 1


def test_it_is_the_lowest_moving_average_over_the_first_value():
    values = [2.0, 1.0, 3.0, 0.5, 0.1]
    average, lowest = values[0], values[0]
    for value in values[1:]:
        average = SMOOTHING * average + (1 - SMOOTHING) * value
        lowest = min(lowest, average)
    assert after(values).remaining(AdaptiveAnneal()) == pytest.approx(lowest / 2.0)


def test_nothing_seen_leaves_everything():
    assert Feedback().remaining(AdaptiveAnneal()) == 1.0
    assert after([0.0, 1.0]).remaining(AdaptiveAnneal()) == 1.0  # a signal that starts at 0 says nothing
    assert after([1.0, -5.0]).remaining(AdaptiveAnneal()) == 0.0


def test_a_step_without_the_signal_changes_nothing():
    before = after([2.0, 1.0])
    assert before.after({"train/loss": 7.0}) == before
    assert before.remaining(AdaptiveAnneal(signal="binding_share")) == 1.0


def test_a_resume_goes_on_where_it_was():
    """The checkpoint holds the fields as JSON."""
    values = [2.0, 1.5, 1.0, 0.7]
    restored = Feedback(**asdict(after(values[:2])))
    assert after(values[2:], feedback=restored) == after(values)


def test_trb_follows_it_until_the_horizon():
    """Step 0 has the whole budget; afterwards the lower of the averages; none from step K on."""
    warmup = TrbWarmup(kl_budget=0.1, anneal="adaptive", steps=5)
    feedback = after([2.0, 1.0])

    def budget(step, feedback):
        return arm_at(warmup, ArmContext(step, 3, 0, 100, feedback)).behavior

    assert budget(0, Feedback()).value == 0.1
    later = budget(3, feedback)
    assert later.value == pytest.approx(0.1 * 0.9)  # (0.8 x 2 + 0.2 x 1) / 2
    assert later.row_values.tolist() == [later.value] * 3
    assert budget(5, feedback).value == 0.0 and not budget(5, feedback).needs_teacher
