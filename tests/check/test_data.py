"""What `trb-lab check` says of data: sets that are not here, pins, prompts that are dropped, problems trained on."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from trb_lab.check import check_files

from ..tasks.hub_layouts import WRITERS, write_snapshot
from .conftest import Checks, Variant

LONG = "Tom has three red apples and buys four green ones at the market on Monday. How many?"
COMMIT = "c" * 40


@pytest.fixture(autouse=True)
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.delenv("TRB_LAB_DATA", raising=False)
    return cache


def jsonl(path: Path, *prompts: str) -> Path:
    path.write_text("".join(json.dumps({"prompt": p, "answer": "7"}) + "\n" for p in prompts))
    return path


def own_sets(training: Path, evaluation: Path) -> str:
    return (
        f"dataset: {{kind: jsonl, path: {training}}}\nrollout: {{max_prompt_tokens: 200}}\n"
        f"eval: {{sets: [{{name: own, dataset: {{kind: jsonl, path: {evaluation}}}}}]}}"
    )


def test_a_passage_of_thirteen_words_is_told_with_an_example(
    checks: Checks, variant: Variant, tmp_path: Path
) -> None:
    training = jsonl(tmp_path / "train.jsonl", "1+1", f"Think hard! {LONG.upper()}")
    evaluation = jsonl(tmp_path / "test.jsonl", "1-1", "2+2", LONG)
    code, found = checks(variant(own_sets(training, evaluation)))
    text = found["eval.sets[0] own"]["text"]
    assert (code, found["eval.sets[0] own"]["state"]) == (0, "warn")
    assert "1 of them share a passage with a training prompt (13 words in a row" in text
    assert "For example test.jsonl:3 in training prompt train.jsonl:2: 'tom has three red" in text


def test_short_problems_overlap_as_whole_texts_alone(
    checks: Checks, variant: Variant, tmp_path: Path
) -> None:
    training = jsonl(tmp_path / "train.jsonl", "1+1+1", "3 - 4")
    _, found = checks(variant(own_sets(training, jsonl(tmp_path / "test.jsonl", "1+1", "3 + 4"))))
    assert found["eval.sets[0] own"]["state"] == "ok"
    _, found = checks(variant(own_sets(training, jsonl(tmp_path / "test.jsonl", "1+1", "3 -  4"))))
    assert "1 of them share a passage" in found["eval.sets[0] own"]["text"]


def test_evaluation_prompts_over_the_limit_are_counted(
    checks: Checks, variant: Variant, tmp_path: Path
) -> None:
    evaluation = jsonl(tmp_path / "test.jsonl", "1+1", "+".join("1" * 40))
    changes = f"eval: {{sets: [{{name: own, dataset: {{kind: jsonl, path: {evaluation}}}}}]}}"
    _, found = checks(variant(changes))
    assert found["eval.sets[0] own"]["state"] == "warn"
    assert "1 of them are longer than rollout.max_prompt_tokens = 48" in found["eval.sets[0] own"]["text"]


def test_data_that_are_not_here_are_said_to_be_unchecked(checks: Checks, variant: Variant) -> None:
    code, found = checks(variant("dataset: openthoughts3\neval: {sets: [aime25, arith/easy]}"))
    assert code == 0
    for subject in ("dataset", "eval.sets[0] aime25"):
        assert found[subject]["state"] == "warn"
        assert found[subject]["text"].startswith("could not check: data set '")
        assert "trb-lab check --fetch FILE" in found[subject]["text"]
    easy = found["eval.sets[1] easy"]
    assert easy["state"] == "ok"
    assert "not compared with the training prompts, which could not be read" in easy["text"]


def test_a_set_without_a_pin(
    checks: Checks, variant: Variant, hub_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("datasets", reason="the extra `hub` is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    write_snapshot(hub_cache, "math-ai/aime25", COMMIT)
    settings = "kind: hub, id: math-ai/aime25, split: test, prompt_column: problem"
    free = f"rollout: {{max_prompt_tokens: 200}}\neval: {{sets: [{{name: a, dataset: {{{settings}}}}}]}}"
    assert check_files([variant(free)]) == 0
    _, found = checks(variant(free.replace("problem}", f"problem, revision: {COMMIT}}}")))
    assert found["eval.sets[0] a"]["state"] == "ok"


def test_the_line_about_a_pin(
    capsys: pytest.CaptureFixture[str], variant: Variant, hub_cache: Path, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    pytest.importorskip("datasets", reason="the extra `hub` is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    write_snapshot(hub_cache, "math-ai/aime25", COMMIT)
    settings = "kind: hub, id: math-ai/aime25, split: test, prompt_column: problem"
    check_files([variant(f"eval: {{sets: [{{name: a, dataset: {{{settings}}}}}]}}")])
    line = f"warn  eval.sets[0] a: 'math-ai/aime25' is not pinned: its owner can change it. Here lies commit {COMMIT};"
    assert line in capsys.readouterr().out


def test_left_out_problems_are_counted(checks: Checks, variant: Variant) -> None:
    pytest.importorskip("champ_dataset", reason="the extra `champ` is not installed")
    _, found = checks(variant("rollout: {max_prompt_tokens: 2000}\neval: {sets: [champ]}"))
    expected = "112 problems, 158 left out (no short answer that can be graded) x 4 samples"
    assert expected in found["eval.sets[0] champ"]["text"]


def test_nothing_is_downloaded_without_being_asked(
    checks: Checks, variant: Variant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Models and sets by hub id, sets in a folder, and a network that would answer."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    pytest.importorskip("datasets", reason="the extra `hub` is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setenv("TRB_LAB_DATA", str(tmp_path))
    (tmp_path / "openai/gsm8k").mkdir(parents=True)
    WRITERS["openai/gsm8k"](tmp_path / "openai/gsm8k")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    changes = "teacher: owner/model\nrollout: {max_prompt_tokens: 200}\neval: {sets: [gsm8k, math500]}"
    _, found = checks(variant(changes))
    assert found["teacher"]["text"].startswith("could not check: 'owner/model' is not on this machine")
    assert found["eval.sets[0] gsm8k"]["state"] == "ok"
    assert found["eval.sets[1] math500"]["text"].startswith("could not check")


def test_skd_over_the_shared_vocabulary_is_refused(checks: Checks, variant: Variant) -> None:
    code, found = checks(variant("warmup: {kind: skd, top_k: 5000}"))
    assert code == 1
    assert found["arm skd"]["state"] == "fail"
    assert "warmup.top_k is 5000 and the models share" in found["arm skd"]["text"]


def test_a_sweep_tells_once_for_trials_that_share_their_data(
    capsys: pytest.CaptureFixture[str], variant: Variant, tmp_path: Path
) -> None:
    variant(own_sets(jsonl(tmp_path / "train.jsonl", LONG), jsonl(tmp_path / "test.jsonl", LONG)))
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "name: s\nquestion: q\nbase: variant.yaml\nseeds: [0, 1]\n"
        "arms: {opd: {overrides: {warmup: {kind: opd}}}, trb: {grid: {warmup.kl_budget: [0.1, 0.2]}}}\n"
    )
    check_files([sweep])
    assert capsys.readouterr().out.count("share a passage") == 1
