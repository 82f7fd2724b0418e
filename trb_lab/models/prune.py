"""A copy of a model with fewer layers: a student where no small model of the family is at hand.

Embeddings, final norm and head stay, and so do the first and the last layer; the layers between are thinned out
evenly. Nothing is trained: such a copy is worse than its source, and worse than a model of its size.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trb_lab.cache import cache_dir
from trb_lab.errors import UsageError
from trb_lab.store.contents import MODEL_FILES, hash_model

from .catalog import BUNDLED, ResolvedModel, pruned_name

_LAYER = re.compile(r"^(.*\blayers\.)(\d+)(\..+)$")
_KEPT_FILES = tuple(p for p in MODEL_FILES if p not in ("config.json", "*.safetensors", "*.gguf"))
RECORD = "pruned.json"


def spread_evenly(total: int, count: int) -> list[int]:
    """`count` of the layers 0 to total - 1: the first, the last, and evenly spaced ones between; one is the first.

    Raises UsageError for a count that is no pruning.
    """
    if not 1 <= count < total:
        raise UsageError(
            f"--layers {count}: the model has {total} layers, and a pruned copy keeps from 1 to {total - 1}."
        )
    if count == 1:
        return [0]
    # Integer arithmetic that rounds halves up: the same layers on every machine.
    return [(2 * i * (total - 1) + count - 1) // (2 * (count - 1)) for i in range(count)]


def prune_model(
    source: ResolvedModel,
    out_dir: Path | None = None,
    *,
    layers: int | None = None,
    keep: Sequence[int] | None = None,
) -> tuple[Path, list[int]]:
    """Write the copy in transformers format; returns its folder and the layers that it kept.

    Without `out_dir` it goes to the cache folder, where the name `<model>-<n>layers` stands for it. The same source
    and layers give the same bytes.

    Args:
        layers: how many to keep, spread evenly.
        keep: which to keep, from 0, instead.

    Raises:
        UsageError: layers that the model does not have, a folder that is not empty, or a model whose layers are
            not alike.
    """
    config = json.loads((source.path / "config.json").read_text(encoding="utf-8"))
    total = config.get("num_hidden_layers")
    if not isinstance(total, int):
        raise UsageError(f"{source.path}/config.json names no num_hidden_layers: it cannot be pruned.")
    if (layers is None) == (keep is None):
        raise UsageError("say what to keep: either --layers N, or --keep 0,2,5.")
    kept = spread_evenly(total, layers) if layers is not None else _checked(list(keep or ()), total)
    folder = _folder(source, out_dir, kept, named=keep is None)
    temporary = folder.with_name(f".{folder.name}.tmp{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write_weights(source.path, temporary, kept, total)
        _write_json(temporary / "config.json", _pruned_config(config, kept))
        for pattern in _KEPT_FILES:
            for file in sorted(source.path.glob(pattern)):
                shutil.copyfile(file, temporary / file.name)
        _write_json(
            temporary / RECORD,
            {"source": source.spec.name, "source_content": hash_model(source.path), "kept_layers": kept},
        )
        if folder.exists():
            folder.rmdir()  # empty, as was checked
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder, kept


def _checked(keep: list[int], total: int) -> list[int]:
    if not keep or keep != sorted(set(keep)) or keep[0] < 0 or keep[-1] >= total:
        raise UsageError(
            f"--keep {','.join(map(str, keep))}: give layers from 0 to {total - 1}, each once and in order."
        )
    if len(keep) == total:
        raise UsageError(f"--keep names all {total} layers: leave at least one out.")
    return keep


def _folder(source: ResolvedModel, out_dir: Path | None, kept: list[int], *, named: bool) -> Path:
    """Where the copy goes; raises UsageError where something is there already."""
    if out_dir is None:
        if not named or source.spec.name not in BUNDLED:
            raise UsageError("name a folder for the copy: trb-lab models prune MODEL DIR --layers N")
        out_dir = cache_dir() / "models" / pruned_name(source.spec.name, len(kept))
    folder = out_dir.expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already and not empty: remove it, or give a new folder.")
    return folder


def _pruned_config(config: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    """The config of the copy: the number of layers, and every list that has an entry a layer."""
    total = config["num_hidden_layers"]
    pruned = {
        key: [value[i] for i in kept] if isinstance(value, list) and len(value) == total else value
        for key, value in config.items()
    }
    pruned["num_hidden_layers"] = len(kept)
    if isinstance(config.get("max_window_layers"), int):
        pruned["max_window_layers"] = sum(i < config["max_window_layers"] for i in kept)
    return pruned


def _write_weights(source: Path, folder: Path, kept: list[int], total: int) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    place = {old: new for new, old in enumerate(kept)}
    tensors: dict[str, Any] = {}
    parts: dict[int, set[str]] = {}
    files = sorted(source.glob("*.safetensors"))
    if not files:
        raise UsageError(f"no weights (*.safetensors) in {source}: save the model in transformers format.")
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in sorted(opened.keys()):
                match = _LAYER.match(name)
                if match is None:
                    tensors[name] = opened.get_tensor(name)
                    continue
                before, number, after = match[1], int(match[2]), match[3]
                parts.setdefault(number, set()).add(before + after)
                if number in place:
                    tensors[f"{before}{place[number]}{after}"] = opened.get_tensor(name)
    if sorted(parts) != list(range(total)) or any(found != parts[0] for found in parts.values()):
        raise UsageError(
            f"the layers of {source} are not all alike: only plain decoders can be pruned (Llama, Qwen3 and "
            "their like)."
        )
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(
        json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
