from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trb_lab.errors import MissingExtra
from trb_lab.spec.dataset import ChampDataset
from trb_lab.tasks import champ
from trb_lab.tasks.answers import extract_boxed
from trb_lab.tasks.datasets import dataset_version, load_counted, load_problems
from trb_lab.tasks.grading import Grader, check_golds


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        ("239", "239"),
        ("-9", "-9"),
        ("@@2^(n-1)@@", "$2^(n-1)$"),
        ("@@(2n)!/(2^n*n!)@@", "$(2n)!/(2^n*n!)$"),
        ("@@sqrt(2)@@", "$sqrt(2)$"),
        ("@@5/14@@, or approximately 35.7%", None),
        ("@@2^floor(n/2)*floor(n/2)!@@", None),
        ("@@C(n+1, 2m+1)@@", None),
        ("@@x=6, y=5@@", None),
        ("@@sum_(k=1)^n 1/k@@", None),
        ("No", None),
        ("98 values", None),
        ("100 (i.e., all values)", None),
    ],
)
def test_answers_that_can_be_graded(raw: str, answer: str | None) -> None:
    assert champ.gradeable(raw) == answer


def entry(name: str, text: str, answer: str) -> dict[str, Any]:
    steps = [{"_raw_text": "Count @@a+b@@."}, {"_raw_text": "Done."}]
    return {"identifier": name, "_raw_text": text, "_raw_answer": answer, "solution": {"steps": steps}}


def test_the_package_s_layout(tmp_path: Path) -> None:
    rows = [
        entry("P_1", "How many, as an expression of @@n@@?", "@@2^(n-1)@@"),
        entry("P_2", "Is it prime?", "No"),
        entry("P_3", "Factorize @@x^2-1@@.", "@@(x+1)(x-1)@@"),
    ]
    file = tmp_path / "v0.json"
    file.write_text(json.dumps({"problems": {row["identifier"]: row for row in rows}, "hints": {}}))
    loaded = champ.read_champ(file)
    assert loaded.left_out == {"no short answer that can be graded": 2}
    (problem,) = loaded.problems
    assert problem.prompt == f"How many, as an expression of n?\n{champ.BOX_INSTRUCTION}"
    assert (problem.answer, problem.id) == ("$2^(n-1)$", "champ/P_1")
    assert problem.solution == "Count a+b.\nDone.\n\\boxed{2^(n-1)}"


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        champ, "version", lambda name: (_ for _ in ()).throw(champ.PackageNotFoundError(name))
    )
    for use in (load_problems, dataset_version):
        with pytest.raises(MissingExtra, match=r"trb-lab\[champ\]"):
            use(ChampDataset())


class TestWithThePackage:
    @pytest.fixture(autouse=True)
    def _package(self) -> None:
        pytest.importorskip("champ_dataset", reason="the extra `champ` is not installed")

    def test_counts(self) -> None:
        loaded = load_counted(ChampDataset())
        assert (len(loaded.problems), sum(loaded.left_out.values())) == (112, 158)
        assert load_problems(ChampDataset(limit=5)) == loaded.problems[:5]
        assert len({p.id for p in loaded.problems}) == 112
        assert dataset_version(ChampDataset()).startswith("champ-dataset-1.")

    def test_every_answer_is_graded_right_and_no_other_number_is(self, tmp_path: Path) -> None:
        problems = load_problems(ChampDataset())
        with Grader(cache_path=tmp_path / "verdicts.jsonl") as grader:
            check_golds(problems, grader)
            own = grader.grade([(str(p.answer), str(p.solution)) for p in problems])
            other = grader.grade([(str(p.answer), "\\boxed{987654}") for p in problems])
        assert all(verdict.correct for verdict in own)
        assert not any(verdict.correct for verdict in other)
        assert all(extract_boxed(str(p.solution)) == str(p.answer).strip("$") for p in problems)

    @pytest.mark.parametrize(
        ("problem", "latex"),
        [
            ("P_Combinatorics_6", "2^{n-1}"),
            ("P_Combinatorics_11", "\\frac{n(n-3)}{2}"),
            ("P_Combinatorics_22", "\\frac{n+1}{r+1}"),
            ("P_Combinatorics_34", "(n-k+3)\\cdot 2^{n-k-2}"),
            ("P_Combinatorics_35", "\\frac{(2n)!}{2^n \\cdot n!}"),
            ("P_Combinatorics_36", "\\frac{(n-1)!}{2}"),
            ("P_Inequality_17", "1-2^{-\\frac{1}{n}}"),
            ("P_Inequality_34", "\\sqrt{2}"),
            ("P_Polynomial_7", "2-2x"),
            ("P_Polynomial_31", "\\frac{a^3+2b}{3a}"),
            ("P_Sequence_34", "2^{997}"),
        ],
    )
    def test_formulas_agree_with_latex(self, problem: str, latex: str) -> None:
        """The package writes 2^(n-1); models write LaTeX."""
        gold = {p.id: p.answer for p in load_problems(ChampDataset())}[f"champ/{problem}"]
        with Grader() as grader:
            (verdict,) = grader.grade([(str(gold), f"\\boxed{{{latex}}}")])
        assert verdict.correct
