"""Item scores that runs and references leave, and the grader that judges them."""

import json
import re

import pandas as pd
import pytest

from tests.train.experiments import small_run, small_spec
from trb_lab.driver.references import reference_config
from trb_lab.errors import UsageError
from trb_lab.evaluation import evaluate_reference, evaluate_target
from trb_lab.experiment import run_experiment
from trb_lab.spec.dataset import EvalSet
from trb_lab.store.metrics import read_metrics
from trb_lab.store.run_dir import RunDir, Store, write_json
from trb_lab.trial import set_fingerprint

HARD = {
    "name": "easy",
    "samples": 2,
    "dataset": {"kind": "arith", "split": "test", "level": "hard", "num_examples": 5},
}


def test_a_run_and_sets_that_are_added_to_it(tmp_path):
    run_dir = small_run(tmp_path)
    result = run_experiment(run_dir)
    lines = {line["step"]: line for line in read_metrics(run_dir.metrics) if "eval/easy/stderr" in line}
    items = pd.read_parquet(run_dir.items)
    assert set(items["step"]) == set(lines) == {2, 5}
    for step, rows in items.groupby("step"):
        assert rows["correct"].mean() == pytest.approx(lines[step]["eval/easy/pass_at_1"])
        assert len(rows) == 12
    old = result["final"]["sets"]["easy"]

    again = small_run(tmp_path, eval={"sets": [HARD], "samples": 1, "every": 3})
    sets = run_experiment(again)["final"]["sets"]
    longer = f"easy@{old['fingerprint']}"
    assert sets["easy"]["num_samples"] == 2
    items = pd.read_parquet(run_dir.items)
    assert {(step, name): len(rows) for (step, name), rows in items.groupby(["step", "set"])} == {
        (2, longer): 12,
        (5, longer): 12,
        (5, "easy"): 10,
    }
    last = items[items["step"] == 5].groupby("set")["correct"].mean()
    assert {name: pytest.approx(entry["pass_at_1"]) for name, entry in sets.items()} == dict(last)

    scores = evaluate_target(str(run_dir.path), Store(tmp_path), samples=3, at_k=[2])["sets"]["easy"]
    assert scores["num_samples"] == 3
    assert "maj_at_2" in scores
    with pytest.raises(UsageError, match=r"--at-k 4 .* there are 2: add --samples 4"):
        evaluate_target(str(run_dir.path), Store(tmp_path), at_k=[4])


def reference(folder, **changes):
    spec = small_spec(**changes)
    run_dir = RunDir(folder / "student")
    write_json(run_dir.config, reference_config(spec, "student"))
    return run_dir


def test_a_reference_has_item_scores_of_no_step(tmp_path):
    run_dir = reference(tmp_path)
    entry = evaluate_reference(run_dir)["final"]["sets"]["easy"]
    items = pd.read_parquet(run_dir.items)
    assert set(items["step"]) == {-1}
    assert items["correct"].mean() == pytest.approx(entry["pass_at_1"])


def test_the_grader_of_the_spec_is_asked_for(tmp_path):
    with pytest.raises(UsageError, match="there is no 'nobody_s', but math_verify"):
        evaluate_reference(reference(tmp_path, grader="nobody_s"))
    with pytest.raises(UsageError, match="there is no 'nobody_s', but math_verify"):
        run_experiment(small_run(tmp_path, grader="nobody_s"))


def test_what_the_name_of_a_reference_follows():
    def name(**changes):
        return reference_config(small_spec(**changes), "student")["run_id"]

    evaluation = json.loads(small_spec().eval.model_dump_json())
    assert name(grader="math_verify") == name(eval={**evaluation, "at_k": None}) == name()
    assert name(grader="mine") != name()
    assert name(eval={**evaluation, "samples": 2, "at_k": [2]}) != name(eval={**evaluation, "samples": 2})
    assert "grader" not in reference_config(small_spec(), "student")["identity"]


def test_samples_of_its_own_make_another_set():
    plain = {key: value for key, value in HARD.items() if key != "samples"}
    prints = [set_fingerprint(EvalSet.model_validate({**plain, "samples": n})) for n in (None, 2, 3)]
    assert len(set(prints)) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", p) for p in prints)
    assert prints[0] == set_fingerprint(EvalSet.model_validate(plain))
