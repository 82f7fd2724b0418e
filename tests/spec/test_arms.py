"""The arms' settings: the papers' defaults, and what makes no sense is refused with the reason."""

from __future__ import annotations

import pytest

from trb_lab.errors import UsageError
from trb_lab.spec import load_experiment
from trb_lab.spec.warmup import ARM_SPECS, SftWarmup, VetoWarmup

from .conftest import Write

DEFAULTS = {
    "opd": {},
    "trb": {"kl_budget": 0.01, "kl_budget_mode": "token", "anneal": {"kind": "linear"}, "steps": 25},
    "fixed_epsilon": {"kl_budget": 0.01},
    "teacher_forced": {"share": 1.0, "anneal": {"kind": "linear"}, "steps": 25},
    "mixture": {"weight": 0.5, "level": "token", "anneal": {"kind": "linear"}, "steps": 25},
    "temperature": {"temperature": 0.9, "anneal": {"kind": "linear"}, "steps": 25},
    "sft": {"updates": 25, "samples_per_prompt": 4, "lr": None, "lr_warmup_steps": None},
    "skd": {"top_k": 25, "teacher_temperature": 0.6, "variant": "published"},
    "veto": {"b_start": 0.4, "anneal": {"kind": "linear"}, "steps": None},
    "saki": {"kl_budget": 0.02, "anneal": {"kind": "linear"}, "steps": 50},
}
SWEEPS = {
    "trb": {"kl_budget": [0.001, 0.005, 0.01, 0.02, 0.05], "steps": [15, 25, 50]},
    "fixed_epsilon": {"kl_budget": [0.001, 0.005, 0.01, 0.02, 0.05]},
    "temperature": {"temperature": [0.8, 0.9, 0.95], "steps": [15, 25]},
    "sft": {"updates": [15, 25, 50]},
    "skd": {"top_k": [15, 25, 50], "teacher_temperature": [0.2, 0.6, 1.0]},
    "veto": {"b_start": [0.2, 0.4, 0.6, 0.8]},
}
"""What the paper sweeps."""


def answer(write: Write, text: str) -> str:
    """What a file that extends base.yaml (a run of 50 steps) with some lines is answered with."""
    write("a.yaml", f"extends: base.yaml\n{text}\n")
    with pytest.raises(UsageError) as error:
        load_experiment("a.yaml", [])
    return str(error.value)


def test_defaults_are_the_papers() -> None:
    found = {spec.model_fields["kind"].default: spec().model_dump(exclude={"kind"}) for spec in ARM_SPECS}
    assert found == DEFAULTS


@pytest.mark.parametrize("kind", SWEEPS)
def test_defaults_lie_in_the_papers_sweep_and_the_sweep_is_allowed(kind: str) -> None:
    spec = next(spec for spec in ARM_SPECS if spec.model_fields["kind"].default == kind)
    for key, values in SWEEPS[kind].items():
        assert DEFAULTS[kind][key] in values
        for value in values:
            assert getattr(spec(**{key: value}), key) == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{kind: veto, b_start: 1.0}", "a.yaml:2: warmup.b_start: 1.0 is outside [0, 1): "),
        ("{kind: veto, b_start: -0.1}", "warmup.b_start: -0.1 is not allowed here."),
        ("{kind: skd, top_k: 0}", "warmup.top_k: 0 is not allowed here. It takes a whole number, at least 1."),
        ("{kind: skd, teacher_temperature: 0}", "warmup.teacher_temperature: 0 is not allowed here."),
        ("{kind: skd, variant: code}", "It takes one of published, released_code."),
        ("{kind: mixture, weight: 1.5}", "warmup.weight: 1.5 is not allowed here."),
        ("{kind: teacher_forced, share: 2}", "warmup.share: 2 is not allowed here."),
        ("{kind: temperature, temperature: 0}", "warmup.temperature: 0 is not allowed here."),
        ("{kind: trb, kl_budget: -1}", "warmup.kl_budget: -1 is not allowed here."),
        ("{kind: trb, kl_budget_mode: sequences}", "Did you mean 'sequence'?"),
        ("{kind: trb, anneal: {kind: adaptive, signal: kl}}", "It takes one of reverse_kl, binding_share."),
        ("{kind: mixture, anneal: adaptive}", "unknown kind adaptive. Kinds: linear, cosine, exponential, step,"),
        ("{kind: sft, updates: 0}", "warmup.updates: 0 is not allowed here."),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_refused(write: Write, change: str, message: str) -> None:
    assert message in answer(write, f"warmup: {change}")


@pytest.mark.parametrize("kind", ["trb", "teacher_forced", "mixture", "temperature", "veto", "saki"])
def test_a_schedule_longer_than_the_run_is_refused(write: Write, kind: str) -> None:
    text = answer(write, f"warmup: {{kind: {kind}, steps: 51}}")
    assert "warmup.steps is 51 and the run has 50 steps: a warmup cannot outlast the run." in text
    assert "Lower warmup.steps to at most 50, or raise steps." in text
    write("a.yaml", f"extends: base.yaml\nwarmup: {{kind: {kind}, steps: 50}}\n")
    assert load_experiment("a.yaml", []).horizon_steps == 50


def test_more_supervised_updates_than_steps_are_refused(write: Write) -> None:
    text = answer(write, "warmup: {kind: sft, updates: 51}")
    assert "warmup.updates is 51 and the run has 50 steps: update i takes the prompts of step i." in text


@pytest.mark.parametrize("loss", ["advantage", "truncated", "sampled"])
def test_veto_needs_a_loss_with_a_normaliser(write: Write, loss: str) -> None:
    text = answer(write, f"warmup: {{kind: veto}}\nloss: {{kind: {loss}}}")
    assert f"warmup.kind is veto and loss.kind is {loss}: Veto's target q p^b needs its normaliser" in text
    for fine in ("renormalised", "full"):
        write("a.yaml", f"extends: base.yaml\nwarmup: {{kind: veto}}\nloss: {{kind: {fine}}}\n")
        assert isinstance(load_experiment("a.yaml", []).warmup, VetoWarmup)


def test_two_thinking_modes_are_refused(write: Write) -> None:
    text = answer(write, "teacher: {name: arith-teacher, thinking: true}")
    assert "thinking is false for the student and true for the teacher: their prompts would differ." in text


def test_k_above_the_samples_of_a_set_is_refused(write: Write) -> None:
    text = answer(write, "eval: {samples: 4, at_k: [1, 8]}")
    assert "at_k asks for 8 of the 4 samples of set" in text


def test_horizons() -> None:
    """Whole-run arms last as long as the run; SFT's updates come before it."""
    horizons = {spec.model_fields["kind"].default: spec().horizon(400) for spec in ARM_SPECS}
    assert horizons == {
        "opd": 0, "trb": 25, "fixed_epsilon": 400, "teacher_forced": 25, "mixture": 25, "temperature": 25,
        "sft": 0, "skd": 400, "veto": 400, "saki": 50,
    }  # fmt: skip
    assert VetoWarmup(steps=30).horizon(400) == 30
    assert SftWarmup(updates=50).horizon(400) == 0
