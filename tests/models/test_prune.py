"""Layer-pruned copies: the same model with layers taken out, the same bytes each time, silly wishes refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tests.tiny import tiny_tokenizer
from trb_lab.check.findings import Findings
from trb_lab.check.preflight import _model
from trb_lab.cli import main
from trb_lab.errors import UsageError
from trb_lab.models.catalog import ResolvedModel, locate, resolve
from trb_lab.models.prune import prune_model, spread_evenly
from trb_lab.spec.experiment import ModelSpec

SIZES = {
    "vocab_size": 12,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "head_dim": 8,
}


def saved(folder: Path, kind: str, layers: int = 6, shard: str = "5GB") -> ResolvedModel:
    torch.manual_seed(0)
    config, build = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}[kind]
    network = build(
        config(**SIZES, num_key_value_heads=1, num_hidden_layers=layers, tie_word_embeddings=kind == "llama")
    )
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.3)
    network.save_pretrained(folder, max_shard_size=shard)
    tiny_tokenizer(12, 0).save_pretrained(folder)
    return ResolvedModel(ModelSpec(name=str(folder)), folder)


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("wish", [{"layers": 4}, {"keep": [0, 1, 4]}])
def test_it_computes_what_the_model_does_without_those_layers(tmp_path: Path, kind: str, wish: dict) -> None:
    source = saved(tmp_path / "whole", kind, shard="8KB")  # several weight files
    assert len(list(source.path.glob("*.safetensors"))) > 1
    folder, kept = prune_model(source, tmp_path / "copy", **wish)
    assert kept == wish.get("keep", [0, 2, 3, 5])
    ids = torch.arange(2, 9)[None]
    expected = AutoModelForCausalLM.from_pretrained(source.path)
    expected.model.layers = torch.nn.ModuleList(expected.model.layers[i] for i in kept)
    copy = AutoModelForCausalLM.from_pretrained(folder)
    assert copy.config.num_hidden_layers == len(kept) == len(copy.model.layers)
    with torch.no_grad():
        torch.testing.assert_close(copy(ids).logits, expected(ids, use_cache=False).logits)


def test_files_around_the_weights(tmp_path: Path) -> None:
    source = saved(tmp_path / "whole", "qwen3")
    folder, kept = prune_model(source, tmp_path / "copy", layers=3)
    config = json.loads((folder / "config.json").read_text())
    assert len(config["layer_types"]) == config["num_hidden_layers"] == 3
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (folder / name).read_bytes() == (source.path / name).read_bytes()
    record = json.loads((folder / "pruned.json").read_text())
    assert record["kept_layers"] == kept == [0, 3, 5]
    assert record["source_content"].startswith("sha256:")


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    source = saved(tmp_path / "whole", "llama", shard="8KB")
    folders = [prune_model(source, tmp_path / name, layers=3)[0] for name in ("a", "b")]
    contents = [{f.name: f.read_bytes() for f in folder.iterdir()} for folder in folders]
    assert contents[0] == contents[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "whole"]  # nothing half-made is left


def test_layers_are_spread_from_the_first_to_the_last() -> None:
    assert spread_evenly(9, 1) == [0]
    for total in range(3, 40):
        for count in range(2, total):
            kept = spread_evenly(total, count)
            gaps = [b - a for a, b in itertools.pairwise(kept)]
            assert (kept[0], kept[-1], len(kept)) == (0, total - 1, count)
            assert min(gaps) >= 1
            assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"layers": 6}, "keeps from 1 to 5"),
        ({"layers": 0}, "keeps from 1 to 5"),
        ({"keep": [0, 6]}, "layers from 0 to 5"),
        ({"keep": [1, 0]}, "each once and in order"),
        ({"keep": []}, "layers from 0 to 5"),
        ({"keep": [0, 1, 2, 3, 4, 5]}, "leave at least one out"),
        ({}, "either --layers N, or --keep"),
        ({"layers": 3, "keep": [0]}, "either --layers N, or --keep"),
    ],
)
def test_silly_wishes_are_refused(tmp_path: Path, wish: dict, message: str) -> None:
    source = saved(tmp_path / "whole", "llama")
    with pytest.raises(UsageError, match=message):
        prune_model(source, tmp_path / "copy", **wish)
    assert not (tmp_path / "copy").exists()


def test_places_and_models_that_cannot_be_taken(tmp_path: Path) -> None:
    source = saved(tmp_path / "whole", "llama")
    with pytest.raises(UsageError, match="there already and not empty"):
        prune_model(source, source.path, layers=3)
    with pytest.raises(UsageError, match="name a folder for the copy"):
        prune_model(source, layers=3)
    config = json.loads((source.path / "config.json").read_text())
    (source.path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 7}))
    with pytest.raises(UsageError, match="not all alike"):
        prune_model(source, tmp_path / "copy", layers=3)


def test_a_pruned_bundled_model_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRB_LAB_CACHE", str(tmp_path))
    total = json.loads((resolve(ModelSpec(name="arith-teacher")).path / "config.json").read_text())[
        "num_hidden_layers"
    ]
    name, command = f"arith-teacher-{total - 1}layers", f"models prune arith-teacher --layers {total - 1}"
    spec = ModelSpec(name=name)
    assert locate(spec) is None
    with pytest.raises(UsageError, match=f"Make it: trb-lab {command}"):
        resolve(spec)
    findings = Findings()
    assert _model("student", spec, findings) is None
    assert findings.all[0].state == "warn"
    assert f"trb-lab {command}" in findings.all[0].text
    assert main(command.split()) == 0
    assert f"written: {tmp_path / 'models' / name}" in capsys.readouterr().out
    assert locate(spec) == tmp_path / "models" / name
    assert main(command.split()) == 2  # it is there


def test_the_command_takes_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path / "whole", "llama")
    assert main(["models", "prune", str(source.path), str(tmp_path / "copy"), "--keep", "0,5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept_layers"] == [0, 5]
    assert main(["models", "prune", str(source.path), str(tmp_path / "c"), "--keep", "0,x"]) == 2
    assert "give layers with commas between" in capsys.readouterr().err
