import json
import sys
from pathlib import Path

import pytest

from trb_lab.errors import MissingExtra, UsageError
from trb_lab.spec.dataset import HubDataset
from trb_lab.tasks.datasets import dataset_version, load_problems
from trb_lab.tasks.hub_files import NotAtHand


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"trb-lab\[hub\]"):
        load_problems(HubDataset(id="owner/name"))


class TestWithThePackage:
    @pytest.fixture(autouse=True)
    def _package(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets", reason="the extra `hub` is not installed")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    @pytest.fixture
    def parquet_folder(self, tmp_path: Path) -> Path:
        """The layout of MATH500-like repositories."""
        pandas = pytest.importorskip("pandas")
        folder = tmp_path / "math"
        (folder / "data").mkdir(parents=True)
        for split, count in (("train", 4), ("test", 2)):
            rows = pandas.DataFrame(
                {"problem": [f"{split} {i}" for i in range(count)], "answer": ["2^n"] * count}
            )
            rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
        return folder

    def test_parquet_folder(self, parquet_folder: Path) -> None:
        spec = {"id": str(parquet_folder), "prompt_column": "problem"}
        test = load_problems(HubDataset(split="test", **spec))
        assert [(p.prompt, p.answer, p.id) for p in test] == [
            ("test 0", "2^n", "math/test/0"),
            ("test 1", "2^n", "math/test/1"),
        ]
        assert len(load_problems(HubDataset(split="train", limit=3, **spec))) == 3
        assert load_problems(HubDataset(**spec, answer_column=None))[0].answer is None

    def test_jsonl_folder_with_a_list_of_one_answer(self, tmp_path: Path) -> None:
        folder = tmp_path / "olympiad"
        folder.mkdir()
        (folder / "train.jsonl").write_text(json.dumps({"question": "q", "final_answer": ["7"]}) + "\n")
        spec = HubDataset(id=str(folder), prompt_column="question", answer_column="final_answer")
        assert [p.answer for p in load_problems(spec)] == ["7"]

    def test_what_is_not_there_is_named(self, parquet_folder: Path, tmp_path: Path) -> None:
        folder = str(parquet_folder)
        with pytest.raises(
            UsageError, match=r"no column 'problm', but problem, answer\. Did you mean 'problem'"
        ):
            load_problems(HubDataset(id=folder, prompt_column="problm"))
        with pytest.raises(UsageError, match=r"no column 'gold'.*answer_column: null"):
            load_problems(HubDataset(id=folder, prompt_column="problem", answer_column="gold"))
        with pytest.raises(UsageError, match=r'"validation".*test'):
            load_problems(HubDataset(id=folder, split="validation"))
        with pytest.raises(UsageError, match="'main' not found"):
            load_problems(HubDataset(id=folder, config="main"))
        (tmp_path / "empty").mkdir()
        with pytest.raises(UsageError, match="cannot load the folder"):
            load_problems(HubDataset(id=str(tmp_path / "empty")))
        with pytest.raises(UsageError, match="neither a folder nor a hub id"):
            load_problems(HubDataset(id=str(tmp_path / "absent")))

    def test_offline_says_how_to_fetch_ahead(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(NotAtHand) as error:
            load_problems(HubDataset(id="owner/name", revision="abc"))
        text = str(error.value)
        assert "'owner/name' is not on this machine (HF_HUB_OFFLINE is set)" in text
        assert "trb-lab check --fetch FILE" in text
        assert "trb-lab models fetch" in text
        assert "hf download --repo-type dataset owner/name --revision abc --local-dir DIR" in text
        assert "$TRB_LAB_DATA/owner/name" in text

    def test_version_of_a_folder_follows_its_content(self, parquet_folder: Path) -> None:
        spec = HubDataset(id=str(parquet_folder))
        before = dataset_version(spec)
        assert before == dataset_version(spec)
        (parquet_folder / "more.jsonl").write_text("{}\n")
        assert dataset_version(spec) != before
