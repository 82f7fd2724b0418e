"""A trial: an experiment spec with its identity, and the run directory made for it.

The driver plans with this without torch; the worker and the command line prepare the same directory with it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from trb_lab.errors import UsageError
from trb_lab.models import catalog
from trb_lab.spec import ExperimentSpec
from trb_lab.spec.dataset import EvalSet
from trb_lab.spec.experiment import ModelSpec
from trb_lab.store.contents import hash_model
from trb_lab.store.identity import OMITTED_AT_VALUE, canonical_json, differences, identity, run_id
from trb_lab.store.run_dir import RunDir, Store, read_json, write_json
from trb_lab.tasks.datasets import dataset_version

CONFIG_FORMAT = 1


@dataclass(frozen=True)
class PlannedTrial:
    """A spec, what of it decides the result, and the name that follows."""

    run_id: str
    identity: dict[str, Any]
    spec: ExperimentSpec


@lru_cache(maxsize=256)
def _locate(name: str, revision: str | None) -> Path | None:
    """One look-up a model, however many trials share it (a hub look-up imports a large package)."""
    return catalog.locate(ModelSpec(name=name, revision=revision))


def model_fingerprint(model: ModelSpec) -> str:
    """Content hash of the model's files, or `hub:<id>@<revision>` where they are not on this machine."""
    path = _locate(model.name, model.revision)
    return hash_model(path) if path is not None else f"hub:{model.name}@{model.revision or 'main'}"


def plan_trial(spec: ExperimentSpec) -> PlannedTrial:
    """Identity and run id of a spec. Quick: file hashes and look-ups are remembered.

    Raises UsageError for a model or data file that does not exist, MissingExtra for a missing generator.
    """
    contents = {
        "student": model_fingerprint(spec.student),
        "teacher": model_fingerprint(spec.teacher),
        "dataset": dataset_version(spec.dataset),
    }
    payload = identity(spec, contents)
    return PlannedTrial(run_id(spec, payload), payload, spec)


def set_fingerprint(eval_set: EvalSet) -> str:
    """What an evaluation set holds, whatever it is called, and its own number of samples: 16 hex digits."""
    print_ = _data_fingerprint(eval_set.dataset.model_dump_json(), dataset_version(eval_set.dataset))
    if eval_set.samples is None:
        return print_
    return hashlib.sha256(f"{print_} x {eval_set.samples}".encode()).hexdigest()[:16]


@lru_cache(maxsize=1024)
def _data_fingerprint(dataset: str, version: str) -> str:
    fields = json.loads(dataset)
    fields.pop("path", None)  # content instead
    for dotted, value in OMITTED_AT_VALUE.items():  # fields that are younger than the oldest fingerprints
        block, _, key = dotted.partition(".")
        if block == "dataset" and key in fields and fields[key] == value:
            del fields[key]
    return hashlib.sha256(canonical_json({**fields, "content": version}).encode()).hexdigest()[:16]


def _refuse_foreign_directory(run_dir: RunDir) -> None:
    """A directory that holds other people's files is not filled with ours."""
    ours = {p.name for p in (run_dir.claim, run_dir.lock, run_dir.log, run_dir.attempts)}
    names = [p.name for p in run_dir.path.glob("*")]
    foreign = sorted(name for name in names if name not in ours and not name.startswith(".config.json."))
    if foreign:
        raise UsageError(
            f"{run_dir.path} is neither empty nor a run directory (it holds {foreign[0]!r}). "
            "Give --run-dir a new or empty directory."
        )


def _bring_up_to_date(run_dir: RunDir, config: dict[str, Any], spec: ExperimentSpec) -> None:
    """Take resources, checkpoint and evaluation sets from `spec`; sets that another spec asked for stay."""
    wanted = spec.model_dump(mode="json")
    old = config["spec"]
    named = {entry["name"] for entry in wanted["eval"]["sets"]}
    sets = [*wanted["eval"]["sets"], *(entry for entry in old["eval"]["sets"] if entry["name"] not in named)]
    updated = {
        **old,
        "resources": wanted["resources"],
        "checkpoint": wanted["checkpoint"],
        "alarms": wanted["alarms"],
        "eval": {**wanted["eval"], "sets": sets},
    }
    if updated != old:
        write_json(run_dir.config, {**config, "spec": updated})


def prepare(spec: ExperimentSpec, store: Store, run_dir: Path | None = None) -> RunDir:
    """Make the trial's directory with its config.json, or adopt the one that is there.

    `run_dir` overrides the place that the store gives it. What does not belong to the identity (resources,
    checkpoint, evaluation sets) is brought up to date in an existing config.json; another identity is a
    UsageError that names the fields in which they differ.
    """
    planned = plan_trial(spec)
    directory = RunDir(run_dir.absolute()) if run_dir is not None else store.trial(planned.run_id)
    existing = read_json(directory.config)
    if existing is not None:
        fields = differences(existing.get("identity", {}), planned.identity)
        if fields:
            raise UsageError(
                f"{directory.path} holds another trial ({existing.get('run_id')}), which differs in:\n  "
                + "\n  ".join(fields)
                + "\nGive --run-dir another directory, or take the same settings to resume it."
            )
        _bring_up_to_date(directory, existing, spec)
        return directory
    if directory.path.exists():
        _refuse_foreign_directory(directory)
    directory.path.mkdir(parents=True, exist_ok=True)
    write_json(
        directory.config,
        {
            "run_id": planned.run_id,
            "format": CONFIG_FORMAT,
            "spec": spec.model_dump(mode="json"),
            "identity": planned.identity,
        },
    )
    return directory
