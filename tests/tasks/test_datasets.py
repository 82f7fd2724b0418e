import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import trb_lab
from trb_lab.errors import UsageError
from trb_lab.spec.dataset import ArithDataset, HubDataset, JsonlDataset
from trb_lab.tasks.datasets import ARITH_VERSION, dataset_version, load_problems
from trb_lab.tasks.problem import answer_text


def write(path: Path, *lines: Any) -> str:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


def test_arith_problems_carry_answer_and_solution() -> None:
    problems = load_problems(ArithDataset(num_examples=5, seed=2))
    assert len({p.id for p in problems}) == 5
    for problem in problems:
        assert problem.solution is not None
        assert problem.solution.endswith(f"\\boxed{{{problem.answer}}}")
    assert problems == load_problems(ArithDataset(num_examples=9, seed=2))[:5]


def test_arith_train_with_a_level_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match=r"eval\.sets\[1\].*level"):
        load_problems(ArithDataset(level="easy"), source="eval.sets[1].dataset")


def test_a_change_of_the_arith_generator_needs_a_new_version() -> None:
    """Identities of trials hold ARITH_VERSION: raise it and renew the fingerprint, in one change."""
    problems = load_problems(ArithDataset(num_examples=50)) + load_problems(
        ArithDataset(split="test", level="hard", num_examples=50)
    )
    text = "\n".join(f"{p.prompt} {p.solution}" for p in problems)
    assert (ARITH_VERSION, hashlib.sha256(text.encode()).hexdigest()[:12]) == (1, "7d4c77c64b4f")


def test_jsonl(tmp_path: Path) -> None:
    path = write(
        tmp_path / "train.jsonl",
        "\ufeff" + json.dumps({"prompt": "1+1?", "answer": "2"}),
        "",
        {"prompt": "é", "answer": 3},
        {"prompt": "open", "answer": None},
        {"prompt": "x", "answer": 1e-5},
    )
    problems = load_problems(JsonlDataset(path=path))
    assert [(p.prompt, p.answer, p.id) for p in problems] == [
        ("1+1?", "2", "train.jsonl:1"),
        ("é", "3", "train.jsonl:3"),
        ("open", None, "train.jsonl:4"),
        ("x", "0.00001", "train.jsonl:5"),
    ]
    assert len(load_problems(JsonlDataset(path=path, limit=2))) == 2
    assert load_problems(JsonlDataset(path=path, answer_key=None))[0].answer is None


@pytest.mark.parametrize(
    ("line", "settings", "message"),
    [
        ('{"prompt": ', {}, r"data\.jsonl:2: not a line of JSON"),
        ("[1, 2]", {}, r"data\.jsonl:2: a JSON object is expected.*got a list"),
        (
            {"question": "x", "answer": "1"},
            {},
            r"data\.jsonl:2: no key 'prompt' \(prompt_key\).*question, answer",
        ),
        (
            {"prompt": "x", "anwser": "1"},
            {},
            r"no key 'answer'.*prompt, anwser\. Did you mean 'anwser'\?.*null",
        ),
        ({"prompt": " ", "answer": "1"}, {}, r"data\.jsonl:2: 'prompt' must be text"),
        ({"prompt": ["x"], "answer": "1"}, {}, r"data\.jsonl:2: 'prompt' must be text"),
        (
            {"prompt": "x", "answer": ["1"]},
            {},
            r"data\.jsonl:2: 'answer': an answer is text or a number, got list",
        ),
        ({"prompt": "x", "answer": True}, {}, r"data\.jsonl:2: 'answer': .* got bool"),
        ({"prompt": "x", "answer": "1"}, {"prompt_key": "promt"}, r"no key 'promt'.*Did you mean 'prompt'\?"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: Any, settings: dict, message: str) -> None:
    good = {settings.get("prompt_key", "prompt"): "x", "answer": "1"}
    path = write(tmp_path / "data.jsonl", good, line)
    with pytest.raises(UsageError, match=message):
        load_problems(JsonlDataset(path=path, **settings))


def test_missing_and_empty_files(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl")
    with pytest.raises(UsageError, match="holds no problems"):
        load_problems(JsonlDataset(path=path))
    with pytest.raises(UsageError, match=r"trian\.jsonl does not exist\. Did you mean 'train\.jsonl'\?"):
        load_problems(JsonlDataset(path=str(tmp_path / "trian.jsonl")))
    with pytest.raises(UsageError, match="is a folder"):
        load_problems(JsonlDataset(path=str(tmp_path)))


def test_versions_follow_content_and_not_place(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", {"prompt": "x"})
    second = write(tmp_path / "b.jsonl", {"prompt": "x"})
    assert dataset_version(JsonlDataset(path=first)) == dataset_version(JsonlDataset(path=second))
    before = dataset_version(JsonlDataset(path=first))
    write(tmp_path / "a.jsonl", {"prompt": "y, longer"})
    assert dataset_version(JsonlDataset(path=first)) != before
    assert (
        dataset_version(ArithDataset()) == dataset_version(ArithDataset(seed=4)) == f"arith-{ARITH_VERSION}"
    )
    assert dataset_version(HubDataset(id="a/b", revision="abc")) == "hub-abc"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {}, [], False])
def test_what_is_no_answer(value: Any) -> None:
    with pytest.raises(ValueError, match="text or a number"):
        answer_text(value)


def test_light_imports() -> None:
    program = (
        "import sys, trb_lab.tasks.datasets as d, trb_lab.tasks.prompts, trb_lab.tasks.grading\n"
        "from trb_lab.spec.dataset import ArithDataset\n"
        "d.dataset_version(ArithDataset()); d.load_problems(ArithDataset(num_examples=3))\n"
        "heavy = ('torch', 'transformers', 'datasets', 'reasoning_gym', 'sympy', 'math_verify', 'pandas')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    root = Path(trb_lab.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
