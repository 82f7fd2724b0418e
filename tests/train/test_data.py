"""data.json: what a run trains on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.train.experiments import small_run, small_spec
from trb_lab.errors import LabError
from trb_lab.experiment import run_experiment
from trb_lab.models.load import Pair, load_pair
from trb_lab.store.run_dir import RunDir, read_json
from trb_lab.tasks.datasets import load_problems
from trb_lab.tasks.grading import Grader
from trb_lab.train.data import TrainingData


@pytest.fixture(scope="module")
def pair() -> Pair:
    spec = small_spec()
    return load_pair(spec.student, spec.teacher, torch.device("cpu"), torch.float32)


def data_of(pair: Pair, **changes: object) -> TrainingData:
    with Grader() as grader:
        return TrainingData(small_spec(**changes), pair, grader)


def test_facts(pair: Pair, tmp_path: Path) -> None:
    data = data_of(pair)
    data.record(RunDir(tmp_path))
    found = read_json(tmp_path / "data.json")
    prompts = [p.prompt for p in load_problems(data.spec.dataset)]
    assert (found["problems"], found["dropped"]) == (len(prompts), 0)
    lines = "".join(json.dumps(prompt) + "\n" for prompt in prompts)
    assert found["prompts_sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    assert set(found) == {
        "problems", "dropped", "prompts_sha256", "student_prompt_ids_sha256", "teacher_prompt_ids_sha256",
    }  # fmt: skip


def test_dropped_prompts_are_counted_and_not_hashed(pair: Pair) -> None:
    rollout = {"prompts_per_step": 8, "samples_per_prompt": 1, "max_prompt_tokens": 22, "max_new_tokens": 8}
    every, short = data_of(pair).facts(), data_of(pair, rollout=rollout).facts()
    assert short["dropped"] > 0
    assert short["problems"] + short["dropped"] == every["problems"]
    assert short["prompts_sha256"] != every["prompts_sha256"]


def test_hashes_follow_what_each_model_sees(pair: Pair) -> None:
    first, other = data_of(pair).facts(), data_of(pair, prompt={"plain": "{prompt}\n\n"}).facts()
    assert first == data_of(pair, seed=3).facts(), "the order of training is the seed's, the data are not"
    assert first["prompts_sha256"] == other["prompts_sha256"]
    changed = [key for key in first if first[key] != other[key]]
    # `plain` is the layout of models without a chat template: the student here.
    assert changed == ["student_prompt_ids_sha256"]


def test_an_attempt_with_other_prompts_is_refused(pair: Pair, tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    data = data_of(pair)
    data.record(run_dir)
    data.record(run_dir)
    data.problems[3] = replace(data.problems[3], prompt="1+1")
    with pytest.raises(LabError, match=r"data\.json: prompts_sha256.*\n?.*revision"):
        data.record(run_dir)


def test_other_token_ids_alone_are_a_warning(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = RunDir(tmp_path)
    data_of(pair).record(run_dir)
    changed = data_of(pair)
    changed.student_ids[0] = [1, 2]
    changed.record(run_dir)
    assert "warning: the prompts' token ids are not those" in capsys.readouterr().out
    assert read_json(run_dir.data) == changed.facts()


def test_a_run_writes_it(tmp_path: Path) -> None:
    run_dir = small_run(tmp_path, steps=1, warmup={"kind": "opd"}, eval={"sets": []})
    run_experiment(run_dir)
    assert read_json(run_dir.data)["problems"] == 200
