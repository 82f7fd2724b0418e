"""Exit codes, error texts and help of the command line, as a shell sees them."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from trb_lab import cli
from trb_lab.cli import main
from trb_lab.errors import LabError, MissingExtra

ROOT = Path(__file__).parents[1]
ARITH = str(ROOT / "experiments" / "arith.yaml")
VERBS = [
    "run",
    "eval",
    "check",
    "sweep",
    "report",
    "status",
    "logs",
    "cancel",
    "ui",
    "sync",
    "clean",
    "bench",
    "diagnose",
    "models",
]


@pytest.fixture(autouse=True)
def _somewhere_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRB_LAB_STORE", raising=False)


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = outcome(capsys, "--help")
    assert (code, err) == (0, "")
    assert all(f"\n  {verb} " in out for verb in VERBS)


@pytest.mark.parametrize(
    "verb",
    [
        *(v for v in VERBS if v not in ("models", "diagnose")),
        *(["models list", "models make-pair", "models export", "models prune", "models fetch"]),
        *(["diagnose continuation", "diagnose excerpts", "diagnose first-steps", "diagnose positions"]),
    ],
)
def test_every_verb_explains_itself_with_an_example(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, _ = outcome(capsys, *verb.split(), "--help")
    assert code == 0
    assert f"Example: trb-lab {verb}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Usage: trb-lab"),
        (["statsu"], "No such command 'statsu'. Did you mean 'status'?\nSee: trb-lab --help"),
        (["models", "lst"], "Did you mean 'list'?\nSee: trb-lab models --help"),
        (["run", "--sett"], "No such option: --sett"),
        (["run"], "name what to run: trb-lab run FILE"),
        (["run", "nowhere.yaml"], "nowhere.yaml does not exist."),
        (["run", "--run-dir", "."], ". is no run directory (it has no config.json)."),
        (["run", "--run-dir", ".", "--set", "seed=1"], "--set needs FILE"),
        (["run", ARITH, "--set", "warmup.kl_budgett=3"], "Did you mean 'kl_budget'?"),
        (["sweep"], "Missing argument 'FILE'"),
        (["sweep", ARITH], "is an experiment, and a sweep is wanted here"),
        (["sweep", "--parallel", "0", "x.yaml"], "--parallel"),
        (
            ["sweep", "--retry-failed=omo", "x.yaml"],
            "there is no class 'omo'. Did you mean 'oom'? Classes: code, ",
        ),
        (["sweep", "x.yaml", "--detach"], "--detach needs a cluster: name its profile with --on"),
        (["sweep", "x.yaml", "--driver", "slrum"], "Did you mean 'slurm'?"),
        (["sweep", "x.yaml", "--driver", "slurm"], "--driver slurm needs a cluster"),
        (["sweep", "x.yaml", "--on", "c.yaml", "--inline"], "give one of them"),
        (["sweep", "x.yaml", "--on", "c.yaml", "--detach", "--driver", "slurm"], "give one of them"),
        (["report", "nowhere"], "no sweep 'nowhere' in "),
        (["check"], "name at least one file"),
        (
            ["check", "--schema", "reports"],
            "there is no schema 'reports'. Schemas: experiment, sweep, cluster, report.",
        ),
        (["eval"], "name one thing to score"),
        (["models", "export", "nowhere", "out"], "'nowhere' is neither a run directory nor a run in "),
        (["models", "fetch", "nowhere"], "'nowhere' is not a hub id"),
    ],
)
def test_usage_errors_exit_with_2_and_a_message(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = outcome(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LabError("went wrong"), 1),
        (MissingExtra("MLflow", "driver"), 1),
        (typer.Abort(), 1),
        (typer.Exit(3), 3),
    ],
)
def test_failures_become_exit_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    monkeypatch.setattr("trb_lab.models.catalog.list_models", lambda: raise_(error))
    found, _, err = outcome(capsys, "models", "list")
    assert found == code
    assert "Traceback" not in err
    assert not isinstance(error, LabError) or str(error) in err


def raise_(error: BaseException) -> None:
    raise error


def test_ctrl_c_is_130_and_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trb_lab.models.catalog.list_models", lambda: raise_(KeyboardInterrupt()))
    code, _, err = outcome(capsys, "models", "list")
    assert code == 130
    assert len(err.strip().splitlines()) == 1


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trb_lab.models.catalog.list_models", lambda: raise_(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["models", "list"])


def test_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = outcome(capsys, "models", "list", "--json")
    assert code == 0
    assert "arith-student" in [row["name"] for row in json.loads(out)]


def test_pruned_copies_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRB_LAB_CACHE", str(tmp_path))
    for name in ("arith-teacher-1layers", "elsewhere-2layers"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.json").write_text("{}")
    _, out, _ = outcome(capsys, "models", "list", "--json")
    names = [row["name"] for row in json.loads(out)]
    assert names == ["arith-student", "arith-teacher", "smollm2-135m", "arith-teacher-1layers"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["run", "a", "--store", "d", "--json"], ["--store", "d", "run", "a", "--json"]),
        (["run", "--store=d"], ["--store=d", "run"]),
        (["run", "--", "--store", "d"], ["run", "--", "--store", "d"]),
        (["run", "--store"], ["run", "--store"]),
    ],
)
def test_store_may_stand_anywhere(given: list[str], expected: list[str]) -> None:
    assert cli._store_first(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["sweep", "--retry-failed", "a"], ["sweep", "--retry-failed=all", "a"]),
        (["sweep", "a", "--retry-failed=oom"], ["sweep", "a", "--retry-failed=oom"]),
        (["sweep", "--", "--retry-failed"], ["sweep", "--", "--retry-failed"]),
    ],
)
def test_retry_failed_alone_means_all(given: list[str], expected: list[str]) -> None:
    assert cli._retry_all(given) == expected


@pytest.mark.parametrize("incarnation", [None, "0", "1"])
def test_a_driver_job_that_is_back_from_the_queue_retries_nothing_again(
    monkeypatch: pytest.MonkeyPatch, incarnation: str | None
) -> None:
    monkeypatch.delenv("TRB_LAB_INCARNATION", raising=False)
    if incarnation is not None:
        monkeypatch.setenv("TRB_LAB_INCARNATION", incarnation)
    asked: dict[str, Any] = {}
    monkeypatch.setattr("trb_lab.sweep.run_sweep", lambda *args, **options: asked.update(options) or 0)
    assert main(["sweep", "file.yaml", "--retry-failed=oom", "--take-over"]) == 0
    again = incarnation == "1"
    assert asked["retry_failed"] == (False if again else {"oom"})
    assert asked["take_over"] is not again


def test_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("experiment", "sweep"):
        code, out, _ = outcome(capsys, "check", "--schema", name)
        assert code == 0
        assert json.loads(out)["title"] == f"trb-lab {name}"
    assert json.loads(outcome(capsys, "check", "--schema")[1])["title"] == "trb-lab experiment"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(capsys, "--version")[:2] == (0, "0.1.0\n")


def test_help_costs_little_time() -> None:
    """CPU seconds, for a busy machine; the best of three, for a cold cache."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "trb_lab.cli", "--help"], cwd=ROOT, capture_output=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.4
