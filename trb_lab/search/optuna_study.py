"""Optuna's terms for a search: parameters as distributions, candidates as trials, samplers by their kind.

Imports optuna, so it is imported late; `optuna.py` says so where the package is missing.
"""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from trb_lab.seeds import derive
from trb_lab.spec.explain import written
from trb_lab.spec.search import (
    AshaPruning,
    ChoiceParameter,
    CmaesSampler,
    FloatParameter,
    IntParameter,
    SearchSpec,
    is_active,
    order_of,
)
from trb_lab.spec.search import GpSampler as GpSpec
from trb_lab.spec.search import QmcSampler as QmcSpec
from trb_lab.spec.search import TpeSampler as TpeSpec

from .told import Told

optuna.logging.set_verbosity(optuna.logging.WARNING)

NAME = "search"
"""Of the study in memory."""
_STATES = {
    "running": TrialState.RUNNING,
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
_BEGINNING = datetime(2000, 1, 1)
"""Samplers look at no clock, but a trial must have begun."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's warnings on what may change in a later version, and on violations clipped for a model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Clip non-finite values", category=UserWarning)
        yield


class Space:
    """A search's parameters in Optuna's terms, there and back."""

    def __init__(self, spec: SearchSpec) -> None:
        self.parameters = spec.space
        self.order = order_of(spec.space)
        self.distributions: dict[str, BaseDistribution] = {}
        self._numbers: dict[str, type[float] | type[int]] = {}
        self._values: dict[str, dict[str, Any]] = {}  # of choices: category -> value
        self._categories: dict[str, dict[str, str]] = {}  # of choices: JSON of the value -> category
        for key in self.order:
            parameter = spec.space[key]
            if isinstance(parameter, FloatParameter):
                self._numbers[key] = float
                self.distributions[key] = FloatDistribution(parameter.low, parameter.high, log=parameter.log)
            elif isinstance(parameter, IntParameter):
                self._numbers[key] = int
                self.distributions[key] = IntDistribution(
                    parameter.low, parameter.high, log=parameter.log, step=parameter.step
                )
            else:
                self._values[key] = _categories(parameter)
                self._categories[key] = {json.dumps(v): text for text, v in self._values[key].items()}
                self.distributions[key] = CategoricalDistribution(tuple(self._values[key]))

    def inward(self, key: str, value: Any) -> Any:
        """A parameter's value as Optuna knows it. Raises ValueError for a choice that the space does not have."""
        number = self._numbers.get(key)
        if number is not None:
            return number(value)
        category = self._categories[key].get(json.dumps(value))
        if category is not None:
            return category
        for text, known in self._values[key].items():
            if known == value:  # 1 for 1.0, or keys in another order
                return text
        raise ValueError(f"{key}: {written(value)} is none of {', '.join(self._values[key])}.")

    def outward(self, key: str, value: Any) -> Any:
        """A parameter's value as the search has it."""
        number = self._numbers.get(key)
        return copy.deepcopy(self._values[key][value]) if number is None else number(value)

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Ask the trial for every parameter that takes part, in their order."""
        params: dict[str, Any] = {}
        for key in self.order:
            parameter = self.parameters[key]
            if not is_active(parameter, params):
                continue
            if isinstance(parameter, FloatParameter):
                value: Any = trial.suggest_float(key, parameter.low, parameter.high, log=parameter.log)
            elif isinstance(parameter, IntParameter):
                value = trial.suggest_int(
                    key, parameter.low, parameter.high, step=parameter.step, log=parameter.log
                )
            else:
                value = trial.suggest_categorical(key, tuple(self._values[key]))
            params[key] = self.outward(key, value)
        return params


def _categories(parameter: ChoiceParameter) -> dict[str, Any]:
    """Text -> value. Texts are as one would write the values, unless two values are written alike (1 and "1")."""
    distinct = {json.dumps(value): value for value in parameter.values}
    texts = [written(value) for value in distinct.values()]
    if len(set(texts)) < len(texts):
        return distinct
    return dict(zip(texts, distinct.values(), strict=True))


class _Template(FrozenTrial):
    """A trial that the storage in memory takes without copying all that is in it, which costs 0.1 ms a trial.

    That is sound: the storage replaces what it changes, and whoever else takes a copy gets one of its own.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTrial:
        mine = object.__new__(FrozenTrial)
        mine.__dict__.update(self.__dict__)
        return mine


def trial_of(told: Told, space: Space, spec: SearchSpec, attrs: bool = True) -> FrozenTrial:
    """A candidate as Optuna knows it; its number is the storage's to give.

    `attrs`: with the sampler's notes. A complete candidate without a value (nan) counts as failed, and where
    it lacks a constraint's metric, or that is nan, it counts as far outside its bounds. Raises ValueError for
    a choice that is not in the space, and for a complete candidate with another number of values than goals.
    """
    state = _STATES[told.state]
    values: list[float] | None = None
    if state == TrialState.COMPLETE:
        values = [float(value) for value in told.values]
        goals = len(spec.objectives) or 1
        if len(values) != goals:
            raise ValueError(f"#{told.number} is complete with {len(values)} values for {goals} goals.")
        if any(map(math.isnan, values)):
            state, values = TrialState.FAIL, None
    elif state == TrialState.PRUNED and told.intermediate:  # as Study.tell does
        last = float(told.intermediate[max(told.intermediate)])
        values = None if math.isnan(last) else [last]
    keys = [key for key in space.order if key in told.params]
    trial = _Template(
        number=-1,
        trial_id=-1,
        state=state,
        value=None,
        values=values,
        datetime_start=_BEGINNING,
        datetime_complete=_BEGINNING if state.is_finished() else None,
        params={key: space.inward(key, told.params[key]) for key in keys},
        distributions={key: space.distributions[key] for key in keys},
        user_attrs={},
        system_attrs=dict(told.attrs) if attrs else {},
        intermediate_values={int(step): float(value) for step, value in told.intermediate.items()},
    )
    if state == TrialState.COMPLETE:
        for metric in [*spec.constraints, *(m for m in told.constraints if m not in spec.constraints)]:
            violation = float(told.constraints.get(metric, math.inf))
            trial.set_constraint(metric, math.inf if math.isnan(violation) else violation)
    return trial


def directions_of(spec: SearchSpec) -> list[StudyDirection]:
    """Which way each goal should go."""
    return [StudyDirection[goal.direction.upper()] for goal in spec.goals]


def study_of(
    trials: Sequence[FrozenTrial],
    directions: Sequence[StudyDirection],
    sampler: BaseSampler | None = None,
    study_attrs: Mapping[str, Any] | None = None,
) -> tuple[optuna.Study, InMemoryStorage]:
    """A study in memory that holds just these trials, in their order, and its storage."""
    storage = InMemoryStorage()
    study_id = storage.create_new_study(directions, NAME)
    for key, value in (study_attrs or {}).items():
        storage.set_study_system_attr(study_id, key, value)
    for trial in trials:
        storage.create_new_trial(study_id, trial)
    pruner = optuna.pruners.NopPruner()
    return optuna.load_study(study_name=NAME, storage=storage, sampler=sampler, pruner=pruner), storage


class _OneSequence(QMCSampler):
    """The points of one sequence over the whole space, from the first ask on.

    Optuna's own takes the space from the trial that finished first, so that the first points are drawn at
    random, and a space with conditions falls apart into several sequences. Here parameters that do not take
    part have a coordinate too, which nobody looks at.
    """

    def __init__(self, space: Space, **settings: Any) -> None:
        super().__init__(**settings)
        self._whole = dict(space.distributions)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {key: found for key, found in self._whole.items() if not found.single()}


def sampler_of(spec: SearchSpec, space: Space, number: int) -> BaseSampler:
    """The sampler for the ask of one candidate: its draws depend on the search's seed and that number alone."""
    chosen = spec.sampler
    seed = derive(spec.seed, "search", number) % 2**32
    if isinstance(chosen, TpeSpec):
        if len(spec.goals) == 1 and any(parameter.when for parameter in spec.space.values()):
            # Without groups, parameters that do not always take part are modelled one by one.
            return TPESampler(
                n_startup_trials=chosen.startup_trials, seed=seed, multivariate=True, group=True
            )
        return TPESampler(n_startup_trials=chosen.startup_trials, seed=seed)
    if isinstance(chosen, CmaesSampler):
        # Successive halving leaves most candidates at a rung: as with Hyperband, their values there count.
        return CmaEsSampler(
            n_startup_trials=chosen.startup_trials,
            popsize=chosen.population,
            seed=seed,
            consider_pruned_trials=isinstance(spec.pruning, AshaPruning),
            warn_independent_sampling=False,
        )
    if isinstance(chosen, QmcSpec):
        return _OneSequence(
            space,
            qmc_type=chosen.sequence,
            scramble=chosen.scramble,
            seed=derive(spec.seed, "search") % 2**32,  # the same at every ask: it shifts the whole sequence
            independent_sampler=RandomSampler(seed=seed),
            warn_independent_sampling=False,
        )
    if isinstance(chosen, GpSpec):
        return GPSampler(n_startup_trials=chosen.startup_trials, seed=seed, warn_independent_sampling=False)
    return RandomSampler(seed=seed)
