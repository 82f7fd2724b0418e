"""What a wrong file is answered with: file and line, key path, value, what is allowed, nearest spelling."""

from __future__ import annotations

import pytest

from trb_lab.errors import UsageError
from trb_lab.spec import load_experiment

from .conftest import Write

KINDS = "Kinds: opd, trb, fixed_epsilon, teacher_forced, mixture, temperature, sft, skd, veto, saki."


def answer(path: str, sets: list[str] | None = None) -> str:
    with pytest.raises(UsageError) as error:
        load_experiment(path, sets or [])
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "warmup: {kl_budgett: 0.2}",
            "a.yaml:2: warmup.kl_budgett: unknown key (given 0.2). Keys of warmup (kind trb): "
            "kind, kl_budget, kl_budget_mode, anneal, steps. Did you mean 'kl_budget'?",
        ),
        (
            "warmup: {weight: 0.2}",
            "a.yaml:2: warmup.weight: unknown key (given 0.2). Keys of warmup (kind trb): kind, "
            "kl_budget, kl_budget_mode, anneal, steps. 'weight' belongs to kind mixture: set `kind`, or remove it.",
        ),
        ("warmup: {kind: trbb}", f"a.yaml:2: warmup.kind: unknown kind trbb. {KINDS} Did you mean 'trb'?"),
        ("warmup: {anneal: cosin}", "a.yaml:2: warmup.anneal: unknown kind cosin. Kinds: linear, cosine,"),
        ("loss: full", "a.yaml:2: loss: full is not allowed here."),
        ("loss: full", "Write {kind: full}."),
        ("dataset: {level: hrad}", "It takes one of easy, medium, hard, or null. Did you mean 'hard'?"),
        ("dataset: {kind: hub}", "a.yaml:2: dataset.id: is missing. It takes text. Hub id (owner/name),"),
        ("dataset: openthought3", "Did you mean 'openthoughts3'?"),
        ("dataset: champ2", "It takes a name (openthoughts3, openthoughts3_math, gsm8k,"),
        ("dataset: arith", "Write {kind: arith}."),
        ("eval: {sets: [gsm8]}", "Did you mean 'gsm8k'?"),
        ("dataset: {kind: hub, id: a/b, where: {x: [[1]]}}", "where.x: [[1]] is not allowed here."),
        ("optim: {lr: fast}", "a.yaml:2: optim.lr: fast is not allowed here. It takes a number, above 0."),
        ("optim: {lr: .nan}", "a.yaml:2: optim.lr: nan is not allowed here."),
        ("steps: 2.5", "a.yaml:2: steps: 2.5 is not allowed here. It takes a whole number, at least 1."),
        ("seed: true", "a.yaml:2: seed: true is not allowed here. It takes a whole number, at least 0."),
        ("name: 12", "a.yaml:2: name: 12 is not allowed here."),
        ("name: 12", 'Write it in quotes: "12".'),
        (
            "eval: {every: 0}",
            "a.yaml:2: eval.every: 0 is not allowed here. It takes a whole number, at least 1, or null.",
        ),
        ("eval: {sets: [arith/hart]}", "a.yaml:2: eval.sets[0].dataset.level: hart is not allowed here."),
        (
            "steps: 3",
            "base.yaml:5: warmup.steps is 5 and the run has 3 steps: a warmup cannot outlast the run.",
        ),
        ("learning_rate: 1", "a.yaml:2: learning_rate: unknown key (given 1)."),
        ("lr: 1", "Did you mean 'optim.lr'?"),
        ("warmup.steps: 1", "here write warmup: {steps: ...}"),
        ("extends: nowhere.yaml", "key 'extends' is given twice"),
    ],
)
def test_one_problem(write: Write, change: str, message: str) -> None:
    write("a.yaml", f"extends: base.yaml\n{change}\n")
    assert message in answer("a.yaml")


def test_all_problems_of_a_file_are_shown_by_line(write: Write) -> None:
    write("a.yaml", "extends: base.yaml\nseed: -1\nstepz: 3\nwarmup: {kl_budget: -1}\n")
    lines = answer("a.yaml").splitlines()
    assert [line.split(" ")[0] for line in lines] == ["a.yaml:2:", "a.yaml:3:", "a.yaml:4:"]


def test_missing_keys_say_what_they_take(write: Write) -> None:
    text = answer(str(write("a.yaml", "name: x\n")))
    assert "a.yaml:1: student: is missing. It takes a name, or a mapping with keys name," in text
    assert "or a mapping with `kind`, one of arith, reasoning_gym, jsonl, hub, champ." in text


def test_no_message_speaks_of_the_validator(write: Write) -> None:
    write(
        "a.yaml", "name: [1]\nstudent: 3\nteacher: {}\ndataset: 4\nwarmup: 5\neval: {sets: x}\noptim: null\n"
    )
    text = answer("a.yaml").lower()
    assert not [
        word
        for word in ("pydantic", "input should", "discriminator", "tag", "dict", "str")
        if f" {word} " in text
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.yaml is empty."),
        ("- 1\n", "a.yaml:1: the file should be a mapping"),
        (
            "arms: {}\n",
            "a.yaml is a sweep, and an experiment is wanted here. Run it with: trb-lab sweep a.yaml",
        ),
        ("extends: bse.yaml\n", "a.yaml:1: extends: bse.yaml does not exist. Did you mean base.yaml?"),
        ("extends: [x]\n", "a.yaml:1: extends: [x] is not allowed here. It takes one file name."),
    ],
)
def test_files_that_are_no_experiment(write: Write, text: str, message: str) -> None:
    write("a.yaml", text)
    assert message in answer("a.yaml")


def test_a_missing_file_names_the_nearest(write: Write) -> None:
    assert answer("bas.yaml") == "bas.yaml does not exist. Did you mean base.yaml?"
    assert answer("base.yml") == "base.yml does not exist. Did you mean base.yaml?"


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["warmup.kl_budgett=3"], "--set: warmup.kl_budgett: unknown key (given 3)."),
        (["steps"], "--set steps: write key=value"),
        (["eval.sets.name=3"], "'eval.sets' is a list"),
        (["warmup=trb"], "--set: warmup: trb is not allowed here."),
        (["optim.lr=[1"], "--set optim.lr=[1:1: not valid YAML"),
        (["seed=x"], "--set: seed: x is not allowed here."),
    ],
)
def test_set(write: Write, sets: list[str], message: str) -> None:
    assert message in answer("base.yaml", sets)


def test_a_list_given_with_set_is_blamed_on_set(write: Write) -> None:
    """The file has a list at the same key: its lines are not where the wrong entry stands."""
    write(
        "a.yaml", "extends: base.yaml\neval:\n  samples: 4\n  at_k: [2]\n  sets: [arith/easy, arith/hard]\n"
    )
    wrong_set = answer("a.yaml", ["eval.sets=[arith/easy, mth500]"])
    assert wrong_set.startswith("--set: eval.sets[1]: mth500 is not allowed")
    assert answer("a.yaml", ["eval.at_k=[8]"]).startswith("--set: eval: at_k asks for 8 of the 4 samples")
