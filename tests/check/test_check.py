"""`trb-lab check`: what it says of sound and of broken files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trb_lab.check import check_files
from trb_lab.check.findings import Findings
from trb_lab.check.memory import ModelSize, estimate, model_size, size
from trb_lab.cli import main
from trb_lab.spec import ExperimentSpec, load_experiment

from .conftest import Checks


def test_a_sound_experiment(checks: Checks, experiment: Path) -> None:
    code, found = checks(experiment)
    assert code == 0
    assert {entry["state"] for entry in found.values()} == {"ok"}
    assert "student 192 logits" in found["vocabulary"]["text"]
    assert "teacher 208 logits" in found["vocabulary"]["text"]
    assert "merged into one stop event" in found["stop ids"]["text"]
    assert "plain text" in found["prompt (student)"]["text"]
    assert "chat template" in found["prompt (teacher)"]["text"]
    assert "5 problems x 4 samples, all reference answers parse" in found["eval.sets[0] hard"]["text"]
    assert found["memory"]["text"].startswith("about ")


def test_lines_for_people(capsys: pytest.CaptureFixture[str], experiment: Path) -> None:
    assert main(["check", str(experiment)]) == 0
    out = capsys.readouterr().out
    assert "  ok    vocabulary: " in out


def test_several_files_are_summed_up(
    capsys: pytest.CaptureFixture[str], experiment: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [\n")
    assert check_files([experiment, broken]) == 2
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 files: 1 failed, ")


def test_broken_parts_are_told_apart(checks: Checks, experiment: Path, tmp_path: Path) -> None:
    """Each check stands for itself: one that fails does not hide the next."""
    (tmp_path / "gold.jsonl").write_text('{"prompt": "1+1", "answer": null}\n')
    broken = tmp_path / "broken.yaml"
    broken.write_text(
        "extends: tried.yaml\nteacher: nowhere/nobody\n"
        "dataset: {kind: jsonl, path: missing.jsonl}\n"
        "eval: {sets: [{name: gold, dataset: {kind: jsonl, path: gold.jsonl}}]}\n"
    )
    code, found = checks(broken)
    assert code == 1
    assert found["student"]["state"] == "ok"
    assert found["teacher"]["state"] == "warn"
    assert "trb-lab models fetch nowhere/nobody" in found["teacher"]["text"]
    assert found["dataset"]["state"] == "fail"
    assert "does not exist" in found["dataset"]["text"]
    assert "have no answer to grade against" in found["eval.sets[0] gold"]["text"]


def test_a_set_that_is_trained_on_is_told(checks: Checks, experiment: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.yaml"
    again.write_text(
        "extends: tried.yaml\neval: {sets: [{name: seen, dataset: {kind: arith, num_examples: 5}}]}\n"
    )
    code, found = checks(again)
    assert code == 0
    assert found["eval.sets[0] seen"]["state"] == "warn"
    assert "5 of them share a passage" in found["eval.sets[0] seen"]["text"]


def test_trials_of_a_sweep_share_a_preflight(
    capsys: pytest.CaptureFixture[str], experiment: Path, tmp_path: Path
) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "name: s\nquestion: q\nbase: tried.yaml\nseeds: [0, 1]\n"
        "arms: {opd: {overrides: {warmup: {kind: opd}}}, trb: {grid: {warmup.kl_budget: [0.1, 0.2]}}}\n"
    )
    assert check_files([sweep], as_json=True) == 0
    (report,) = json.loads(capsys.readouterr().out)["files"]
    assert report["checks"][0]["text"] == "all 6 trials are valid: 3 settings x 2 seeds"
    assert [c["subject"] for c in report["checks"]].count("memory") == 1


def test_every_arm_of_a_sweep_is_looked_at(
    capsys: pytest.CaptureFixture[str], experiment: Path, tmp_path: Path
) -> None:
    """Trials share one preflight, which must not hide what is wrong with one of them."""
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        f"name: s\nquestion: which?\nbase: {experiment}\nseeds: [0]\narms:\n"
        "  trb: {overrides: {warmup: {kind: trb, steps: 1}}}\n"
        "  skd: {overrides: {warmup: {kind: skd, top_k: 100000}}}\n"
        "  wide: {overrides: {loss: {kind: renormalised, top_k: 100000}}}\n"
        "  graded: {overrides: {grader: nobody}}\n"
    )
    assert check_files([sweep]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("fail")]
    assert any("arm skd" in line and "warmup.top_k is 100000" in line for line in lines)
    assert any("loss.top_k is 100000" in line for line in lines)
    assert sum("there is no 'nobody'" in line for line in lines) == 1


def test_a_wrong_file_is_exit_code_2(checks: Checks, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: x\nstepz: 3\n")
    code, found = checks(wrong)
    assert code == 2
    assert found[""]["state"] == "fail"


def test_model_size_is_read_from_headers(pair: Path) -> None:
    from safetensors.numpy import load_file

    folder = pair / "student"
    found = model_size(folder, json.loads((folder / "config.json").read_text()))
    assert found.parameters == sum(t.size for t in load_file(folder / "model.safetensors").values())
    assert found.logit_width == 192


def test_memory_in_closed_form(experiment: Path) -> None:
    spec: ExperimentSpec = load_experiment(experiment, ["eval.sets=[]"])
    student = ModelSize(1000, layers=2, hidden=8, kv_width=4, logit_width=10, max_context=None)
    teacher = ModelSize(3000, layers=3, hidden=8, kv_width=4, logit_width=10, max_context=None)
    found = estimate(spec, student, teacher, vocabulary_size=10, bytes_per_value=2)
    assert found.weights == (2 * 1000 + 3000) * 2
    assert found.optimizer == 1000 * (8 + 4)
    assert found.kv_cache == 2 * (2 + 3) * 4 * 2 * (4 * 2) * (48 + 16)
    alone = estimate(
        spec.model_copy(update={"warmup": load_experiment(experiment, ["warmup.kind=opd"]).warmup}),
        student,
        teacher,
        10,
        2,
    )
    assert alone.kv_cache == 2 * 2 * 4 * 2 * (4 * 2) * (48 + 16)
    # Evaluation asks for up to 256 rows of the student; a GPU takes those that fit.
    whole = load_experiment(experiment)
    evaluating = estimate(whole, student, teacher, 10, 2)
    response = whole.eval.max_new_tokens or whole.rollout.max_new_tokens
    assert evaluating.kv_cache == 2 * 2 * 4 * 2 * 256 * (48 + response)
    assert estimate(whole, student, teacher, 10, 2, gpu_bytes=100_000).kv_cache < 100_000


def test_sizes_in_words() -> None:
    assert [size(n) for n in (12, 2048, 3 * 2**30, 250 * 2**20)] == ["12 B", "2 KiB", "3 GiB", "250 MiB"]


def test_a_check_that_breaks_is_a_finding() -> None:
    findings = Findings()
    with findings.guard("x"):
        raise ValueError("bad header")
    assert findings.all[0].line() == "  fail  x: cannot be read: ValueError: bad header"


def test_reference_answers_of_the_training_set_must_parse(
    checks: Checks, experiment: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.jsonl").write_text(
        '{"prompt": "1+1", "answer": "2"}\n{"prompt": "1+2", "answer": " "}\n'
    )
    own = tmp_path / "own.yaml"
    own.write_text("extends: tried.yaml\ndataset: {kind: jsonl, path: own.jsonl}\n")
    code, found = checks(own)
    assert code == 1
    assert "own.jsonl:2" in found["dataset"]["text"]


def test_a_report_names_the_sweeps_that_have_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.report.synthetic import write_store

    store = write_store(tmp_path / "runs", seeds=(0,), steps=30)
    text = "name: mine\ntitle: Mine\nsources:\n  a: {sweep: [nowhere, kl_budget], arms: [%s]}\n"
    text += "  b: {sweep: kl_budgett}\n"
    file = tmp_path / "mine.yaml"
    file.write_text(text % "opd" + "blocks: [{kind: findings}]\n")
    assert check_files([file], store=store) == 0
    told = capsys.readouterr().out
    assert "source a: kl_budget, 3 arms" in told
    assert "source b: kl_budgett has not run" in told
    assert "Did you mean 'kl_budget'?" in told
    file.write_text(text % "opdd" + "blocks: [{kind: findings}]\n")
    assert check_files([file], store=store) == 1
    assert "kl_budget has no arm 'opdd'. Did you mean 'opd'?" in capsys.readouterr().out
