"""Graders of installed packages: found by name, run in the workers, never sharing verdicts."""

import tomllib
from pathlib import Path

import pytest

from trb_lab.errors import UsageError
from trb_lab.tasks.graders import GROUP, find_grader, known_graders
from trb_lab.tasks.grading import Grader, check_golds, default_cache_path
from trb_lab.tasks.problem import Problem

EXAMPLE = Path(__file__).with_name("example_graders")


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, version: str, points: dict) -> None:
    """What an installer writes about a package: `folder` then counts as installed, for us and for workers."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = "\n".join(f"{point} = {value}" for point, value in points.items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}\n")
    monkeypatch.syspath_prepend(folder)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The example package, installed."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    install(
        monkeypatch, tmp_path / "site", project["name"], project["version"], project["entry-points"][GROUP]
    )
    monkeypatch.syspath_prepend(EXAMPLE)
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLE))  # the workers' path
    monkeypatch.setenv("TRB_LAB_CACHE", str(tmp_path / "cache"))


def test_the_documentation_shows_the_example_whole() -> None:
    shown = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    for file in ("pyproject.toml", "example_graders.py"):
        assert (EXAMPLE / file).read_text() in shown


def test_a_function_grades_boxed_answers(example: None) -> None:
    answers = ["\\boxed{New  York!}", "\\boxed{newyork}", "\\boxed{Boston}", "New York", ""]
    with Grader(1, name="same_letters") as grader:
        verdicts = grader.grade([("New York", answer) for answer in answers])
        check_golds([Problem("where?", "New York", "q:1")], grader)
    assert [v.reason for v in verdicts] == ["correct", "correct", "wrong", "unboxed", "empty"]


def test_a_class_grades_what_it_reads_in_the_response(example: None) -> None:
    right = "Sure:\n```python\ndef double(x):\n    return 2 * x\n```\nThat is it."
    wrong = right.replace("2 *", "3 *")
    endless = "```python\nwhile True:\n    pass\n```"
    gold = "assert double(4) == 8"
    with Grader(1, timeout_seconds=0.5, name="python_function") as grader:
        verdicts = grader.grade(
            [(gold, r) for r in (right, wrong, "\\boxed{8}", endless, right + "x" * 2000)]
        )
        check_golds([Problem("double", gold, "q:1")], grader)  # tests are no answers: not checked as such
        votes = [grader.vote(v) for v in verdicts]
    assert [v.reason for v in verdicts] == ["correct", "wrong", "unboxed", "timeout", "correct"]
    assert verdicts[0].answer == "def double(x):\n    return 2 * x\n"
    assert votes[0] == votes[4] == "def double(x):\n    return 2 * x"  # blanks inside stay: they are code


def test_graders_and_versions_never_share_verdicts(example: None) -> None:
    names = ["math_verify", "same_letters", "python_function"]
    files = [Grader(1, name=name).cache.path for name in names]
    assert files[0] == default_cache_path()
    assert files[1].name == "verdicts-1-same_letters@example-graders_1.0.jsonl"
    assert len(set(files)) == 3


def test_an_unknown_name_says_what_there_is(example: None) -> None:
    assert known_graders() == ["math_verify", "python_function", "same_letters"]
    find_grader("same_letters")
    with pytest.raises(UsageError, match=r"math_verify, python_function, same_letters.* mean 'same_letters'"):
        find_grader("same_leters")


@pytest.mark.parametrize(
    ("points", "name", "match"),
    [
        ({"gone": "no_such_module:f"}, "gone", r"other 2\.0 .*cannot be loaded: ModuleNotFoundError"),
        ({"number": "math:pi"}, "number", r"neither a function"),
        ({"same_letters": "math:isclose"}, "same_letters", r"registered by .* and by "),
        ({"math_verify": "math:isclose"}, "math_verify", r"registered by trb-lab and by other 2\.0"),
    ],
)
def test_what_is_no_grader_is_refused_with_the_name_of_its_package(
    example: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, points: dict, name: str, match: str
) -> None:
    install(monkeypatch, tmp_path / "more", "other", "2.0", points)
    with pytest.raises(UsageError, match=match):
        find_grader(name)


def test_an_error_in_extract_costs_its_response_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fragile_grader.py").write_text(
        "class Fragile:\n"
        "    def extract(self, response):\n        return response.split('answer: ')[1]\n"
        "    def verify(self, gold, answer):\n        return gold == answer\n"
    )
    install(monkeypatch, tmp_path, "fragile", "0.1", {"fragile": "fragile_grader:Fragile"})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Grader(1, cache_path=tmp_path / "v.jsonl", name="fragile") as grader:
        verdicts = grader.grade([("5", "answer: 5"), ("5", "5"), ("5", "answer: 6")])
        check_golds([Problem("p", "5", "q:1")], grader)
    assert [v.reason for v in verdicts] == ["correct", "error", "wrong"]
