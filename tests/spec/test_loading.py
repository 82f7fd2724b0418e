"""extends, --set, paths: how an experiment comes from what was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from trb_lab.errors import UsageError
from trb_lab.spec import load_experiment
from trb_lab.spec.dataset import JsonlDataset
from trb_lab.spec.experiment import FullLoss, TopKLoss
from trb_lab.spec.schedule import CosineAnneal, ExponentialAnneal
from trb_lab.spec.warmup import MixtureWarmup, OpdWarmup, TrbWarmup

from .conftest import Write


def test_extends_merges_deeply_through_a_chain(write: Write) -> None:
    write("sub/middle.yaml", "extends: ../base.yaml\nwarmup: {steps: 7}\noptim: {lr: 1e-3}\n")
    top = write("top.yaml", "extends: sub/middle.yaml\nwarmup: {kl_budget: 0.5}\n")
    spec = load_experiment(top)
    assert spec.warmup == TrbWarmup(kl_budget=0.5, steps=7, anneal=ExponentialAnneal(final_fraction=0.1))
    assert spec.optim.lr == 1e-3


def test_an_override_that_changes_kind_replaces_the_block(write: Write) -> None:
    assert load_experiment(write("a.yaml", "extends: base.yaml\nwarmup: {kind: opd}\n")).warmup == OpdWarmup()
    same_kind = load_experiment(write("b.yaml", "extends: base.yaml\nwarmup: {kind: trb, steps: 3}\n")).warmup
    assert isinstance(same_kind, TrbWarmup)
    assert same_kind.kl_budget == 1e-2


def test_a_default_kind_counts_as_the_kind(write: Write) -> None:
    spec = load_experiment(write("a.yaml", "extends: base.yaml\nloss: {top_k: 3}\n"))
    assert spec.loss == TopKLoss(top_k=3)
    kept = load_experiment("a.yaml", ["loss.kind=renormalised"])
    assert kept.loss == TopKLoss(top_k=3)
    assert load_experiment("a.yaml", ["loss.kind=full"]).loss == FullLoss()


def test_a_circle_of_extends_is_an_error(write: Write) -> None:
    write("a.yaml", "extends: b.yaml\n")
    write("b.yaml", "extends: a.yaml\n")
    with pytest.raises(UsageError, match=r"circle: a\.yaml -> b\.yaml -> a\.yaml"):
        load_experiment("a.yaml")


def test_set_takes_types_from_the_schema(write: Write) -> None:
    spec = load_experiment(
        "base.yaml",
        [
            "seed=3",
            "warmup.kl_budget=1e-3",
            "eval.every=null",
            "student=123",
            "student.revision=1e5",
            "optim.betas=[0.8, 0.9]",
        ],
    )
    assert (spec.seed, spec.eval.every, spec.student.name, spec.student.revision) == (3, None, "123", "1e5")
    assert isinstance(spec.warmup, TrbWarmup)
    assert spec.warmup.kl_budget == 1e-3
    assert spec.optim.betas == (0.8, 0.9)


def test_set_takes_short_forms_and_blocks(write: Write) -> None:
    warmup = load_experiment("base.yaml", ["warmup.anneal=cosine"]).warmup
    assert isinstance(warmup, TrbWarmup)
    assert warmup.anneal == CosineAnneal()
    assert load_experiment("base.yaml", ["warmup={kind: opd}"]).warmup == OpdWarmup()
    assert load_experiment("base.yaml", ["eval.sets=[arith/easy]"]).eval.sets[0].name == "easy"


def test_the_order_of_set_does_not_matter_for_kind(write: Write) -> None:
    expected = MixtureWarmup(weight=0.2)
    assert load_experiment("base.yaml", ["warmup.kind=mixture", "warmup.weight=0.2"]).warmup == expected
    assert load_experiment("base.yaml", ["warmup.weight=0.2", "warmup.kind=mixture"]).warmup == expected


def test_a_short_form_in_the_base_counts_as_its_long_form(write: Write) -> None:
    write("a.yaml", "extends: base.yaml\nwarmup: {anneal: exponential}\nstudent: {template: plain}\n")
    spec = load_experiment("a.yaml", ["warmup.anneal.final_fraction=0.2"])
    assert isinstance(spec.warmup, TrbWarmup)
    assert spec.warmup.anneal == ExponentialAnneal(final_fraction=0.2)
    assert (spec.student.name, spec.student.template) == ("arith-student", "plain")


def test_paths_belong_to_the_file_that_names_them(write: Write, tmp_path: Path) -> None:
    write("sub/model/config.json", "{}")
    write(
        "sub/data.yaml",
        "extends: ../base.yaml\nstudent: model\nteacher: {name: ../teacher}\n"
        "dataset: {kind: jsonl, path: train.jsonl}\n",
    )
    spec = load_experiment(write("top.yaml", "extends: sub/data.yaml\n"))
    assert spec.student.name == str(tmp_path / "sub/model")
    assert spec.teacher.name == str(tmp_path / "teacher")
    assert isinstance(spec.dataset, JsonlDataset)
    assert spec.dataset.path == str(tmp_path / "sub/train.jsonl")
    moved = load_experiment("top.yaml", ["dataset.path=here.jsonl", "student=./own"])
    assert isinstance(moved.dataset, JsonlDataset)
    assert moved.dataset.path == str(tmp_path / "here.jsonl")
    assert moved.student.name == str(tmp_path / "own")


def test_a_merge_changes_neither_side(write: Write) -> None:
    first = load_experiment("base.yaml")
    load_experiment("base.yaml", ["warmup.kind=opd"])
    assert load_experiment("base.yaml") == first
