"""An arm with a search: from the values that a sampler proposes to trials, and what a search must not say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trb_lab.errors import UsageError, did_you_mean

from .experiment import ExperimentSpec
from .search import COSTS, SCORE, ChoiceParameter, SearchSpec, is_active, order_of
from .trial_draft import TrialDraft

FRESH_SEEDS_AFTER = 1
"""The first fresh seed lies so far above the largest of the sweep's."""
NO_PART_OF_A_TRIAL = (
    "name",
    "resources",
    "checkpoint",
    "alarms",
    "eval.at_k",
    "rollout.block_tokens",
    "eval.sets",
)
"""Keys that are left out of a trial's identity (store.identity.EXCLUDED, but for what counts by its content there)."""


@dataclass(frozen=True)
class SearchArm:
    """A validated search, and the way from parameters to trials."""

    name: str
    label: str
    spec: SearchSpec
    seeds: tuple[int, ...]
    """The sweep's seeds: replicates for selection."""
    names: Mapping[str, str]
    """Dotted key -> its short name."""
    stops: tuple[int, ...]
    """Steps at which a run pauses; empty without pruning."""
    steps: int
    """Training steps of a whole run."""
    examples: tuple[ExperimentSpec, ...]
    """Trials at the corners of the space, which together show every bound and every choice."""
    reference: Callable[[int], TrialDraft] | None
    """Seed -> a trial of the sweep's reference arm (its first setting); None where the sweep has none."""
    grid_trials: tuple[ExperimentSpec, ...]
    """The settings of the arm's grid (with the first seed)."""
    written: Mapping[str, Any]
    """What all of the arm's trials have in common, as it is written: the base with the arm's overrides."""
    build: Callable[[str, Mapping[str, Any], int], TrialDraft]
    """(setting, overrides, seed) -> the trial; raises UsageError where the experiment refuses it."""
    canonical: Mapping[str, tuple[tuple[Any, Any], ...]]
    """Key of a choice -> its values, each as it is written and as a built spec has it."""

    @property
    def example(self) -> ExperimentSpec:
        """One of them."""
        return self.examples[0]

    @property
    def starting_seeds(self) -> tuple[int, ...]:
        """Those that every candidate begins with."""
        return self.seeds[: self.spec.seeds]

    @property
    def fresh_seeds(self) -> tuple[int, ...]:
        """Those of the confirmation."""
        first = max(self.seeds) + FRESH_SEEDS_AFTER
        return tuple(range(first, first + self.spec.confirm.seeds)) if self.spec.confirm else ()

    def setting(self, number: int, params: Mapping[str, Any]) -> str:
        """`#3 kl_budget=0.0537 steps=25`."""
        return " ".join(
            [f"#{number}", *(f"{self.names[key]}={shown(value)}" for key, value in params.items())]
        )

    def draft(self, number: int, params: Mapping[str, Any], seed: int) -> TrialDraft:
        """The trial of a candidate with a seed."""
        return self.build(self.setting(number, params), params, seed)

    def params_of(self, tree: Mapping[str, Any]) -> dict[str, Any] | None:
        """The parameters of a trial's dumped spec; None where it lies outside the space."""
        params: dict[str, Any] = {}
        for key in order_of(self.spec.space):
            parameter = self.spec.space[key]
            if not is_active(parameter, params):
                continue
            value = at_key(tree, key)
            if key in self.canonical:
                own = _own(value, key, self.spec)
                chosen = [written for written, dumped in self.canonical[key] if dumped == own]
                if not chosen:
                    return None
                value = chosen[0]
            elif not parameter.contains(value):
                return None
            params[key] = value
        return params


def at_key(tree: Any, key: str) -> Any:
    """What a tree of mappings has at a dotted key; None where it has nothing."""
    for part in key.split("."):
        if not isinstance(tree, Mapping):
            return None
        tree = tree.get(part)
    return tree


def canonical_choices(
    spec: SearchSpec, built: Sequence[tuple[Mapping[str, Any], ExperimentSpec]]
) -> dict[str, tuple[tuple[Any, Any], ...]]:
    """`SearchArm.canonical` of points that together show every choice."""
    found: dict[str, tuple[tuple[Any, Any], ...]] = {}
    for point, trial in built:
        tree = trial.model_dump(mode="json")
        for key, value in point.items():
            if isinstance(spec.space[key], ChoiceParameter) and value not in [
                v for v, _ in found.get(key, ())
            ]:
                found[key] = (*found.get(key, ()), (value, _own(at_key(tree, key), key, spec)))
    return found


def repeated_choices(
    spec: SearchSpec, built: Sequence[tuple[Mapping[str, Any], ExperimentSpec]]
) -> Iterator[tuple[str, Any, Any]]:
    """(key, a value, an earlier one that builds to the same), of points that together show every choice."""
    seen: dict[str, list[tuple[Any, Any]]] = {}
    for point, trial in built:
        tree = trial.model_dump(mode="json")
        for excluded in NO_PART_OF_A_TRIAL:
            *parents, leaf = excluded.split(".")
            block = at_key(tree, ".".join(parents)) if parents else tree
            block.pop(leaf)
        for key, value in point.items():
            known = seen.setdefault(key, [])
            if not isinstance(spec.space[key], ChoiceParameter) or value in [v for v, _ in known]:
                continue
            # Values that let different parameters take part are different settings.
            form = (_own(at_key(tree, key), key, spec), point.keys())
            yield from ((key, value, earlier) for earlier, other in known if other == form)
            known.append((value, form))


def unscored(spec: SearchSpec, trials: Sequence[ExperimentSpec]) -> Iterator[tuple[tuple[str, ...], str]]:
    """(key path within `search`, what is wrong there) where `score` is wanted of trials that are never evaluated."""
    if all(trial.eval.sets for trial in trials):
        return
    text = (
        f"`{SCORE}` is the mean over the evaluation sets, and eval.sets is empty. List a set under eval.sets, or name "
        "another metric."
    )
    if any(goal.metric == SCORE for goal in spec.goals):
        yield ("objectives",) if spec.objectives else ("metric",), text
    if SCORE in spec.constraints:
        yield ("constraints", SCORE), text


def _own(value: Any, key: str, spec: SearchSpec) -> Any:
    """A choice's value less what other parameters say inside it."""
    if not isinstance(value, Mapping):
        return value
    inside = {f"{key}.{name}" for name in value} & spec.space.keys()
    return {name: inner for name, inner in value.items() if f"{key}.{name}" not in inside}


def shown(value: Any) -> str:
    """A value as a name has it: numbers to four digits (the run's config.json has them whole)."""
    from .explain import written

    return f"{value:.4g}" if isinstance(value, float) else written(value)


def corners(spec: SearchSpec) -> Iterator[dict[str, Any]]:
    """Points that together show every bound and every choice, for a look at whether the experiment takes them.

    Each parameter's values are shown beside the first values of the others, within the conditions that let it take
    part.
    """
    order = order_of(spec.space)

    def point(wanted: Mapping[str, Any]) -> dict[str, Any]:
        params: dict[str, Any] = {}
        for key in order:
            if is_active(spec.space[key], params):
                params[key] = wanted.get(key, _ends(spec.space[key])[0])
        return params

    def with_conditions(key: str, value: Any) -> dict[str, Any]:
        wanted, left = {key: value}, [key]
        while left:
            for parent, allowed in spec.space[left.pop()].when.items():
                if parent not in wanted:
                    wanted[parent] = allowed[0] if isinstance(allowed, list) else allowed
                    left.append(parent)
        return wanted

    seen = []
    for key in order:
        for value in _ends(spec.space[key]):
            found = point(with_conditions(key, value))
            if found not in seen:
                seen.append(found)
                yield found


def _ends(parameter: Any) -> list[Any]:
    return (
        list(parameter.values) if isinstance(parameter, ChoiceParameter) else [parameter.low, parameter.high]
    )


def stops_of(spec: SearchSpec, trial: ExperimentSpec) -> tuple[int, ...]:
    """Steps at which a trial of the search pauses. Raises UsageError where there is nothing to compare then."""
    if spec.pruning is None:
        return ()
    evaluated = spec.goals[0].metric == SCORE or spec.goals[0].metric.startswith("eval/")
    every = trial.eval.every
    first = spec.pruning.first or every
    if first is None:
        raise UsageError(
            "pruning.first is missing, and eval.every is null: say after how many steps to compare."
        )
    stops = spec.pruning.stops(first, every or first, trial.steps)
    if not stops:
        raise UsageError(
            f"pruning.first {first} is not below the run's {trial.steps} steps, so nothing would ever pause. Lower "
            "it, or leave pruning out."
        )
    unseen = [step for step in stops if evaluated and (every is None or step % every)]
    if unseen:
        raise UsageError(
            f"pruning compares `{spec.goals[0].metric}` after {', '.join(map(str, stops))} steps, and a run is "
            f"evaluated every {every} (eval.every): there is no value after {unseen[0]}. Set `first` to a multiple "
            "of eval.every, or compare a metric of every step, such as rollout/reward."
        )
    return stops


def problems_of(
    spec: SearchSpec, seeds: list[int], keys: Mapping[str, str]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """(key path within `search`, what is wrong there); `keys` are the dotted keys of an experiment."""
    for key, parameter in spec.space.items():
        at = ("space", key)
        if key in ("seed", "extends", "name"):
            advice = (
                "Seeds are replicates: list them under the sweep's `seeds`."
                if key == "seed"
                else "Leave it out."
            )
            yield at, f"cannot be searched. {advice}"
        elif any(key == k or key.startswith(f"{k}.") for k in NO_PART_OF_A_TRIAL):
            yield (
                at,
                "does not change a run's result: all settings would be one and the same run. Leave it out.",
            )
        elif key not in keys:
            yield at, f"is no key of an experiment.{did_you_mean(key, keys)}"
        if isinstance(parameter, ChoiceParameter):
            values = parameter.values
            for value in [v for i, v in enumerate(values) if v in values[:i]]:
                yield (*at, "values"), f"{shown(value)} is there twice. Keep each value once."
        for other, wanted in parameter.when.items():
            controlling = spec.space.get(other)
            if controlling is None:
                hint = did_you_mean(other, spec.space)
                yield (*at, "when"), f"{other} is not in the space, so nothing can depend on it.{hint}"
                continue
            for value in wanted if isinstance(wanted, list) else [wanted]:
                if not controlling.contains(value):
                    yield (*at, "when"), f"{other} never is {value!r}: the parameter would never take part."
    try:
        order_of(spec.space)
    except ValueError as error:
        yield ("space",), str(error)
    wanted_seeds = {("seeds",): spec.seeds, ("racing", "seeds"): spec.racing.seeds if spec.racing else 0}
    for path, count in wanted_seeds.items():
        if count > len(seeds):
            yield (
                path,
                f"{count} seeds are wanted, and the sweep has {len(seeds)} ({seeds}). List more `seeds`.",
            )
    for metric in [goal.metric for goal in spec.goals] + list(spec.constraints):
        if metric.startswith("cost/") and metric not in COSTS:
            place = "constraints" if metric in spec.constraints else "metric"
            yield (
                (place,),
                f"there is no cost '{metric}'. Costs: {', '.join(COSTS)}.{did_you_mean(metric, COSTS)}",
            )
