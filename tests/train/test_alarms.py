"""Alarms ring for lost runs, at the same step after a resume, and not in ordinary ones."""

import pytest

from tests.train.experiments import small_run, small_spec
from trb_lab.experiment import run_experiment
from trb_lab.spec.experiment import AlarmSpec
from trb_lab.store.metrics import read_metrics
from trb_lab.store.run_dir import Store
from trb_lab.store.status import TrialState, attempts, last_error, state_of
from trb_lab.train.alarms import LEAST_KL, REVERSE_KL, TRUNCATED, Alarms
from trb_lab.trial import prepare
from trb_lab.worker import RunLost, error_class


def ring(alarms, truncated, kl):
    """Step at which an alarm rings, and the error; None where none does."""
    for step, (share, value) in enumerate(zip(truncated, kl, strict=True)):
        line = {"step": step, TRUNCATED: share, REVERSE_KL: value}
        alarms.hear(line)
        try:
            alarms.check(line)
        except RunLost as error:
            return step, error
    return None


def quiet(length):
    return [0.5] * length


def test_length_explosion_needs_all_steps_in_a_row():
    alarms = Alarms(AlarmSpec(patience=3))
    shares = [0.2, 1.0, 1.0, 0.5, 0.95, 0.96, 1.0, 1.0]
    step, error = ring(alarms, shares, quiet(8))
    assert step == 6
    assert error_class(error) == "length_explosion"
    assert "steps 4-6" in str(error) and "0.2" in str(error) and "rollout.max_new_tokens" in str(error)


def test_a_run_that_begins_cut_is_no_explosion():
    assert ring(Alarms(AlarmSpec(patience=2)), [0.97] + [1.0] * 9, quiet(10)) is None


def test_kl_blow_up_is_measured_by_the_first_step():
    step, error = ring(
        Alarms(AlarmSpec(patience=2, kl_factor=4.0)), quiet(6), [0.3, 1.19, 1.2, 1.1, 1.3, 9.0]
    )
    assert step == 5
    assert error_class(error) == "kl_blow_up"
    assert "at least 1.2 nats" in str(error) and "optim.lr" in str(error)


def test_a_first_kl_of_next_to_nothing_is_no_measure():
    """Twins begin at 0, and the sampled estimate may begin below."""
    for first in (0.0, -0.02, 1e-6):
        alarms = Alarms(AlarmSpec(patience=1, kl_factor=10.0))
        assert ring(alarms, quiet(2), [first, 9.9 * LEAST_KL]) is None
        assert ring(Alarms(AlarmSpec(patience=1)), quiet(2), [first, 10.1 * LEAST_KL])[0] == 1


def test_no_patience_no_alarm():
    assert ring(Alarms(AlarmSpec(patience=None)), [0.0] + [1.0] * 50, [0.1] + [100.0] * 50) is None


LOST = {
    "optim": {"lr": 10.0, "lr_warmup_steps": 0},
    "steps": 12,
    "warmup": {"kind": "opd"},
    "eval": {"sets": []},
}


def test_a_run_that_blows_up_fails_with_the_alarm_and_rings_again_at_the_same_step(tmp_path):
    run_dir = small_run(tmp_path, **LOST, alarms={"patience": 3})
    with pytest.raises(RunLost) as first:
        run_experiment(run_dir)
    assert state_of(run_dir) is TrialState.FAILED
    assert last_error(run_dir)["error_class"] == first.value.error_class in ("kl_blow_up", "length_explosion")
    lines = read_metrics(run_dir.metrics)
    assert len(lines) < 12
    assert str(lines[-1]["step"]) in str(first.value)  # the line of the step that rang is there
    with pytest.raises(RunLost) as second:
        run_experiment(run_dir)  # from the last checkpoint: what it had heard before counts
    assert str(second.value) == str(first.value)
    assert len(attempts(run_dir)) == 4
    assert read_metrics(run_dir.metrics) == lines


def test_alarms_may_change_for_another_attempt(tmp_path):
    run_dir = small_run(tmp_path, alarms={"patience": 2})
    again = prepare(small_spec(alarms={"patience": None}), Store(tmp_path))
    assert again.path == run_dir.path
    assert '"patience": null' in again.config.read_text()
