"""Whether a report's folder still is what its runs give: the manifest that each build leaves, and `--check`.

Tables, CSV files and Markdown are made again and compared byte for byte. Drawings and the page come out otherwise
under another version of the drawing libraries, so they are compared with the hashes that were noted when they were
made: that tells whether anybody changed or lost them since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trb_lab.store.run_dir import RunDir, read_json, write_json

if TYPE_CHECKING:
    from .build import Report

MANIFEST = "manifest.json"
FORMAT = 1
DRAWN = frozenset({"svg", "pdf", "png"})
PAGE = "report.html"
OURS = ("*.csv", "tables/*", "figures/*")
"""Where files that no build makes are extra ones; elsewhere anybody may put theirs beside the report."""
SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class Change:
    """One file that is not as it should be."""

    file: str
    what: str
    """`missing`, `extra`, `differs` (from what the runs give), `edited` (since it was drawn)."""
    line: int | None = None
    """First line that differs, from 1."""
    here: str | None = None
    """That line as it stands in the folder; None past the file's end."""
    anew: str | None = None
    """That line as the runs give it."""

    def as_text(self) -> str:
        if self.line is None:
            return f"{self.file}: {self.what}"
        sides = (
            (name, "(end of file)" if s is None else s)
            for name, s in (("here", self.here), ("anew", self.anew))
        )
        return "\n".join(
            [f"{self.file}: {self.what} at line {self.line}", *(f"  {n}: {s}" for n, s in sides)]
        )


def files_of(folder: Path) -> set[str]:
    """Names of the files that the report in the folder has by its manifest; empty where there is none."""
    try:
        kept = read_json(folder / MANIFEST)
    except ValueError:
        return set()
    names = kept.get("files") if isinstance(kept, dict) else None
    return {n for n in names or () if not Path(n).is_absolute() and ".." not in Path(n).parts}


def write_manifest(out: Path, report: Report, files: Iterable[Path]) -> Path:
    """Note what a report was made of, and the SHA-256 of every file of it; the same inputs give the same bytes."""
    spec = json.dumps(report.spec.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
    runs = {}
    for name, source in sorted(report.sources.items()):
        trials = {str(r): source.store.trial(str(r)) for r in source.data.trials["run_id"]}
        references = {str(r): source.store.reference(str(r)) for r in source.data.references["run_id"]}
        runs[name] = {r: _config_hash(run) for r, run in sorted((trials | references).items())}
    value = {
        "format": FORMAT,
        "definition_sha256": hashlib.sha256(spec.encode()).hexdigest(),
        "config_sha256": runs,
        "code_versions": dict(sorted(report.code_versions.items())),
        "files": {p.relative_to(out).as_posix(): _hash(p) for p in sorted(set(files))},
    }
    write_json(out / MANIFEST, value)
    return out / MANIFEST


def _config_hash(run: RunDir) -> str | None:
    """Of a run's config.json; None for a run that has not begun."""
    return _hash(run.config) if run.config.exists() else None


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def compare(folder: Path, anew: Path) -> list[Change]:
    """What is not in `folder` as it should be. `anew` is the same report, just made. Empty where all is equal."""
    made = read_json(anew / MANIFEST)
    kept = _manifest(folder)
    if kept is None:
        return [Change(MANIFEST, "missing")]
    found = _facts(kept, made)
    drawn = {name for name in kept["files"] if _is_drawn(name)}
    for name in sorted(set(made["files"]) | drawn):
        here = folder / name
        if not here.is_file():
            found.append(Change(name, "missing"))
        elif name not in made["files"]:
            found.append(Change(name, "extra"))  # drawn once, and the runs give no such figure any more
        elif _is_drawn(name):
            if name not in kept["files"]:
                found.append(Change(name, "extra"))
            elif _hash(here) != kept["files"][name]:
                found.append(Change(name, "edited"))
        elif here.read_bytes() != (anew / name).read_bytes():
            found.append(_first_line(name, here, anew / name))
    known = set(made["files"]) | drawn
    found += [Change(name, "extra") for name in _ours(folder) if name not in known]
    return found


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        value = read_json(folder / MANIFEST)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("files"), dict) else None


def _facts(kept: Mapping[str, Any], made: Mapping[str, Any]) -> list[Change]:
    """What the manifest says besides hashes of files."""

    def told(value: Any) -> str:
        return json.dumps(value, sort_keys=True, ensure_ascii=False)[:SHOWN_CHARACTERS]

    keys = [key for key in made if key != "files" and kept.get(key) != made[key]]
    return [Change(f"{MANIFEST}: {key}", "differs", 1, told(kept.get(key)), told(made[key])) for key in keys]


def _is_drawn(name: str) -> bool:
    return name == PAGE or (name.startswith("figures/") and name.rpartition(".")[2] in DRAWN)


def _ours(folder: Path) -> list[str]:
    found = (p for pattern in OURS for p in folder.glob(pattern))
    return sorted(
        p.relative_to(folder).as_posix() for p in found if p.is_file() and not p.name.startswith(".")
    )


def _first_line(name: str, here: Path, anew: Path) -> Change:
    sides = [p.read_text(encoding="utf-8", errors="replace").split("\n") for p in (here, anew)]
    for number in range(max(map(len, sides))):
        a, b = (side[number] if number < len(side) else None for side in sides)
        if a != b:
            return Change(name, "differs", number + 1, *(s and s[:SHOWN_CHARACTERS] for s in (a, b)))
    return Change(name, "differs")  # in bytes that are no text
