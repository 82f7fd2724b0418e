"""What finished runs of the store took, by the shape of their work: the basis of every estimate.

A shape is what decides how long a step and an evaluation take: the models, the kind of data, rollout, loss, evaluation
and number format. The arm comes beside it: where no run of the same arm has finished, the others of the shape serve.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trb_lab.spec import ExperimentSpec
from trb_lab.spec.experiment import ModelSpec
from trb_lab.store.identity import OMITTED_AT_VALUE, canonical_json, flatten
from trb_lab.store.run_dir import RunDir, Store, read_json
from trb_lab.store.status import attempts
from trb_lab.trial import model_fingerprint

MOST_RUNS = 50
"""So many runs of a shape and an arm are taken, the newest ones."""
_EVALUATION = "eval"
_SUPERVISED = ("sft", "sft_samples")
_KEPT = ("dataset", "rollout", "loss", "eval", "dtype")


_Key = tuple[tuple[str, str], tuple[str, ...], str]


@dataclass(frozen=True)
class Wanted:
    """Work whose cost is looked for."""

    contents: tuple[str, str]
    """Fingerprints of student and teacher."""
    shape: str
    """Canonical JSON of what decides the cost of a step."""
    masked: tuple[str, ...] = ()
    """Dotted keys that a search varies: they may have any value."""
    warmup: str | None = None
    """The arm's kind; None takes every one."""
    device: str = "auto"
    """As the spec has it: auto, cpu or cuda."""


@dataclass(frozen=True)
class FinishedRun:
    """What one finished run took, in seconds."""

    warmup: str
    step: float
    """A training step, evaluation left out."""
    evaluation: float
    """One evaluation of all sets."""
    supervised: float
    """All supervised updates before the first step."""
    startup: float
    """From an attempt's begin to its first step, and from the last step to its end."""
    gpus: int
    threads: int
    hardware: str
    """`NVIDIA H100`, or the processor."""

    def seconds(self, begin: int, end: int, steps: int, every: int | None, evaluated: bool = True) -> float:
        """One attempt from `begin` to `end` updates of a run of `steps`, evaluations after every so many steps."""
        evaluations = evaluations_between(begin, end, steps, every) if evaluated else 0
        supervised = self.supervised if begin == 0 and end > 0 else 0.0
        return self.startup + supervised + (end - begin) * self.step + evaluations * self.evaluation


@dataclass(frozen=True)
class Basis:
    """Finished runs that a piece of work is like."""

    runs: tuple[FinishedRun, ...]
    same_arm: bool = True
    """Whether they are of the same arm, or of any."""

    def __str__(self) -> str:
        if not self.runs:
            return "no finished run of this shape in the store yet"
        count = len(self.runs)
        other = "" if self.same_arm else " but of other arms (" + ", ".join(self._arms()) + ")"
        return (
            f"{count} finished run{'' if count == 1 else 's'} of this shape{other} on {self.runs[0].hardware}"
        )

    def _arms(self) -> list[str]:
        return sorted({run.warmup for run in self.runs})


def evaluations_between(begin: int, end: int, steps: int, every: int | None) -> int:
    """Evaluations of a run of `steps` after its update `begin` and up to its update `end`."""
    last = int(begin < steps <= end and (every is None or steps % every != 0))
    return last + (max(0, end // every - begin // every) if every is not None else 0)


def wanted_of(
    spec: ExperimentSpec,
    masked: Sequence[str] = (),
    fingerprint: Callable[[ModelSpec], str] = model_fingerprint,
) -> Wanted:
    """What to look for to tell how long a trial takes; `masked` are dotted keys that a search varies."""
    tree = {key: _dumped(getattr(spec, key)) for key in _KEPT}
    arm_varies = any(key == "warmup" or key == "warmup.kind" for key in masked)
    return Wanted(
        contents=(fingerprint(spec.student), fingerprint(spec.teacher)),
        shape=_shape(tree, masked),
        masked=tuple(masked),
        warmup=None if arm_varies else spec.warmup.kind,
        device=spec.resources.device,
    )


def _dumped(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def _shape(tree: Mapping[str, Any], masked: Sequence[str]) -> str:
    """The shape of a dumped spec, or of the blocks of it that count."""
    evaluation = tree.get("eval") or {}
    sets = [
        [_as_when_younger(entry["dataset"]), entry.get("samples") or evaluation.get("samples")]
        for entry in evaluation.get("sets") or []
    ]
    flat = flatten(
        {
            "dataset": {"kind": (tree.get("dataset") or {}).get("kind")},
            "rollout": tree.get("rollout"),
            "loss": tree.get("loss"),
            "eval": {
                "sets": sets,
                "every": evaluation.get("every"),
                "max_new_tokens": evaluation.get("max_new_tokens"),
            },
            "dtype": tree.get("dtype"),
        }
    )
    kept = {
        key: value
        for key, value in flat.items()
        if not (key in OMITTED_AT_VALUE and OMITTED_AT_VALUE[key] == value)
        and not any(key == m or key.startswith(f"{m}.") for m in masked)
    }
    return canonical_json(kept)


def _as_when_younger(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """A dumped data set without the fields that older runs do not have, where they say nothing new."""
    return {
        key: value
        for key, value in dataset.items()
        if not (
            f"dataset.{key}" in OMITTED_AT_VALUE and OMITTED_AT_VALUE[f"dataset.{key}"] == value
        )  # a null `where` and the like
    }


def find_bases(wanted: Iterable[Wanted], store: Store, on_gpu: bool | None = None) -> dict[Wanted, Basis]:
    """Finished runs for each kind of work, the newest first; each run of the store is looked at once at most.

    All runs of a basis ran on the same hardware: that of the newest. `on_gpu` says what `device: auto` will get here;
    None takes what the newest run had.
    """
    asked = list(dict.fromkeys(wanted))
    pool = _Pool(asked)
    for path in _newest_results(store) if asked else ():
        if pool.is_full:
            break
        pool.look_at(RunDir(Path(path)))
    return {want: _basis(want, pool, on_gpu) for want in asked}


class _Pool:
    """Runs by (contents, masks, shape), the newest first, and at most MOST_RUNS of an arm."""

    def __init__(self, asked: Sequence[Wanted]) -> None:
        self._wanted = {(_key(want), want.warmup) for want in asked}
        self._masks = {want.masked for want in asked}
        self._marks = {tuple(text.encode() for text in want.contents) for want in asked}
        self.found: dict[_Key, list[FinishedRun]] = {_key(want): [] for want in asked}
        self._counts: Counter[tuple[_Key, str]] = Counter()

    @property
    def is_full(self) -> bool:
        """Whether there are enough runs for everything."""
        return all(arm and self._counts[key, arm] >= MOST_RUNS for key, arm in self._wanted)

    def look_at(self, run: RunDir) -> None:
        try:
            text = run.config.read_bytes()
            # Most runs of a large store have other models: no need to parse what they say.
            if not any(student in text and teacher in text for student, teacher in self._marks):
                return
            config = json.loads(text)
            spec, contents = config["spec"], config["identity"]["contents"]
            models, arm = (contents["student"], contents["teacher"]), spec["warmup"]["kind"]
            keys = [(models, masked, _shape(spec, masked)) for masked in self._masks]
        except (OSError, ValueError, KeyError, TypeError):
            return  # not a run of ours, or one that somebody removes
        places = [key for key in keys if key in self.found and self._counts[key, arm] < MOST_RUNS]
        finished = finished_run(run, spec) if places else None
        for key in places if finished is not None else ():
            self.found[key].append(finished)  # type: ignore[arg-type]
            self._counts[key, arm] += 1


def _key(want: Wanted) -> _Key:
    return want.contents, want.masked, want.shape


def _newest_results(store: Store) -> list[str]:
    """Paths of the finished trials, the newest first."""
    found = []
    try:
        with os.scandir(store.root / "trials") as entries:
            paths = [entry.path for entry in entries]
    except FileNotFoundError:
        return []
    name = store.trial("").result.name
    for path in paths:
        try:
            found.append((os.stat(f"{path}/{name}").st_mtime_ns, path))
        except OSError:
            continue
    return [path for _, path in sorted(found, reverse=True)]


def _basis(want: Wanted, pool: _Pool, on_gpu: bool | None) -> Basis:
    runs = pool.found[_key(want)]
    gpu = {"cpu": False, "cuda": True}.get(want.device, on_gpu)
    same = _alike([run for run in runs if want.warmup in (None, run.warmup)], gpu)
    return Basis(same) if same else Basis(_alike(runs, gpu), same_arm=False)


def _alike(runs: Sequence[FinishedRun], gpu: bool | None) -> tuple[FinishedRun, ...]:
    """Those on the hardware of the first one that is allowed."""
    allowed = [run for run in runs if gpu is None or (run.gpus > 0) == gpu]
    return tuple(run for run in allowed if run.hardware == allowed[0].hardware)


def finished_run(run: RunDir, spec: Mapping[str, Any]) -> FinishedRun | None:
    """What a finished run took; None where its files do not say. `spec` is dumped."""
    try:
        result = read_json(run.result)
        provenance = read_json(run.provenance) or {}
        steps, total = int(result["steps"]), float(result["seconds_total"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if steps < 1:
        return None
    cost = result.get("cost") or {}
    phases = {name: float(phase.get("seconds") or 0.0) for name, phase in (cost.get("phases") or {}).items()}
    every = (spec.get("eval") or {}).get("every")
    evaluations = evaluations_between(0, steps, steps, every)
    training = sum(s for name, s in phases.items() if name not in (_EVALUATION, *_SUPERVISED))
    supervised = sum(phases.get(name, 0.0) for name in _SUPERVISED)
    clock, count = _clock(run)
    device = provenance.get("device") or {}
    names, gpus = device.get("names") or [], int(cost.get("gpus") or 0)
    if not phases:  # before ledgers were kept
        training = total
        gpus = int(str(device.get("kind")).startswith("cuda"))
    return FinishedRun(
        warmup=str(spec["warmup"]["kind"]),
        step=training / steps,
        evaluation=phases.get(_EVALUATION, 0.0) / evaluations,
        supervised=supervised,
        startup=max(0.0, clock - (sum(phases.values()) or total)) / max(1, count),
        gpus=gpus,
        threads=int(provenance.get("threads") or (spec.get("resources") or {}).get("cpu_threads") or 1),
        hardware=str(names[0]) if gpus and names else _processor(provenance, gpus),
    )


def _processor(provenance: Mapping[str, Any], gpus: int) -> str:
    return "a GPU" if gpus else str((provenance.get("host") or {}).get("cpu") or "a CPU")


def _clock(run: RunDir) -> tuple[float, int]:
    """Seconds of the attempts that logged begin and end, and their number; 0 where one did not."""
    begin, seconds, count = None, 0.0, 0
    for event in attempts(run):
        if event["event"] == "start":
            if begin is not None:
                return 0.0, 0  # it died: what it had made was made again
            begin = float(event["time"])
        elif begin is not None:
            seconds, count, begin = seconds + float(event["time"]) - begin, count + 1, None
    return seconds, count
