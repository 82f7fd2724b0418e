"""Entries and item scores of an evaluation, and what does and does not change it."""

import pandas as pd
import pytest
import torch

from tests.train.experiments import small_spec
from trb_lab.errors import UsageError
from trb_lab.evaluate.scores import Sample, at_k, pass_at_1
from trb_lab.evaluate.suite import Suite, as_metrics
from trb_lab.models.load import load_pair
from trb_lab.rollout.torch_engine import TorchEngine
from trb_lab.spec.dataset import EvalSet
from trb_lab.store.run_dir import RunDir
from trb_lab.tasks.answers import normal_form
from trb_lab.tasks.grading import Grader
from trb_lab.worker import StopFlag, Stopped


@pytest.fixture(scope="module")
def pair():
    spec = small_spec()
    return load_pair(spec.student, spec.teacher, torch.device("cpu"), torch.float32)


def scores(pair, *, seed=0, samples=2, max_rows=None, level="easy", own=None, at_k=None, **how):
    spec = small_spec()
    data = {"kind": "arith", "split": "test", "level": level, "num_examples": 16}
    with Grader() as grader:
        suite = Suite(
            [EvalSet.model_validate({"name": level, "dataset": data, "samples": own})],
            spec.eval.model_copy(update={"samples": samples, "at_k": at_k}),
            spec.prompt,
            pair.student,
            TorchEngine(pair, max_rows),
            grader,
            seed=seed,
            max_prompt_tokens=64,
            max_new_tokens=48,
        )
        return suite.evaluate(**how)


def test_entries_and_metrics(pair):
    found = scores(pair)
    entry = found["easy"]
    assert entry["num_problems"] == 16
    assert entry["num_samples"] == 2
    assert 0 <= entry["pass_at_1"] <= 1
    metrics = as_metrics(found)
    assert metrics["eval/mean/pass_at_1"] == entry["pass_at_1"]
    assert metrics["eval/easy/truncated_share"] == entry["truncated_share"]


def test_k_is_the_number_of_samples_unless_said(pair):
    entry = scores(pair)["easy"]
    assert {k for k in entry if k.startswith("maj")} == {"maj_at_2"}
    assert entry["pass_at_2"] >= entry["pass_at_1"] == entry["mean_at_2"]
    assert not [k for k in scores(pair, samples=1)["easy"] if k.startswith("maj")]
    entry = scores(pair, samples=2, own=4, at_k=[3, 1, 2])["easy"]
    assert entry["num_samples"] == 4
    assert {k for k in entry if "_at_" in k} == {
        "pass_at_1", "pass_at_2", "mean_at_2", "maj_at_2", "pass_at_3", "mean_at_3", "maj_at_3",
    }  # fmt: skip


def test_item_scores_hold_all_that_the_scores_are_made_of(pair, tmp_path):
    entry = scores(pair, samples=4, at_k=[3], step=19, run_dir=RunDir(tmp_path))["easy"]
    items = pd.read_parquet(RunDir(tmp_path).items)
    assert set(items["step"]) == {19}
    assert set(items["set"]) == {"easy"}
    assert len(items.groupby("problem")) == 16
    assert list(items["sample"]) == list(range(4)) * 16
    problems = [
        [
            Sample(bool(row.correct), normal_form(row.answer) if isinstance(row.answer, str) else None)
            for row in rows.itertuples()
        ]
        for _, rows in items.groupby("problem", sort=False)
    ]
    assert pass_at_1(problems) == (entry["pass_at_1"], entry["stderr"])
    assert at_k(problems, 3) == {key: entry[key] for key in ("pass_at_3", "mean_at_3", "maj_at_3")}
    assert (~items["finished"]).mean() == entry["truncated_share"]
    assert items["tokens"].mean() == entry["length_mean"]
    reasons = items["reason"].value_counts(normalize=True)
    for share in ("unboxed", "empty"):
        assert reasons.get(share, 0.0) == entry[f"{share}_share"]
    assert entry["no_answer_share"] == pytest.approx(entry["unboxed_share"] + entry["empty_share"])


def test_it_stops_between_batches_when_asked_and_writes_nothing(pair, tmp_path):
    with pytest.raises(Stopped, match="while evaluating easy"):
        scores(pair, run_dir=RunDir(tmp_path), stop=StopFlag(raised=True))
    assert not RunDir(tmp_path).items.exists()


def test_repeats_itself_and_depends_on_the_training_seed_but_not_on_batching(pair):
    assert scores(pair) == scores(pair)
    assert scores(pair) == scores(pair, max_rows=7)
    assert scores(pair, seed=1) != scores(pair)


def test_sets_without_answers_are_refused(pair, tmp_path):
    file = tmp_path / "open.jsonl"
    file.write_text('{"prompt": "What now?"}\n')
    spec = small_spec()
    open_set = EvalSet.model_validate(
        {"name": "open", "dataset": {"kind": "jsonl", "path": str(file), "answer_key": None}}
    )
    with Grader() as grader, pytest.raises(UsageError, match="no answer to grade against"):
        Suite(
            [open_set], spec.eval, spec.prompt, pair.student, TorchEngine(pair), grader,
            seed=0, max_prompt_tokens=64, max_new_tokens=48,
        )  # fmt: skip
