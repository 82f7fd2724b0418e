import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import trb_lab
from trb_lab.errors import LabError, UsageError
from trb_lab.tasks.grading import Grader, Verdict, check_golds, default_cache_path
from trb_lab.tasks.problem import Problem
from trb_lab.tasks.responses import verdict_statistics

SCRIPTED = f"{Path(__file__).with_name('scripted_verifier.py')}:scripted"
BROKEN = SCRIPTED.replace(":scripted", ":Broken")


def box(answer: str) -> str:
    return f"thus \\boxed{{{answer}}}"


def reasons(grader: Grader, gold: str, answers: list[str]) -> list[str]:
    return [verdict.reason for verdict in grader.grade([(gold, box(answer)) for answer in answers])]


@pytest.fixture(scope="module")
def math_grader(tmp_path_factory: pytest.TempPathFactory):
    with Grader(1, cache_path=tmp_path_factory.mktemp("verdicts") / "v.jsonl") as grader:
        yield grader


@pytest.mark.parametrize(
    ("gold", "answer", "reason"),
    [
        ("14", "14", "correct"),
        ("14", "15", "wrong"),
        ("14", "014", "correct"),
        ("1/2", "\\frac{1}{2}", "correct"),
        ("0.5", "\\frac12", "correct"),
        ("2^(n-1)", "2^{n-1}", "correct"),
        ("2^(n-1)", "2", "wrong"),  # what the gold would be read as without $...$
        ("$2^{n-1}$", "2^{n}/2", "correct"),
        ("(1,2)", "(1, 2)", "correct"),
        ("11\\sqrt2", "11\\sqrt{2}", "correct"),
        ("1,000", "1000", "correct"),
        ("x=5", "5", "correct"),
        ("x=5", "y=5", "wrong"),
        ("5", "", "empty"),
        ("5", "1+" * 600 + "1", "wrong"),  # too long to be checked
    ],
)
def test_math_verify_decides(math_grader: Grader, gold: str, answer: str, reason: str) -> None:
    (verdict,) = math_grader.grade([(gold, box(answer))])
    assert verdict.reason == reason
    assert verdict.correct == (reason == "correct")
    assert verdict.answer == answer


@pytest.mark.parametrize(
    ("response", "reason", "answer"),
    [
        ("it is 5", "unboxed", None),
        ("", "empty", None),
        (" \n", "empty", None),
        ("so \\boxed{ }", "empty", ""),
    ],
)
def test_unboxed_and_empty_responses_are_told_apart(
    math_grader: Grader, response: str, reason: str, answer: str | None
) -> None:
    (verdict,) = math_grader.grade([("5", response)])
    assert (verdict.correct, verdict.reason, verdict.answer) == (False, reason, answer)
    assert math_grader.vote(verdict) is None


def test_shares_without_an_answer_add_up() -> None:
    reasons = ["correct", "unboxed", "empty", "empty", "timeout", "error", "wrong", "wrong"]
    shares = verdict_statistics([Verdict(r == "correct", r, None) for r in reasons])
    assert shares == {
        "correct_share": 1 / 8,
        "no_answer_share": 3 / 8,
        "unboxed_share": 1 / 8,
        "empty_share": 2 / 8,
        "timeouts": 2.0,
    }


def test_an_operation_that_no_signal_handler_can_interrupt_is_a_timeout(tmp_path: Path) -> None:
    tower = "\\dfrac{5^{\\left(5^{\\left(5^{\\left(5^5\\right)}\\right)} - 4\\right)} - 5}{16}"
    with Grader(1, timeout_seconds=0.5, cache_path=tmp_path / "v.jsonl") as grader:
        assert reasons(grader, "3", ["3", tower, "4"]) == ["correct", "timeout", "wrong"]
        assert grader.cache.get(("3", tower)) is None
        assert len(grader.cache) == 2


def test_hanging_and_dying_workers_cost_their_own_pair_only(tmp_path: Path) -> None:
    with Grader(2, timeout_seconds=0.2, cache_path=tmp_path / "v.jsonl", verifier=SCRIPTED) as grader:
        answers = ["1", "spin", "2", "die", "raise", "1", "sleep", "3"]
        expected = ["correct", "timeout", "wrong", "error", "error", "correct", "timeout", "wrong"]
        assert reasons(grader, "1", answers) == expected
        assert len(grader.cache) == 3  # no time-out and no error among them


def test_a_worker_that_died_while_idle_is_replaced(tmp_path: Path) -> None:
    with Grader(1, cache_path=tmp_path / "v.jsonl", verifier=SCRIPTED) as grader:
        assert reasons(grader, "1", ["1"]) == ["correct"]
        (pid,) = grader.pool.pids
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert reasons(grader, "1", ["2"]) == ["wrong"]
        assert grader.pool.pids != [pid]


def test_seen_pairs_start_no_worker_even_in_another_grader(tmp_path: Path) -> None:
    with Grader(1, cache_path=tmp_path / "v.jsonl", verifier=SCRIPTED) as first:
        reasons(first, "1", ["1", "2"])
    assert first.pool.pids == []
    with Grader(1, cache_path=tmp_path / "v.jsonl", verifier=BROKEN) as second:
        assert reasons(second, "1", ["2", "1"]) == ["wrong", "correct"]
        assert second.pool.pids == []


def test_closing_ends_the_workers(tmp_path: Path) -> None:
    with Grader(1, cache_path=tmp_path / "v.jsonl", verifier=SCRIPTED) as grader:
        reasons(grader, "1", ["1"])
        (pid,) = grader.pool.pids
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (
        Grader(1, cache_path=tmp_path / "v.jsonl", verifier=BROKEN) as grader,
        pytest.raises(LabError, match="the verifier cannot be made"),
    ):
        reasons(grader, "1", ["1"])


def test_threads_may_grade(tmp_path: Path) -> None:
    found: list[list[str]] = []
    with Grader(1, cache_path=tmp_path / "v.jsonl", verifier=SCRIPTED) as grader:
        threads = [
            threading.Thread(target=lambda n=n: found.append(reasons(grader, "1", ["1", str(n)])))
            for n in (2, 3, 4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [["correct", "wrong"]] * 3


def test_grading_works_from_any_directory_and_main_and_its_workers_die_with_it(tmp_path: Path) -> None:
    """A killed process leaves no worker behind, and a folder that is gone stops none from starting."""
    program = (
        "import os, sys; from trb_lab.tasks.grading import Grader; from pathlib import Path\n"
        "os.rmdir(os.getcwd())\n"
        f"grader = Grader(1, cache_path=Path({str(tmp_path / 'v.jsonl')!r}))\n"
        "print(grader.grade([('1/2', '\\\\boxed{0.5}')])[0].reason, *grader.pool.pids, flush=True)\n"
        "print([m for m in ('torch', 'sympy', 'math_verify') if m in sys.modules], flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    folder = tmp_path / "gone"
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(trb_lab.__file__).parents[1])}
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True
    )
    (reason, pid), modules = process.stdout.splitlines()[0].split(), process.stdout.splitlines()[1]
    assert reason == "correct"
    assert modules == "[]"
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            break
        threading.Event().wait(0.05)
    else:
        pytest.fail("the worker outlived its parent")


def test_golds_that_cannot_be_read_are_named(math_grader: Grader) -> None:
    good = [Problem("p", gold, f"good:{gold}") for gold in ("14", "2^(n-1)", "\\frac{1}{2}", "$5$")]
    check_golds([*good, Problem("p", None, "open")], math_grader)
    bad = [Problem("p", "", "set.jsonl:3"), Problem("p", "\\frac{1}{", "set.jsonl:7")]
    with pytest.raises(
        UsageError, match=r"eval.sets\[0\].dataset: .* 2 of 6 .* set.jsonl:3: ''; set.jsonl:7"
    ):
        check_golds([*good, *bad], math_grader, source="eval.sets[0].dataset")


def test_the_shared_file_is_named_after_what_decides_verdicts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRB_LAB_CACHE", str(tmp_path))
    path = default_cache_path()
    assert path.parent == tmp_path
    assert "mathverify0." in path.name


def test_a_verifier_that_runs_programs_does_not_let_them_wait_for_input(tmp_path: Path) -> None:
    with Grader(1, 1.0, cache_path=tmp_path / "v.jsonl", verifier=SCRIPTED) as grader:
        assert reasons(grader, "5", ["program", "5"]) == ["correct", "correct"]
