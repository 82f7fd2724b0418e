import pytest

from trb_lab.tasks.answers import extract_boxed, normal_form


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{14}", "14"),
        ("\\boxed{1} then \\boxed{ 2 }", "2"),
        ("\\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{\\sqrt{\\frac{a}{b^{2}}}} and }", "\\sqrt{\\frac{a}{b^{2}}}"),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{\\left\\{ x \\right.}", "\\left\\{ x \\right."),
        ("\\boxed {7}", "7"),
        ("\\fbox{8}", "8"),
        ("\\\\boxed{9}", "9"),
        ("} \\boxed{10}", "10"),
        ("\\boxed{4} so \\boxed{5", "4"),
        ("\\boxed{12\n\\boxed{3}", "3"),
        ("\\boxed{}", ""),
        ("\\boxed{5", None),
        ("\\boxed 5", None),
        ("the answer is 5", None),
        ("", None),
    ],
)
def test_last_complete_box_is_the_answer(text: str, answer: str | None) -> None:
    assert extract_boxed(text) == answer


def test_a_flood_of_open_boxes_takes_linear_time() -> None:
    assert extract_boxed("\\boxed{3" * 100_000) is None
    assert extract_boxed("\\boxed{3" * 100_000 + "}") == "3"


@pytest.mark.parametrize(
    ("spelling", "other"),
    [
        ("(1, 2)", "\\left( 1,2 \\right)"),
        ("\\dfrac{1}{2}", "\\frac{1}{2}"),
        ("$ 12 $", "12."),
        ("1\\,000", "1 000"),
        ("\\$5", "5"),
    ],
)
def test_spellings_of_one_answer(spelling: str, other: str) -> None:
    assert normal_form(spelling) == normal_form(other)


@pytest.mark.parametrize(
    ("answer", "other"),
    [("1/2", "0.5"), ("x", "X"), ("\\leftarrow", "arrow"), ("1.5", "15"), ("\\frac12", "\\frac13")],
)
def test_other_answers_stay_apart(answer: str, other: str) -> None:
    assert normal_form(answer) != normal_form(other)
