"""Where hub files are looked for, what their version is, and what fetching says when there is no way through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trb_lab.errors import UsageError
from trb_lab.models import catalog
from trb_lab.spec.dataset import HubDataset
from trb_lab.spec.experiment import ModelSpec
from trb_lab.tasks import hub_files
from trb_lab.tasks.datasets import dataset_version, load_problems

from .hub_layouts import WRITERS, write_snapshot

AIME = "math-ai/aime25"
COMMIT = "a" * 40
OTHER = "b" * 40


def aime(**settings: Any) -> HubDataset:
    return HubDataset(id=AIME, split="test", prompt_column="problem", **settings)


@pytest.fixture(autouse=True)
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the hub, in a hidden folder as the real one is."""
    cache = tmp_path / ".cache" / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.delenv("TRB_LAB_DATA", raising=False)
    return cache


def test_a_snapshot_is_read_and_its_commit_is_its_version(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("datasets", reason="the extra `hub` is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    assert dataset_version(aime()) == "hub-unpinned"
    assert dataset_version(aime(revision=COMMIT)) == f"hub-{COMMIT}"
    write_snapshot(hub_cache, AIME, COMMIT)
    assert dataset_version(aime()) == dataset_version(aime(revision=COMMIT)) == f"hub-{COMMIT}"
    assert [p.answer for p in load_problems(aime())] == ["70"]
    assert hub_files.locate(aime(revision=OTHER)) is None
    write_snapshot(hub_cache, AIME, OTHER, default=False)
    found = hub_files.locate(aime(revision=OTHER))
    assert found is not None
    assert (found.folder.name, found.commit) == (OTHER, OTHER)


def test_the_data_folder_comes_before_the_cache(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_snapshot(hub_cache, AIME, COMMIT)
    monkeypatch.setenv("TRB_LAB_DATA", str(tmp_path / "data"))
    found = hub_files.locate(aime())
    assert found is not None
    assert found.commit == COMMIT
    own = tmp_path / "data" / AIME
    own.mkdir(parents=True)
    WRITERS[AIME](own)
    assert hub_files.locate(aime()) == hub_files.HubFiles(own, None)
    assert dataset_version(aime()).startswith("sha256-")


@pytest.mark.parametrize("name", ["name", "a/b/c", "/a/b", "./a", "~/a", "/", "a/"])
def test_what_is_no_hub_id(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if name != "/":
        with pytest.raises(UsageError, match=r"dataset\.id: .* neither a folder nor a hub id"):
            hub_files.locate(HubDataset(id=name))


def test_fetching_without_a_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError) as error:
        hub_files.fetch(aime())
    assert "could not fetch data set 'math-ai/aime25'" in str(error.value)
    assert "copy it to $TRB_LAB_DATA/math-ai/aime25" in str(error.value)
    with pytest.raises(
        UsageError, match=r"could not fetch 'owner/model'.*\n.*a model's name may be a folder"
    ):
        catalog.fetch("owner/model")


def test_a_model_that_was_fetched_is_found_though_other_files_stayed_behind(hub_cache: Path) -> None:
    """The cache knows that README.md is missing; a model does without it."""
    from huggingface_hub._snapshot_download import TreeCacheEntry, write_tree_cache

    folder = hub_cache / "models--owner--model"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text("{}")
    entry = TreeCacheEntry(size=2, blob_id="x", lfs_sha256=None, lfs_size=None, xet_hash=None)
    write_tree_cache(str(folder), COMMIT, {"config.json": entry, "README.md": entry})
    assert catalog.locate(ModelSpec(name="owner/model")) == snapshot
    write_tree_cache(str(folder), COMMIT, {"config.json": entry, "model.safetensors": entry})
    assert catalog.locate(ModelSpec(name="owner/model")) is None
