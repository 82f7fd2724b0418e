"""What a diagnostic is asked about: runs by id or folder, and sweeps by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trb_lab.driver.overview import find_run
from trb_lab.errors import UsageError
from trb_lab.spec import ExperimentSpec
from trb_lab.store.plans import planned
from trb_lab.store.run_dir import RunDir, Store, read_json


@dataclass(frozen=True)
class NamedRun:
    """A run and what a sweep calls it."""

    run: RunDir
    spec: ExperimentSpec
    arm: str
    setting: str = ""


def run_named(name: str, store: Store) -> RunDir:
    """The run of that id, of an id that begins so, or in that directory. Raises UsageError."""
    folder = Path(name).expanduser()
    if (folder / "config.json").exists():
        return RunDir(folder.absolute())
    return find_run(store, name)


def spec_of(run: RunDir) -> ExperimentSpec:
    """The spec that the run was planned with. Raises UsageError for what is no training run."""
    config = read_json(run.config) or {}
    if "spec" not in config:
        raise UsageError(
            f"{run.path} is no training run (its config.json has no spec): name a run of an arm."
        )
    return ExperimentSpec.model_validate(config["spec"])


def targets(names: Sequence[str], store: Store) -> list[NamedRun]:
    """Runs, and the begun trials of sweeps, in the order given; each run once.

    Raises UsageError for a name that is neither.
    """
    sweeps = {sweep.name: sweep for sweep in store.sweeps()}
    found: dict[Path, NamedRun] = {}
    for name in names:
        if name in sweeps:
            for row in (planned(sweeps[name]) or {}).get("trials", []):
                run = store.trial(row["run_id"])
                if run.config.exists():
                    target = NamedRun(run, spec_of(run), row["arm"], row.get("setting") or "")
                    found.setdefault(run.path, target)
        else:
            folder = Path(name).expanduser()
            run = (
                RunDir(folder.absolute())
                if (folder / "config.json").exists()
                else find_run(store, name, [*sweeps])
            )
            spec = spec_of(run)
            found.setdefault(run.path, NamedRun(run, spec, spec.warmup.kind))
    if not found:
        raise UsageError(f"nothing of {', '.join(names)} has run yet: trb-lab status")
    return list(found.values())
