"""Write a run's student as a plain transformers folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from trb_lab.errors import LabError, UsageError
from trb_lab.spec import ExperimentSpec
from trb_lab.store.run_dir import RunDir, read_json

from .catalog import resolve
from .load import load_tokenizer, load_weights


def export_run(run_dir: RunDir, out_dir: Path) -> Path:
    """Export the student of the newest checkpoint: config, weights, tokenizer; loads with `from_pretrained`.

    The weights are those that the run works with (bfloat16 after a GPU run), the architecture and tokenizer are
    the initial student's. Raises UsageError where the directory is no run, has no checkpoint, or `out_dir` is
    not empty.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = read_json(run_dir.config)
    if config is None:
        raise UsageError(f"{run_dir.path} is not a run directory: it has no config.json.")
    if out_dir.exists() and any(out_dir.iterdir()):
        raise UsageError(f"{out_dir} is not empty: give a new folder.")
    weights = _newest_weights(run_dir)
    source = resolve(ExperimentSpec.model_validate(config["spec"]).student)
    tensors = load_file(weights)
    dtype = next(t.dtype for t in tensors.values() if t.is_floating_point())
    model_config = AutoConfig.from_pretrained(source.path, local_files_only=True, trust_remote_code=False)
    network = AutoModelForCausalLM.from_config(model_config, dtype=dtype)
    with torch.no_grad():
        load_weights(network, tensors)
    out_dir.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(out_dir)
    load_tokenizer(source).save_pretrained(out_dir)
    if (source.path / "generation_config.json").exists():  # the stop ids live here
        shutil.copy(source.path / "generation_config.json", out_dir / "generation_config.json")
    return out_dir


def _newest_weights(run_dir: RunDir) -> Path:
    found = sorted(run_dir.checkpoints.glob("step_*/student.safetensors"))
    complete = [p for p in found if (p.parent / "state.json").exists()]
    if not complete:
        raise LabError(f"{run_dir.path} has no checkpoint to export: let it run to its first checkpoint.")
    return complete[-1]
