"""The records of a sweep: the files that a report reads, and no others. One definition for archives and the mirror.

An archive of them is small enough to lie beside the report that was made of it, and makes the same report again
without the store. Checkpoints, logs, locks and samples of steps that no report shows are left out.

States are told from the records as from the store (status.state_of), with one exception: a worker that lived when
the records were taken is not in them, so a trial that ran then is `interrupted` here, and one that was about to
begin is `new`.
"""

from __future__ import annotations

import io
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath

from trb_lab.errors import LabError, UsageError, did_you_mean

from .plans import planned
from .records_public import published
from .run_dir import RunDir, Store, SweepDir

FIRST_STEP = frozenset({0})
"""Steps whose samples every report may show."""
LARGEST_BYTES = 4 << 30
"""Of an unpacked archive: what is larger was not made by `pack`."""
SAMPLES = RunDir(Path()).samples.name
COMPRESSION = 6 | lzma.PRESET_EXTREME
"""Of xz; higher presets take ten times the memory for a few percent."""


def run_records(run: RunDir, steps: Collection[int] | None = None) -> list[Path]:
    """The files of one run that a report reads and that exist; of samples those of `steps`, all where it is None."""
    named = (
        run.config,
        run.provenance,
        run.attempts,
        run.data,
        run.metrics,
        run.timing,
        run.positions,
        run.sft,
        run.sft_timing,
        run.result,
    )
    items = sorted(run.items.glob("[!._]*.parquet"))
    samples = [p for p in sorted(run.samples.glob("[!._]*.parquet")) if steps is None or _is_of(p, steps)]
    return [path for path in named if path.is_file()] + items + samples


def is_wanted(name: str, steps: Collection[int] | None) -> bool:
    """Whether a record, named from its run's folder on, is no file of samples, or one with rollouts of the steps."""
    folder, _, last = name.rpartition("/")
    return folder != SAMPLES or steps is None or _is_of(Path(last), steps)


def _is_of(samples: Path, steps: Collection[int]) -> bool:
    """Whether a file of samples holds rollouts of one of the steps; one whose name tells no step may."""
    name = re.fullmatch(r"step_(\d+)(?:-(.+))?", samples.stem)
    return name is None or (int(name[1]) in steps and name[2] in (None, "rollout"))


def sweep_records(sweep: SweepDir) -> list[Path]:
    """The sweep's own files: its plan, what its searches decided, and what they came to."""
    searches = [p for end in ("jsonl", "summary.json") for p in sorted(sweep.searches.glob(f"[!._]*.{end}"))]
    return [sweep.plan, *searches]


def planned_runs(store: Store, sweep: SweepDir) -> list[RunDir]:
    """Directories of the plan's trials and references, each once, begun or not."""
    plan = planned(sweep) or {}
    trials = dict.fromkeys(row["run_id"] for row in plan.get("trials", []))
    references = dict.fromkeys(row["run_id"] for row in plan.get("references", []))
    return [*map(store.trial, trials), *map(store.reference, references)]


def record_files(store: Store, sweep: str, steps: Collection[int] | None = FIRST_STEP) -> list[Path]:
    """Every file of the store that a report on the sweep reads; samples of `steps` alone, of all where it is None.

    Raises UsageError for a sweep that the store does not have.
    """
    names = [s.name for s in store.sweeps()]
    if sweep not in names:
        raise UsageError(
            f"no sweep '{sweep}' in {store.root}.{did_you_mean(sweep, names)} "
            f"Sweeps there: {', '.join(names) or 'none yet'}."
        )
    found = store.sweep(sweep)
    runs = planned_runs(store, found)
    return [*sweep_records(found), *(path for run in runs for path in run_records(run, steps))]


def diagnostic_records(folder: Path) -> list[Path]:
    """The files of a diagnostic's result: everything in its folder but what is hidden and what was drawn."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.relative_to(folder).parts[0] != "figures"
    ]


def pack(
    store: Store,
    sweeps: Sequence[str],
    diagnostics: Sequence[str],
    path: Path,
    steps: Collection[int] = FIRST_STEP,
) -> int:
    """Write the records of sweeps and diagnostics as a tar.xz; the same records give the same bytes.

    Host names, command lines and folders of the machine are left out (records_public), as are diagnostics that the
    store does not have: a report does without them. Returns the number of files. Raises UsageError for an unknown
    sweep.
    """
    files = {p for sweep in sweeps for p in record_files(store, sweep, steps)}
    files |= {p for name in diagnostics for p in diagnostic_records(store.diagnostic(name))}
    names = {p.relative_to(store.root).as_posix(): p for p in files}
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(names, key=_alike):
            _add(archive, name, published(name, names[name].read_bytes()))
    _write(path, lzma.compress(data.getvalue(), preset=COMPRESSION))
    return len(names)


def _write(path: Path, content: bytes) -> None:
    """Under another name first: whoever reads the archive sees a whole one. Raises UsageError for what is no file."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no plain file: name one for the archive, as in --pack records.tar.xz.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _alike(name: str) -> tuple[str, str]:
    """Sorts files of one kind side by side, where they compress each other."""
    kind = next((p for p in PurePosixPath(name).parts if p.endswith(".parquet")), PurePosixPath(name).name)
    return kind, name


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)  # owner, group and time are 0 from the start
    entry.size, entry.mode = len(content), 0o644
    archive.addfile(entry, io.BytesIO(content))


def unpack(path: Path, folder: Path) -> Store:
    """The records of an archive as a store in `folder`.

    Raises LabError, which names the archive, where it is missing, damaged, or holds anything but plain files below
    the store: nothing outside `folder` is ever written.
    """
    try:
        with tarfile.open(path, "r:xz") as archive:
            _extract(archive, path, folder)
    except FileNotFoundError as error:
        raise LabError(
            f"no such archive of records: {path}. `trb-lab report WHAT --pack FILE` makes one."
        ) from error
    except IsADirectoryError as error:
        raise LabError(f"{path} is a folder, and an archive of records (tar.xz) is wanted.") from error
    except (tarfile.TarError, lzma.LZMAError, EOFError, zlib.error, ValueError) as error:
        raise LabError(
            f"{path} is damaged or no archive of records ({error}). Pack it again from the store, or take the copy "
            "that was published."
        ) from error
    return Store(folder.absolute())


def _extract(archive: tarfile.TarFile, path: Path, folder: Path) -> None:
    total, found = 0, 0
    for entry in archive:
        parts = PurePosixPath(entry.name).parts
        bad = not parts or entry.name.startswith("/") or ".." in parts or "\\" in entry.name
        if bad or not entry.isreg():
            kind = "a path outside the store" if bad else "not a plain file"
            raise LabError(f"{path}: the entry '{entry.name}' is {kind}; nothing of it is used.")
        total += entry.size
        if total > LARGEST_BYTES:
            raise LabError(
                f"{path} unpacks to more than {LARGEST_BYTES >> 30} GiB: it was not made by --pack."
            )
        content = archive.extractfile(entry)
        assert content is not None
        target = folder / Path(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.read())
        found += 1
    if not found:
        raise LabError(f"{path} holds no records.")


def first_known(known: Collection[str], wanted: Iterable[Sequence[str]]) -> list[str]:
    """Of each list of sweeps the first that is known, each once; where none of a list is, its last."""
    return list(dict.fromkeys(next((n for n in names if n in known), names[-1]) for names in wanted))
