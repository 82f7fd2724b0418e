"""A student and a teacher that know nothing, and an experiment with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trb_lab.check import check_files

YAML = """\
name: tried
student: {student}
teacher: {teacher}
dataset: {{kind: arith, num_examples: 50}}
warmup: {{kind: trb, kl_budget: 0.1, steps: 2}}
rollout: {{prompts_per_step: 4, samples_per_prompt: 2, max_prompt_tokens: 48, max_new_tokens: 16}}
eval: {{sets: [{{name: hard, dataset: {{kind: arith, split: test, level: hard, num_examples: 5}}}}]}}
steps: 3
"""

Checks = Callable[..., tuple[int, dict[str, dict[str, Any]]]]
Variant = Callable[[str], Path]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two model folders with padding rows of different widths."""
    from trb_lab.models.pair_tokenizer import build_tokenizer
    from trb_lab.models.pair_training import ModelShape, build_model

    folder = tmp_path_factory.mktemp("pair")
    for name, width, chat in (("student", 192, False), ("teacher", 208, True)):
        tokenizer = build_tokenizer(chat=chat)
        shape = ModelShape(logit_width=width)
        build_model(shape, tokenizer, seed=0).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def experiment(pair: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tried.yaml"
    path.write_text(YAML.format(student=pair / "student", teacher=pair / "teacher"))
    return path


@pytest.fixture
def variant(experiment: Path, tmp_path: Path) -> Variant:
    """Writes an experiment that changes the sound one."""

    def write(changes: str) -> Path:
        path = tmp_path / "variant.yaml"
        path.write_text(f"extends: tried.yaml\n{changes}\n")
        return path

    return write


@pytest.fixture
def checks(capsys: pytest.CaptureFixture[str]) -> Checks:
    """Checks a file: exit code, and the findings by subject."""

    def check(path: Path, **options: Any) -> tuple[int, dict[str, dict[str, Any]]]:
        capsys.readouterr()
        code = check_files([path], as_json=True, **options)
        (report,) = json.loads(capsys.readouterr().out)["files"]
        return code, {found["subject"]: found for found in report["checks"]}

    return check
