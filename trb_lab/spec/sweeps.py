"""Sweep files to trials: every arm's settings x every seed, each built and validated before anything runs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trb_lab.errors import UsageError, did_you_mean

from . import explain
from .experiment import ExperimentSpec
from .layers import Draft, Layer, dotted, leaves, nest, resolve_paths
from .loading import read_experiment, top_mapping, try_build
from .search import ChoiceParameter, SearchSpec
from .search_arm import (
    SearchArm,
    canonical_choices,
    corners,
    problems_of,
    repeated_choices,
    stops_of,
    unscored,
)
from .shape import dotted_keys, shape_of
from .sweep import ArmSpec, SweepSpec
from .trial_draft import TrialDraft
from .yaml_io import Document, KeyPath, read, shown


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


def expand_searches(path: Path | str) -> dict[str, SearchArm]:
    """The arms with a search, validated at the ends of their spaces. Raises UsageError as `expand_sweep` does."""
    return _Sweep.read(Path(path)).searches()


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
                    "search": _search_resolved(arm.search, folder),
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
        base, names = self._base(), self._names()
        trials: list[TrialDraft] = []
        failures = _Failures()
        for arm_name, arm in self.spec.arms.items():
            if arm.search is not None and not arm.grid:
                continue  # its settings are asked for as the sweep goes
            builder = self._builder(base, arm_name)
            for values in _points(arm):
                setting = " ".join(f"{names[key]}={explain.written(value)}" for key, value in values.items())
                layer = self._layer(values, ("arms", arm_name, "grid"))
                for seed in self.spec.seeds:
                    trial, messages = builder.trial(setting, layer, seed)
                    if trial is not None:
                        trials.append(trial)
                    failures.add(messages, " ".join(filter(None, [arm_name, setting, f"seed={seed}"])))
        explain.raise_all(failures.shown())
        return trials

    def searches(self) -> dict[str, SearchArm]:
        base, names = self._base(), self._names()
        found = {}
        failures = _Failures()
        for name, arm in self.spec.arms.items():
            if arm.search is None:
                continue
            at: KeyPath = ("arms", name, "search")
            builder, search = self._builder(base, name), arm.search
            trials: list[tuple[dict[str, Any], ExperimentSpec]] = []
            for point in corners(search):
                trial, messages = builder.trial("", self._layer(point, (*at, "space")), self.spec.seeds[0])
                if trial is not None:
                    trials.append((point, trial.spec))
                failures.add(
                    messages,
                    f"{name} {' '.join(f'{names[k]}={explain.written(v)}' for k, v in point.items())}",
                )
            if not trials:
                continue
            for key, value, earlier in repeated_choices(search, trials):
                text = (
                    f"{explain.written(earlier)} and {explain.written(value)} are the same setting. Keep one."
                )
                failures.add([self._told((*at, "space", key, "values"), text)], name)
            for place, text in unscored(search, [trial for _, trial in trials]):
                failures.add([self._told((*at, *place), text)], name)
            try:
                stops = stops_of(search, trials[0][1])
            except UsageError as error:
                failures.add([f"{self._where((*at, 'pruning'))}: {dotted(at)}.{error}"], name)
                continue
            found[name] = SearchArm(
                name=name,
                label=arm.label or name,
                spec=search,
                seeds=tuple(self.spec.seeds),
                names={key: names[key] for key in search.space},
                stops=stops,
                steps=trials[0][1].steps,
                examples=tuple(trial for _, trial in trials),
                reference=self._reference(base, names),
                grid_trials=self._grid_trials(builder, arm),
                written=builder.draft.value,
                build=partial(self._candidate, builder, (*at, "space")),
                canonical=canonical_choices(search, trials),
            )
        explain.raise_all(failures.shown())
        return found

    def _grid_trials(self, builder: _Builder, arm: ArmSpec) -> tuple[ExperimentSpec, ...]:
        """What the arm's grid names; what cannot be built is told where the grid is expanded."""
        found = []
        for values in _points(arm) if arm.grid else ():
            layer = self._layer(values, ("arms", builder.arm, "grid"))
            trial, _ = builder.trial("", layer, self.spec.seeds[0])
            found += [trial.spec] if trial is not None else []
        return tuple(found)

    def _reference(self, base: Draft, names: Mapping[str, str]) -> Callable[[int], TrialDraft] | None:
        """Trials of the arm that the others are compared with: as the sweep says, else the first of kind opd."""
        for name, arm in self.spec.arms.items():
            if name != (self.spec.report.reference or name) or (arm.search is not None and not arm.grid):
                continue
            values = next(_points(arm))
            setting = " ".join(f"{names[key]}={explain.written(value)}" for key, value in values.items())
            builder, layer = self._builder(base, name), self._layer(values, ("arms", name, "grid"))
            found, _ = builder.trial(setting, layer, self.spec.seeds[0])
            if found is not None and (self.spec.report.reference or found.spec.warmup.kind == "opd"):
                return partial(self._trial, builder, layer, setting)
        return None

    def _trial(self, builder: _Builder, layer: Layer, setting: str, seed: int) -> TrialDraft:
        trial, messages = builder.trial(setting, layer, seed)
        explain.raise_all(messages)
        assert trial is not None
        return trial

    def _candidate(
        self, builder: _Builder, at: KeyPath, setting: str, params: Mapping[str, Any], seed: int
    ) -> TrialDraft:
        return self._trial(builder, self._layer(dict(params), at), setting, seed)

    def _base(self) -> Draft:
        try:
            return read_experiment(Path(self.spec.base))
        except UsageError as error:
            raise UsageError(f"{self._where(('base',))}: base: {error}") from None

    def _names(self) -> dict[str, str]:
        """Short names of everything that varies."""
        return _short_names(
            [
                key
                for arm in self.spec.arms.values()
                for key in (*arm.grid, *(arm.search.space if arm.search is not None else ()))
            ]
        )

    def _builder(self, base: Draft, arm_name: str) -> _Builder:
        shared = self._layer(self.spec.overrides, ("overrides",))
        constant = self._layer(self.spec.arms[arm_name].overrides, ("arms", arm_name, "overrides"))
        seeds = Layer({}, self.source, {("seed",): self.document.lines.get(("seeds",), 0)})
        draft = base.over(shape_of(ExperimentSpec), shared, constant)
        return _Builder(arm_name, draft, (shared, constant), seeds)

    def _where(self, path: KeyPath) -> str:
        line = self.document.lines.get(path)
        return f"{self.source}:{line}" if line else self.source

    def _told(self, path: KeyPath, text: str) -> str:
        """A problem of a key of the sweep, with the line of the key, or of the block that it would stand in."""
        written = next((path[:i] for i in range(len(path), 0, -1) if path[:i] in self.document.lines), ())
        return f"{self._where(written)}: {dotted(path)}: {text}"

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


@dataclass
class _Builder:
    """The trials of one arm."""

    arm: str
    draft: Draft
    """Base and overrides."""
    constant: tuple[Layer, ...]
    """What all of the arm's trials differ from the base in."""
    seeds: Layer

    def trial(self, setting: str, layer: Layer, seed: int) -> tuple[TrialDraft | None, list[str]]:
        """The trial with the values of `layer`, or the messages that say why there is none."""
        draft = self.draft.over(shape_of(ExperimentSpec), layer)
        spec, messages = try_build(Draft({**draft.value, "seed": seed}, [*draft.layers, self.seeds]))
        if spec is None:
            return None, messages
        return TrialDraft(self.arm, setting, seed, _flat([*self.constant, layer]), spec), messages


def _points(arm: ArmSpec) -> Iterator[dict[str, Any]]:
    """Every combination of the grid's values."""
    for point in itertools.product(*arm.grid.values()):
        yield dict(zip(arm.grid, point, strict=True))


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
    reference = spec.arms.get(spec.report.reference or "")
    if reference is not None and reference.search is not None and not reference.grid:
        confirming = [name for name, arm in spec.arms.items() if arm.search and arm.search.confirm]
        if confirming:
            text = (
                f"{spec.report.reference} has a search and no fixed setting, so the confirmation (arm "
                f"{', '.join(confirming)}) has nothing to be compared with. Name an arm with fixed settings, or set "
                "search.confirm to null."
            )
            found.append(explain.located(draft, ("report", "reference"), text))
    keys = dotted_keys(shape_of(ExperimentSpec))
    for name, arm in spec.arms.items():
        if arm.search is not None:
            for at, text in problems_of(arm.search, spec.seeds, keys):
                found.append(explain.located(draft, ("arms", name, "search", *at), text))
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


def _search_resolved(search: SearchSpec | None, folder: Path) -> SearchSpec | None:
    """A search whose choices have their paths made absolute."""
    if search is None:
        return None
    space = {
        key: parameter.model_copy(
            update={"values": [_resolved({key: v}, folder)[key] for v in parameter.values]}
        )
        if isinstance(parameter, ChoiceParameter)
        else parameter
        for key, parameter in search.space.items()
    }
    return search.model_copy(update={"space": space})


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
