"""Sweeps to trials, and what a wrong sweep is answered with."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from trb_lab.errors import UsageError
from trb_lab.spec import SweepSpec, expand_sweep, kind_of_file, load_experiment, load_sweep
from trb_lab.spec.warmup import MixtureWarmup, OpdWarmup, TrbWarmup

from .conftest import Write

HEAD = "name: s\nquestion: which?\nbase: base.yaml\n"
GRID = """\
seeds: [0, 4]
overrides: {steps: 40, resources.device: cpu}
arms:
  opd: {overrides: {warmup: {kind: opd}}}
  trb:
    grid:
      warmup.kl_budget: [0.02, 5e-1]
      warmup.steps: [15, 40]
  mixture:
    overrides: {warmup.weight: 0.3, warmup.kind: mixture, teacher: ./other}
"""


def answer(path: Path | str) -> str:
    with pytest.raises(UsageError) as error:
        expand_sweep(path)
    return str(error.value)


def test_every_setting_meets_every_seed(write: Write) -> None:
    trials = expand_sweep(write("s.yaml", HEAD + GRID))
    assert [(t.arm, t.setting, t.seed) for t in trials[:6]] == [
        ("opd", "", 0),
        ("opd", "", 4),
        ("trb", "kl_budget=0.02 steps=15", 0),
        ("trb", "kl_budget=0.02 steps=15", 4),
        ("trb", "kl_budget=0.02 steps=40", 0),
        ("trb", "kl_budget=0.02 steps=40", 4),
    ]
    assert len(trials) == 2 * (1 + 4 + 1)
    assert trials[0].spec.warmup == OpdWarmup()
    assert isinstance(trials[-3].spec.warmup, TrbWarmup)
    assert trials[-3].spec.warmup.kl_budget == 0.5
    assert trials[-1].spec.warmup == MixtureWarmup(weight=0.3)
    assert {t.spec.steps for t in trials} == {40}
    assert [t.spec.seed for t in trials[:2]] == [0, 4]


def test_overrides_give_the_trial_again(write: Write) -> None:
    """base + --set of what a trial lists = the trial."""
    for trial in expand_sweep(write("s.yaml", HEAD + GRID)):
        sets = [f"{key}={value}" for key, value in trial.overrides.items()]
        assert load_experiment("base.yaml", [*sets, f"seed={trial.seed}"]) == trial.spec


def test_a_sweep_means_the_same_as_a_spec_and_as_json(write: Write, tmp_path: Path) -> None:
    path = write("s.yaml", HEAD + GRID)
    spec = load_sweep(path)
    assert spec.base == str(tmp_path / "base.yaml")
    again = SweepSpec.model_validate_json(spec.model_dump_json())
    assert expand_sweep(again) == expand_sweep(spec) == expand_sweep(path)


def test_labels_take_the_shortest_unambiguous_names(write: Write) -> None:
    text = "seeds: [0]\narms: {a: {grid: {warmup.steps: [3], steps: [40], optim.lr: [1e-4]}}}\n"
    assert expand_sweep(write("s.yaml", HEAD + text))[0].setting == "warmup.steps=3 steps=40 lr=0.0001"


def test_an_arm_may_be_empty_and_paths_belong_to_the_sweep(write: Write, tmp_path: Path) -> None:
    arm = "{overrides: {student.name: ./mine}, grid: {teacher: [./a, ./b]}}"
    text = f"seeds: [0]\narms: {{plain: , other: {arm}}}\n"
    trials = expand_sweep(write("sub/s.yaml", HEAD.replace("base.yaml", "../base.yaml") + text))
    assert trials[0].overrides == {}
    assert trials[1].spec.student.name == str(tmp_path / "sub/mine")
    assert [t.spec.teacher.name for t in trials[1:]] == [str(tmp_path / "sub/a"), str(tmp_path / "sub/b")]


def test_kind_of_file(write: Write) -> None:
    assert kind_of_file("base.yaml") == "experiment"
    assert kind_of_file(write("s.yaml", HEAD + GRID)) == "sweep"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "seeds: [0, 1]\narms:\n  trb:\n    grid:\n      warmup.kl_budgett: [1, 2]\n",
            "s.yaml:8: arms.trb.grid.warmup.kl_budgett: unknown key (given 1). Keys of warmup (kind trb): "
            "kind, kl_budget, kl_budget_mode, anneal, steps. Did you mean 'kl_budget'? "
            "(in trial trb kl_budgett=1 seed=0 and 3 more)",
        ),
        (
            "seeds: [0]\narms: {a: {overrides: {warmup.kind: mixtur}}}\n",
            "arms.a.overrides.warmup.kind: unknown kind mixtur.",
        ),
        (
            "seeds: [0]\narms: {a: {grid: {warmup.steps: [3, 80]}}}\n",
            "s.yaml:5: warmup.steps is 80 and the run has 50 steps",
        ),
        ("seeds: [0]\narms: {a: {grid: {warmup.steps: [3, 80]}}}\n", "(in trial a steps=80 seed=0)"),
        ("seeds: [-1]\narms: {a: }\n", "s.yaml:4: seed: -1 is not allowed here."),
        ("seeds: [3, 3]\narms: {a: }\n", "s.yaml:4: seeds: [3, 3] names a seed twice."),
        ("seeds: 3\narms: {a: }\n", "s.yaml:4: seeds: 3 is not allowed here. It takes a list"),
        ("seeds: [0]\narms: {a: {grid: {seed: [1]}}}\n", "arms.a.grid.seed: is not allowed in a sweep."),
        (
            "seeds: [0]\narms: {a: {grid: {warmup.steps: 3}}}\n",
            "arms.a.grid.warmup.steps: 3 is not allowed here. It takes a list",
        ),
        ("seeds: [0]\narms: {a: {grid: {warmup.steps: []}}}\n", "an empty list gives no trial"),
        ("seeds: [0]\narms: {a: {grid: {warmup.steps: [3, 3]}}}\n", "has a value twice"),
        ("seeds: [0]\narms: {a: {overide: {}}}\n", "arms.a.overide: unknown key (given {}). Keys of arms.a:"),
        (
            "seeds: [0]\narms: {opd: }\nreport: {reference: opdd}\n",
            "opdd is no arm of this sweep. Arms: opd. Did you mean 'opd'?",
        ),
        (
            "seeds: [0]\narms: {a: {overrides: {warmup: {steps: 1}, warmup.steps: 2}}}\n",
            "given twice in two spellings",
        ),
    ],
)
def test_wrong_sweeps(write: Write, text: str, message: str) -> None:
    assert message in answer(write("s.yaml", HEAD + text))


def test_a_missing_base_names_the_nearest(write: Write) -> None:
    text = answer(write("s.yaml", HEAD.replace("base.yaml", "bse.yaml") + GRID))
    assert text == "s.yaml:3: base: bse.yaml does not exist. Did you mean base.yaml?"


def test_a_problem_of_the_base_is_told_once(write: Write) -> None:
    write("base.yaml", Path("base.yaml").read_text() + "optim: {lr: -1}\n")
    text = answer(write("s.yaml", HEAD + GRID))
    assert len(text.splitlines()) == 1
    assert text.startswith("base.yaml:8: optim.lr: -1 is not allowed here.")
    assert text.endswith("(in trial opd seed=0 and 11 more)")


def test_an_experiment_is_no_sweep(write: Write) -> None:
    assert "base.yaml is an experiment, and a sweep is wanted here." in answer("base.yaml")


def test_a_thousand_trials_take_well_under_a_second(write: Write) -> None:
    budgets = [k / 1000 for k in range(20)]
    grid = f"{{warmup.kl_budget: {budgets}, warmup.steps: {list(range(1, 11))}}}"
    text = f"seeds: [0, 1, 2, 3, 4]\narms: {{trb: {{grid: {grid}}}}}\n"
    path = write("s.yaml", HEAD + text)
    started = time.process_time()
    assert len(expand_sweep(path)) == 1000
    assert time.process_time() - started < 1.0
