"""Every named set, read by the path that runs take, from small files in the layout of the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from trb_lab.errors import UsageError
from trb_lab.spec.dataset import Dataset, EvalSetField, HubDataset
from trb_lab.spec.named_sets import EVALUATION_SETS, TRAINING_SETS
from trb_lab.tasks.datasets import dataset_version, load_counted, load_problems
from trb_lab.tasks.grading import Grader, check_golds

from .hub_layouts import OPENTHOUGHTS3, WRITERS

pytest.importorskip("datasets", reason="the extra `hub` is not installed")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What $TRB_LAB_DATA names."""
    root = tmp_path_factory.mktemp("data")
    for hub_id, write in WRITERS.items():
        (root / hub_id).mkdir(parents=True)
        write(root / hub_id)
    return root


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("TRB_LAB_DATA", str(data))
    monkeypatch.setenv("TRB_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def evaluation_set(name: str) -> Any:
    return TypeAdapter(EvalSetField).validate_python(name).dataset


def training_set(name: str, **changes: Any) -> HubDataset:
    found: HubDataset = TypeAdapter(Dataset).validate_python(name)
    return found.model_copy(update=changes)


@pytest.mark.parametrize(
    ("name", "prompt", "answers"),
    [
        ("gsm8k", "Natalia sold 48 clips in April", ["72", "80,800"]),
        ("math500", "Convert the point $(0,3)$", ["\\left( 3, \\frac{\\pi}{2} \\right)", "36"]),
        ("olympiadbench", "Find the answer to question 0.", ["2", "$\\frac{1}{2 n+2}$", "$-1$, $7$"]),
        ("amc", "Cities A and B are", ["27.0"]),
        ("aime24", "Every morning Aya", ["033"]),
        ("aime25", "Find the sum of all integer bases", ["70"]),
    ],
)
def test_evaluation_sets(name: str, prompt: str, answers: list[str]) -> None:
    problems = load_problems(evaluation_set(name))
    assert problems[0].prompt.startswith(prompt)
    assert [p.answer for p in problems] == answers
    assert len({p.id for p in problems}) == len(problems)


@pytest.mark.parametrize(
    ("name", "response"),
    [
        ("gsm8k", "72"),
        ("math500", "(3, \\pi/2)"),
        ("olympiadbench", "2"),
        ("amc", "27"),
        ("aime24", "33"),
        ("aime25", "70"),
    ],
)
def test_right_answers_are_told_as_such(name: str, response: str) -> None:
    """`033`, `27.0` and `80,800` are how the files write numbers."""
    problems = load_problems(evaluation_set(name))
    with Grader() as grader:
        check_golds(problems, grader)
        right, wrong = grader.grade(
            [(str(problems[0].answer), f"\\boxed{{{r}}}") for r in (response, "12345")]
        )
    assert (right.correct, wrong.correct) == (True, False)


def test_money_and_thousands_can_be_graded() -> None:
    golds = [str(load_problems(evaluation_set(name))[1].answer) for name in ("gsm8k", "math500")]
    responses = ["\\boxed{80800}", "\\boxed{\\$36}"]
    with Grader() as grader:
        assert [v.correct for v in grader.grade(list(zip(golds, responses, strict=True)))] == [True, True]


def test_unreadable_answers_are_dropped_and_counted() -> None:
    spec = evaluation_set("olympiadbench")
    assert load_counted(spec).left_out == {"an answer that math-verify cannot read": 1}
    kept = load_problems(spec.model_copy(update={"unreadable_answers": "refuse"}))
    assert len(kept) == 4
    assert load_problems(spec) == kept[:3]


class TestOpenThoughts3:
    def test_one_prompt_of_each_question_in_a_random_order(self) -> None:
        problems = load_problems(training_set("openthoughts3"))
        expected = dict.fromkeys(row["conversations"][0]["value"] for row in OPENTHOUGHTS3)
        assert sorted(p.prompt for p in problems) == sorted(expected)
        assert [p.prompt for p in problems] != list(expected)
        assert {p.answer for p in problems} == {None}
        assert problems == load_problems(training_set("openthoughts3"))
        assert problems != load_problems(training_set("openthoughts3", shuffle_seed=1))

    def test_limit_takes_a_part_of_the_shuffled(self) -> None:
        every = load_problems(training_set("openthoughts3"))
        assert load_problems(training_set("openthoughts3", limit=4)) == every[:4]

    def test_where(self) -> None:
        problems = load_problems(training_set("openthoughts3_math"))
        assert {p.prompt for p in problems} == {f"math question {i}" for i in range(5)}
        both = load_problems(training_set("openthoughts3", where={"domain": ["math", "code"]}))
        assert len(both) == 10
        hard = load_problems(
            training_set("openthoughts3", where={"domain": ["math", "code"], "difficulty": 7})
        )
        assert {p.prompt.split()[0] for p in hard} == {"code"}

    def test_repeats_stay_where_they_are_wanted(self) -> None:
        problems = load_problems(training_set("openthoughts3", unique=False, shuffle_seed=None))
        assert [p.prompt for p in problems] == [row["conversations"][0]["value"] for row in OPENTHOUGHTS3]

    def test_ids_name_rows(self) -> None:
        (first, *_) = load_problems(training_set("openthoughts3", shuffle_seed=None))
        assert first.id == "open-thoughts/OpenThoughts3-1.2M/train/0"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"where": {"domian": "math"}}, r"dataset\.where: .* no column 'domian', but .*'domain'\?"),
            (
                {"where": {"domain": "maths"}},
                r"no row .* domain = 'maths'. 'domain' holds 'code', 'math', 'science'",
            ),
            ({"prompt_column": "conversations[role=user].value"}, "no key 'role', but from, value"),
            ({"prompt_column": "conversations[from=human].text"}, "no key 'text', but from, value"),
            ({"prompt_column": "conversations[from=user].value"}, "must be text .* got NoneType"),
            ({"prompt_column": "conversations[from].value"}, "is not a column path"),
            ({"prompt_column": "domain.name"}, "there is no 'name' in string"),
            ({"answer_column": "domain", "answer_after": "####"}, "'domain' has no '####'"),
        ],
    )
    def test_what_does_not_fit_is_named(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            load_problems(training_set("openthoughts3", **changes))


def test_a_folder_enters_by_content_and_not_by_place(data: Path, tmp_path: Path) -> None:
    spec = evaluation_set("gsm8k")
    before = dataset_version(spec)
    assert before.startswith("sha256-")
    (data / spec.id / ".cache").mkdir(exist_ok=True)
    (data / spec.id / ".cache" / "download.lock").write_text("a record of the download")
    assert dataset_version(spec) == before


@pytest.mark.parametrize("name", [*EVALUATION_SETS, *TRAINING_SETS])
def test_named_hub_sets_are_pinned(name: str) -> None:
    spec = TypeAdapter(Dataset).validate_python(name)
    if isinstance(spec, HubDataset):
        assert spec.revision is not None
        assert len(spec.revision) == 40
        assert set(spec.revision) <= set("0123456789abcdef")
