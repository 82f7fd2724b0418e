"""What makes a trial another trial, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from trb_lab.errors import UsageError
from trb_lab.spec import ExperimentSpec
from trb_lab.spec.dataset import EvalSet, HubDataset
from trb_lab.store import contents, identity
from trb_lab.store.run_dir import Store, read_json
from trb_lab.tasks.datasets import dataset_version
from trb_lab.trial import plan_trial, prepare, set_fingerprint

from .fakes import spec

CONTENTS = {"student": "s", "teacher": "t", "dataset": "d"}


def run_id(changed: ExperimentSpec, **content: str) -> str:
    return identity.run_id(changed, identity.identity(changed, {**CONTENTS, **content}))


BASE = run_id(spec())


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"resources": {"cpu_threads": 3, "device": "cuda"}},
        {"checkpoint": {"every": 1}},
        {"eval": {"sets": ["arith/hard"]}},
        {"student": {"name": "/elsewhere", "revision": "abc"}},
        {"teacher": "/elsewhere"},
        {"warmup": {"kind": "trb", "kl_budget": 5e-2, "steps": 5, "anneal": "linear"}},
    ],
)
def test_the_same_trial(changes: dict[str, Any]) -> None:
    assert run_id(spec(**changes)) == BASE


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 11},
        {"seed": 1},
        {"warmup": {"kind": "opd"}},
        {"warmup": {"kind": "trb", "kl_budget": 0.051, "steps": 5}},
        {"eval": {"samples": 5}},
        {"student": {"name": "arith-student", "template": "plain"}},
        {"dtype": "bfloat16"},
        {"dataset": {"kind": "arith", "seed": 1}},
    ],
)
def test_another_trial(changes: dict[str, Any]) -> None:
    assert run_id(spec(**changes)) != BASE


@pytest.mark.parametrize("role", ["student", "teacher", "dataset"])
def test_content_makes_another_trial(role: str) -> None:
    assert run_id(spec(), **{role: "changed"}) != BASE


def test_spelling_of_numbers_does_not_matter() -> None:
    def lr(text: str) -> str:
        return run_id(spec(optim={"lr": yaml.safe_load(text)}))

    assert lr("1e-2") == lr("0.01") == lr("1.0e-2")
    assert run_id(spec(optim={"grad_clip": 1})) == run_id(spec(optim={"grad_clip": 1.0})) == BASE
    budgets = [run_id(spec(warmup={"kind": "trb", "kl_budget": zero, "steps": 5})) for zero in (0, 0.0, -0.0)]
    assert len(set(budgets)) == 1


def test_run_id_names_arm_and_seed() -> None:
    assert run_id(spec(seed=7)).startswith("trb-s7-")
    assert len(BASE.rpartition("-")[2]) == 10


def test_a_field_added_later_keeps_old_identities(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = identity.identity(spec(), CONTENTS)
    assert "dtype" in payload["spec"]
    monkeypatch.setattr(identity, "OMITTED_AT_VALUE", {"dtype": "auto"})
    assert "dtype" not in identity.identity(spec(), CONTENTS)["spec"]
    assert "dtype" in identity.identity(spec(dtype="float32"), CONTENTS)["spec"]


def model_folder(path: Path, weights: bytes) -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(weights)
    (path / "tokenizer.json").write_text("{}")
    (path / "README.md").write_text(str(path))
    return path


def test_a_model_is_its_files(tmp_path: Path) -> None:
    a, b, c = (model_folder(tmp_path / n, w) for n, w in (("a", b"1"), ("b", b"1"), ("c", b"2")))
    assert contents.hash_model(a) == contents.hash_model(b) != contents.hash_model(c)
    (b / "tokenizer.json").write_text("{ }")
    assert contents.hash_model(a) != contents.hash_model(b)


def test_large_files_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRB_LAB_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x" * contents.DISK_CACHE_FROM_BYTES)
    first = contents.hash_file(file)
    monkeypatch.setattr(contents, "_in_process", {})
    monkeypatch.setattr(contents.hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert contents.hash_file(file) == first
    monkeypatch.undo()
    monkeypatch.setenv("TRB_LAB_CACHE", str(tmp_path / "cache"))
    file.write_bytes(b"y" * contents.DISK_CACHE_FROM_BYTES)
    assert contents.hash_file(file) != first


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, str]:
    return {n: str(model_folder(tmp_path / n, n.encode())) for n in ("student", "teacher")}


def test_prepare_adopts_and_refuses(store: Store, pair: dict[str, str], tmp_path: Path) -> None:
    made = prepare(spec(**pair), store)
    config = read_json(made.config)
    assert made.path == store.trial(config["run_id"]).path
    assert ExperimentSpec.model_validate(config["spec"]) == spec(**pair)
    assert prepare(spec(**pair, name="other"), store).path == made.path
    with pytest.raises(UsageError, match=r"warmup\.kl_budget: 0\.05 -> 0\.1") as error:
        prepare(spec(**pair, warmup={"kind": "trb", "kl_budget": 0.1, "steps": 5}), store, made.path)
    assert "seed" not in str(error.value)
    with pytest.raises(UsageError, match="neither empty nor a run directory"):
        prepare(spec(**pair), store, tmp_path)


def test_data_enter_by_content(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"prompt": "1+1"}\n')
    data = spec(dataset={"kind": "jsonl", "path": str(file)}).dataset
    before = dataset_version(data)
    file.write_text('{"prompt": "1+2"}\n')
    assert dataset_version(data) != before
    with pytest.raises(UsageError, match="does not exist"):
        dataset_version(spec(dataset={"kind": "jsonl", "path": str(tmp_path / "no.jsonl")}).dataset)


def test_a_thousand_trials_are_planned_at_once(store: Store, pair: dict[str, str]) -> None:
    specs = [spec(**pair, seed=seed) for seed in range(1000)]
    plan_trial(specs[0])
    assert len({plan_trial(s).run_id for s in specs}) == 1000


def test_fields_that_hub_sets_gained_keep_old_identities() -> None:
    """Values from before `where`, `unique`, `shuffle_seed`, `answer_after` and `unreadable_answers` existed."""
    old = {"kind": "hub", "id": "a/b", "revision": "x"}
    assert set_fingerprint(EvalSet(name="s", dataset=HubDataset(**old))) == "31c1f9b66c912ab6"
    dumped = identity.identity(spec(dataset=old), CONTENTS)["spec"]["dataset"]
    assert set(dumped) == {
        "kind", "id", "config", "split", "revision", "prompt_column", "answer_column", "limit",
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"where": {"domain": "math"}},
        {"unique": True},
        {"shuffle_seed": 0},
        {"answer_after": "####"},
        {"unreadable_answers": "drop"},
    ],
)
def test_what_selects_rows_makes_another_set_and_another_trial(change: dict[str, Any]) -> None:
    old = {"kind": "hub", "id": "a/b", "revision": "x"}
    sets = [EvalSet(name="s", dataset=HubDataset(**settings)) for settings in (old, {**old, **change})]
    assert set_fingerprint(sets[0]) != set_fingerprint(sets[1])
    assert run_id(spec(dataset=old)) != run_id(spec(dataset={**old, **change}))
