"""pass@1, its standard error, and what does and does not change an evaluation."""

import numpy as np
import pytest
import torch

from tests.train.experiments import small_spec
from trb_lab.errors import UsageError
from trb_lab.evaluate.suite import Suite, as_metrics, pass_at_1
from trb_lab.models.load import load_pair
from trb_lab.rollout.torch_engine import TorchEngine
from trb_lab.spec.dataset import EvalSet
from trb_lab.tasks.grading import Grader


def test_pass_at_1_and_its_error_clustered_by_problem():
    correct = [True, True, False, False, True, False]  # 3 problems x 2 samples: 1, 0, 1/2
    mean, stderr = pass_at_1(correct, 2)
    assert mean == 0.5
    assert stderr == pytest.approx(np.std([1, 0, 0.5], ddof=1) / np.sqrt(3))
    assert pass_at_1([True], 1) == (1.0, 0.0)


@pytest.fixture(scope="module")
def pair():
    spec = small_spec()
    return load_pair(spec.student, spec.teacher, torch.device("cpu"), torch.float32)


def scores(pair, *, seed=0, samples=2, max_rows=None, level="easy"):
    spec = small_spec()
    data = {"kind": "arith", "split": "test", "level": level, "num_examples": 16}
    with Grader() as grader:
        suite = Suite(
            [EvalSet.model_validate({"name": level, "dataset": data})],
            spec.eval.model_copy(update={"samples": samples}),
            spec.prompt,
            pair.student,
            TorchEngine(pair, max_rows),
            grader,
            seed=seed,
            max_prompt_tokens=64,
            max_new_tokens=48,
        )
        return suite.evaluate()


def test_entries_and_metrics(pair):
    found = scores(pair)
    entry = found["easy"]
    assert entry["num_problems"] == 16
    assert entry["num_samples"] == 2
    assert 0 <= entry["pass_at_1"] <= 1
    metrics = as_metrics(found)
    assert metrics["eval/mean/pass_at_1"] == entry["pass_at_1"]
    assert metrics["eval/easy/truncated_share"] == entry["truncated_share"]


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
