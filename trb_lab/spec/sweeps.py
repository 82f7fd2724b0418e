"""Sweep files to trials: every arm's settings x every seed, each built and validated before anything runs."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trb_lab.errors import UsageError, did_you_mean

from . import explain
from .experiment import ExperimentSpec
from .layers import Draft, Layer, dotted, leaves, nest, resolve_paths
from .loading import read_experiment, top_mapping, try_build
from .shape import shape_of
from .sweep import SweepSpec
from .yaml_io import Document, KeyPath, read, shown


@dataclass(frozen=True)
class TrialDraft:
    """One trial of a sweep: base + overrides + seed."""

    arm: str
    setting: str
    """The grid point, `kl_budget=0.05 steps=25`; empty where the arm has one setting."""
    seed: int
    overrides: dict[str, Any]
    """Dotted key -> value, all that differs from the base but the seed."""
    spec: ExperimentSpec


def load_sweep(path: Path | str) -> SweepSpec:
    """Read and validate a sweep file, `base` made absolute. Its trials are validated by `expand_sweep`."""
    return _Sweep.read(Path(path)).spec


def expand_sweep(sweep: Path | str | SweepSpec) -> list[TrialDraft]:
    """Every trial, in the order of arms, grid points, seeds.

    Takes a file, or a spec as `load_sweep` returned it. Raises UsageError with every problem of every
    trial, each once, with the key path in the sweep (`arms.trb.grid.warmup.kl_budget`) and the first trial
    that has it.
    """
    loaded = _Sweep.of(sweep) if isinstance(sweep, SweepSpec) else _Sweep.read(Path(sweep))
    return loaded.expand()


@dataclass
class _Sweep:
    spec: SweepSpec
    document: Document
    source: str
    folder: Path

    @classmethod
    def of(cls, spec: SweepSpec) -> _Sweep:
        return cls(spec, Document(spec.model_dump()), f"sweep {spec.name}", Path(spec.base).parent)

    @classmethod
    def read(cls, path: Path) -> _Sweep:
        document, source = read(path), shown(path)
        value = dict(top_mapping(document, source, "a sweep: name, question, base, seeds, arms"))
        if "arms" not in value and "student" in value:
            raise UsageError(
                f"{source} is an experiment, and a sweep is wanted here. Run it with: trb-lab run {source}"
            )
        if isinstance(value.get("arms"), dict):
            # `opd:` with nothing after it is an arm without changes.
            value["arms"] = {name: {} if arm is None else arm for name, arm in value["arms"].items()}
        draft = Draft(value, [Layer(value, source, document.lines)])
        messages = explain.bool_problems(draft, shape_of(SweepSpec))
        try:
            spec = SweepSpec.model_validate(value)
        except ValidationError as error:
            explain.raise_all(messages + explain.problems(error, shape_of(SweepSpec), draft))
            raise
        explain.raise_all(messages + _own_problems(spec, draft))
        folder = path.resolve().parent
        # Paths in overrides are resolved here, so that the returned spec means the same from anywhere.
        arms = {
            name: arm.model_copy(
                update={
                    "overrides": _resolved(arm.overrides, folder),
                    "grid": {
                        key: [_resolved({key: v}, folder)[key] for v in vs] for key, vs in arm.grid.items()
                    },
                }
            )
            for name, arm in spec.arms.items()
        }
        base = str((folder / Path(spec.base).expanduser()).resolve())
        spec = spec.model_copy(
            update={"base": base, "arms": arms, "overrides": _resolved(spec.overrides, folder)}
        )
        return cls(spec, document, source, folder)

    def expand(self) -> list[TrialDraft]:
        shape = shape_of(ExperimentSpec)
        try:
            base = read_experiment(Path(self.spec.base))
        except UsageError as error:
            raise UsageError(f"{self._where(('base',))}: base: {error}") from None
        shared = self._layer(self.spec.overrides, ("overrides",))
        names = _short_names([key for arm in self.spec.arms.values() for key in arm.grid])
        seeds = Layer({}, self.source, {("seed",): self.document.lines.get(("seeds",), 0)})
        trials: list[TrialDraft] = []
        failures = _Failures()
        for arm_name, arm in self.spec.arms.items():
            constant = self._layer(arm.overrides, ("arms", arm_name, "overrides"))
            arm_draft = base.over(shape, shared, constant)
            for point in itertools.product(*arm.grid.values()):
                values = dict(zip(arm.grid, point, strict=True))
                layer = self._layer(values, ("arms", arm_name, "grid"))
                draft = arm_draft.over(shape, layer)
                setting = " ".join(f"{names[key]}={explain.written(value)}" for key, value in values.items())
                overrides = _flat([shared, constant, layer])
                for seed in self.spec.seeds:
                    seeded = Draft({**draft.value, "seed": seed}, [*draft.layers, seeds])
                    spec, messages = try_build(seeded)
                    if spec is not None:
                        trials.append(TrialDraft(arm_name, setting, seed, overrides, spec))
                    failures.add(messages, " ".join(filter(None, [arm_name, setting, f"seed={seed}"])))
        explain.raise_all(failures.shown())
        return trials

    def _where(self, path: KeyPath) -> str:
        line = self.document.lines.get(path)
        return f"{self.source}:{line}" if line else self.source

    def _layer(self, values: dict[str, Any], at: KeyPath) -> Layer:
        """Overrides that stand at key path `at` of the sweep file, as a layer of the experiment."""
        depth = len(at)
        lines = {
            path[depth:]: line
            for path, line in self.document.lines.items()
            if path[:depth] == at and path[depth:]
        }
        layer = Layer(values, self.source, lines or {(key,): 0 for key in values}, f"{dotted(at)}.")
        nested = nest(shape_of(ExperimentSpec), layer)
        # Problems that belong to no key of this layer still show the arm.
        nested.lines.setdefault((), self.document.lines.get(at, self.document.lines.get(at[:2], 0)))
        return nested


class _Failures:
    """Problems of trials, each told once with the first trial that has it and how many more do."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[str, list[str]]] = {}

    def add(self, messages: list[str], trial: str) -> None:
        for message in messages:
            # An unknown key of a grid is one problem, whatever its values.
            same = re.sub(r"unknown key \(given .*?\)", "unknown key", message)
            self.found.setdefault(same, (message, []))[1].append(trial)

    def shown(self) -> list[str]:
        return [
            f"{message} (in trial {trials[0]}{f' and {len(trials) - 1} more' if len(trials) > 1 else ''})"
            for message, trials in self.found.values()
        ]


def _own_problems(spec: SweepSpec, draft: Draft) -> list[str]:
    """What a sweep must not say though each value is well-formed."""
    found: list[str] = []
    if len(set(spec.seeds)) < len(spec.seeds):
        found.append(explain.located(draft, ("seeds",), f"{spec.seeds} names a seed twice. Keep each once."))
    if spec.report.reference is not None and spec.report.reference not in spec.arms:
        hint = did_you_mean(spec.report.reference, spec.arms)
        text = f"{spec.report.reference} is no arm of this sweep. Arms: {', '.join(spec.arms)}.{hint}"
        found.append(explain.located(draft, ("report", "reference"), text))
    places: list[tuple[KeyPath, dict[str, Any]]] = [(("overrides",), spec.overrides)]
    for name, arm in spec.arms.items():
        places += [(("arms", name, "overrides"), arm.overrides), (("arms", name, "grid"), arm.grid)]
        for key, values in arm.grid.items():
            path: KeyPath = ("arms", name, "grid", key)
            if not values:
                found.append(
                    explain.located(draft, path, "an empty list gives no trial. List at least one value.")
                )
            if len({explain.written(v) for v in values}) < len(values):
                found.append(
                    explain.located(
                        draft, path, f"{explain.written(values)} has a value twice. Keep each once."
                    )
                )
    for place, written in places:
        for key in ("seed", "extends"):
            if key in written:
                advice = (
                    "Seeds are listed under `seeds`." if key == "seed" else "Extend the base file instead."
                )
                found.append(explain.located(draft, (*place, key), f"is not allowed in a sweep. {advice}"))
    return found


def _resolved(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Overrides with paths made absolute; keys may be dotted."""
    plain = resolve_paths(shape_of(ExperimentSpec), {k: v for k, v in values.items() if "." not in k}, folder)
    for key, value in values.items():
        if "." in key:
            parts = key.split(".")
            nested: Any = value
            for part in reversed(parts):
                nested = {part: nested}
            nested = resolve_paths(shape_of(ExperimentSpec), nested, folder)
            for part in parts:
                nested = nested[part]
            plain[key] = nested
    return {key: plain[key] for key in values}


def _flat(layers: list[Layer]) -> dict[str, Any]:
    """Dotted leaves of the layers merged over each other: base + these = the trial."""
    shape = shape_of(ExperimentSpec)
    merged = Draft({}, []).over(shape, *layers).value
    return {dotted(path): value for path, _, value in leaves(shape, merged) if path}


def _short_names(keys: list[str]) -> dict[str, str]:
    """The shortest dotted ending of each key that no other grid key of the sweep shares."""
    unique = set(keys)
    names = {}
    for key in unique:
        parts = key.split(".")
        endings = [".".join(parts[i:]) for i in reversed(range(len(parts)))]
        names[key] = next(
            (
                e
                for e in endings
                if not any(other != key and f".{other}".endswith(f".{e}") for other in unique)
            ),
            key,
        )
    return names
