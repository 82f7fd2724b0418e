"""`trb-lab check --fetch`, with a hub that is a function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trb_lab.cli import main

from ..tasks.hub_layouts import write_snapshot
from .conftest import Checks, Variant

COMMIT = "563bb8404243c5f09de6ec262f2db674fe5bce9b"
FILE = """\
student: owner/student
teacher: {name: owner/teacher, revision: abc}
eval: {sets: [aime25, gsm8k, arith/easy]}
"""

Asked = list[tuple[str, str, str | None]]


@pytest.fixture
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.delenv("TRB_LAB_DATA", raising=False)
    return cache


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Asked:
    """What was downloaded: kind, id and revision."""
    import huggingface_hub

    found: Asked = []
    local = huggingface_hub.snapshot_download

    def download(
        repo_id: str, *, repo_type: str | None = None, revision: str | None = None, **options: Any
    ) -> str:
        if options.get("local_files_only"):
            return str(local(repo_id, repo_type=repo_type, revision=revision, **options))
        if repo_id == "owner/teacher":
            raise ConnectionError("no route\nand more")
        found.append((repo_type or "model", repo_id, revision))
        return str(hub_cache / repo_id)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return found


def test_everything_that_is_named_is_fetched_once(
    checks: Checks, variant: Variant, asked: Asked, hub_cache: Path
) -> None:
    write_snapshot(hub_cache, "math-ai/aime25", COMMIT)
    code, found = checks(variant(FILE), fetch=True)
    assert asked == [
        ("model", "owner/student", None),
        ("dataset", "openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866"),
    ]
    assert found["fetch owner/student"]["text"].startswith("fetched: ")
    assert found["fetch math-ai/aime25"]["text"].startswith("already here: ")
    assert (code, found["fetch owner/teacher"]["state"]) == (1, "fail")
    text = found["fetch owner/teacher"]["text"]
    assert (
        "could not fetch 'owner/teacher': ConnectionError: no route\nWhere this machine has no network"
        in text
    )


def test_nothing_is_fetched_without_the_option(checks: Checks, variant: Variant, asked: Asked) -> None:
    _, found = checks(variant(FILE))
    assert asked == []
    assert not [subject for subject in found if subject.startswith("fetch")]


def test_all_trials_of_a_sweep_are_fetched_for(
    variant: Variant, asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variant("dataset: openthoughts3")
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "name: s\nquestion: q\nbase: variant.yaml\nseeds: [0]\n"
        "arms: {a: {overrides: {warmup: {kind: opd}}}, b: {overrides: {student: owner/other}}}\n"
    )
    assert main(["check", "--fetch", str(sweep)]) == 0
    assert sorted(asked) == [
        ("dataset", "open-thoughts/OpenThoughts3-1.2M", "61bcf9d4eb38b30295efc2021227a63cc5bb34c8"),
        ("model", "owner/other", None),
    ]
    assert "  ok    fetch owner/other: fetched: " in capsys.readouterr().out
