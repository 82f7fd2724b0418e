"""Content fingerprints of model folders and data files: the same bytes give the same text, wherever they lie.

Hashing gigabytes takes seconds, so the hash of a file is remembered by (path, size, mtime in ns): in the
process, and for large files in `contents.json` of the cache folder ($TRB_LAB_CACHE, else ~/.cache/trb_lab).
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from pathlib import Path

from trb_lab.cache import cache_dir

from .run_dir import read_json, write_json

MODEL_FILES = (
    "config.json",
    "generation_config.json",  # holds EOS ids
    "*.safetensors",
    "*.gguf",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.model",
)
"""Files of a model folder that decide what the model computes and how text becomes tokens."""
_IS_MODEL_FILE = re.compile("|".join(fnmatch.translate(pattern) for pattern in MODEL_FILES))

DISK_CACHE_FROM_BYTES = 4 * 2**20
"""Smaller files are hashed faster than the cache file is read."""

_Stamp = tuple[int, int]
_in_process: dict[str, tuple[_Stamp, str]] = {}


def _from_disk(key: str, stamp: _Stamp) -> str | None:
    try:
        entry = (read_json(cache_dir() / "contents.json") or {}).get(key)
    except (OSError, ValueError, AttributeError):
        return None  # a cache that cannot be read is no cache
    return str(entry[2]) if entry and tuple(entry[:2]) == stamp else None


def _to_disk(key: str, stamp: _Stamp, digest: str) -> None:
    path = cache_dir() / "contents.json"
    try:
        known = read_json(path) or {}
        write_json(path, {**known, key: [*stamp, digest]})
    except (OSError, ValueError, TypeError):
        return  # a home that cannot be written only costs time


def hash_file(path: Path | str) -> str:
    """sha256 of the file's bytes, hex. Symbolic links are followed."""
    stat = os.stat(path)
    stamp = (stat.st_size, stat.st_mtime_ns)
    key = os.path.abspath(path)
    known = _in_process.get(key)
    if known is not None and known[0] == stamp:
        return known[1]
    large = stat.st_size >= DISK_CACHE_FROM_BYTES
    digest = _from_disk(key, stamp) if large else None
    if digest is None:
        with open(path, "rb") as f:
            digest = hashlib.file_digest(f, "sha256").hexdigest()
        if large:
            _to_disk(key, stamp, digest)
    _in_process[key] = (stamp, digest)
    return digest


def hash_model(path: Path) -> str:
    """Fingerprint `sha256:<hex>` of a model folder (or of a single file, such as a GGUF).

    Raises FileNotFoundError when the folder holds none of MODEL_FILES.
    """
    if path.is_file():
        return f"sha256:{hash_file(path)}"
    with os.scandir(path) as entries:
        names = sorted(e.name for e in entries if _IS_MODEL_FILE.match(e.name) and e.is_file())
    if not names:
        raise FileNotFoundError(f"{path} holds no model files ({', '.join(MODEL_FILES)})")
    total = hashlib.sha256()
    folder = str(path)
    for name in names:
        total.update(f"{name}\0{hash_file(os.path.join(folder, name))}\n".encode())
    return f"sha256:{total.hexdigest()}"
