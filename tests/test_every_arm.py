"""Every arm end to end on a pair with Qwen3's architecture, vocabulary size, stop ids and chat template layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.qwen3_pair import ENDOFTEXT, IM_END, VOCABULARY, write_pair
from trb_lab.experiment import run_experiment
from trb_lab.models.load import load_pair
from trb_lab.spec import ExperimentSpec
from trb_lab.spec.experiment import ModelSpec
from trb_lab.spec.warmup import ARM_SPECS
from trb_lab.store.metrics import read_metrics
from trb_lab.store.run_dir import Store
from trb_lab.trial import prepare

ARM_SETTINGS = {
    "opd": {},
    "trb": {"steps": 2},
    "fixed_epsilon": {},
    "teacher_forced": {"steps": 2},
    "mixture": {"steps": 2},
    "temperature": {"steps": 2},
    "sft": {"updates": 2, "samples_per_prompt": 1},
    "skd": {},
    "veto": {},
    "saki": {"steps": 2},
}


@pytest.fixture(scope="module")
def pair_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("qwen3"))


def arm_spec(folders: tuple[Path, Path], kind: str, prompts: Path, **changes: object) -> ExperimentSpec:
    student, teacher = (str(folder) for folder in folders)
    warmup = {"kind": kind, **ARM_SETTINGS[kind]}
    rollout = {"prompts_per_step": 2, "samples_per_prompt": 2, "max_prompt_tokens": 256, "max_new_tokens": 6}
    base = {
        "name": "arm",
        "student": student,
        "teacher": teacher,
        "dataset": {"kind": "jsonl", "path": str(prompts)},
        "prompt": {"system": "Reason step by step, and put the final answer within \\boxed{}."},
        "warmup": warmup,
        "optim": {"lr": 1e-5, "lr_warmup_steps": 0},
        "rollout": {**rollout, "block_tokens": 3},
        "eval": {"sets": [{"name": "own", "dataset": {"kind": "jsonl", "path": str(prompts), "limit": 2}}]},
        "steps": 2,
    }
    return ExperimentSpec.model_validate({**base, **changes})


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [{"prompt": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_all_arms_are_here() -> None:
    assert set(ARM_SETTINGS) == {spec.model_fields["kind"].default for spec in ARM_SPECS}


def test_vocabulary_and_stops(pair_folders: tuple[Path, Path]) -> None:
    import torch

    student, teacher = (ModelSpec(name=str(folder)) for folder in pair_folders)
    pair = load_pair(student, teacher, torch.device("cpu"), torch.float32)
    assert pair.vocabulary.size == VOCABULARY
    assert pair.vocabulary.stop_id == ENDOFTEXT
    assert set(pair.vocabulary.stop_ids) == {ENDOFTEXT, IM_END}


@pytest.mark.parametrize("kind", ARM_SETTINGS)
def test_two_steps(pair_folders: tuple[Path, Path], prompts: Path, tmp_path: Path, kind: str) -> None:
    run_dir = prepare(arm_spec(pair_folders, kind, prompts), Store(tmp_path))
    result = run_experiment(run_dir)
    assert result["state"] == "completed"
    lines = read_metrics(run_dir.metrics)
    assert [line["step"] for line in lines] == [0, 1]
    drives = kind in ("trb", "fixed_epsilon", "teacher_forced", "mixture", "temperature", "skd", "saki")
    assert (lines[0]["policy/kl_mean"] > 0) == drives
    assert all(line["train/logprob_gap"] < 1e-4 for line in lines)
