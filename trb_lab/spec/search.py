"""A search: which settings an arm tries is decided as results come in, instead of by a grid.

Seeds are replicates and no parameter: the value of a setting is its mean over seeds. docs/search.md tells the whole.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from .base import Spec

SCORE = "score"
"""The metric that is the mean pass@1 over the evaluation sets of the arm's spec."""
COSTS = {
    "cost/seconds": "seconds of the run, evaluation included",
    "cost/rollout_seconds": "seconds of its rollouts",
    "cost/gpu_seconds": "seconds times GPUs",
    "cost/cpu_seconds": "processor time of the worker",
    "cost/student_tokens": "tokens that went forward through the student",
    "cost/teacher_tokens": "tokens that went forward through the teacher",
    "cost/peak_memory_gib": "most memory that the worker held, of the GPU where there is one",
}
"""Metrics that come of a run's clocks and counters; any other name is one of metrics.jsonl, or SCORE."""
Over = Literal["last", "mean", "max", "min"]


class _Parameter(Spec):
    when: dict[str, Any] = {}
    """Only where other parameters have these values: key -> a value, or a list of them."""


class FloatParameter(_Parameter):
    """A number between two bounds."""

    kind: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False
    """Even on a logarithmic scale."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        _check_bounds(self.low, self.high, self.log)
        return self

    def contains(self, value: Any) -> bool:
        """Whether the parameter may have this value."""
        return _is_number(value) and self.low <= value <= self.high


class IntParameter(_Parameter):
    """A whole number between two bounds, both included."""

    kind: Literal["int"] = "int"
    low: int
    high: int
    step: int = Field(1, ge=1)
    """Distance between two values, counted from `low`."""
    log: bool = False
    """Even on a logarithmic scale (step 1 only)."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        _check_bounds(self.low, self.high, self.log)
        if self.log and self.step != 1:
            raise ValueError(f"step {self.step} does not go with log: leave one of them out.")
        if (self.high - self.low) % self.step:
            below = self.high - (self.high - self.low) % self.step
            raise ValueError(
                f"high {self.high} is never reached from {self.low} in steps of {self.step}: write {below}."
            )
        return self

    def contains(self, value: Any) -> bool:
        return (
            _is_number(value) and value == int(value) and value in range(self.low, self.high + 1, self.step)
        )


class ChoiceParameter(_Parameter):
    """One of some values, in no order."""

    kind: Literal["choice"] = "choice"
    values: list[Any] = Field(min_length=2)
    """Whatever the key takes: numbers, names, whole blocks."""

    def contains(self, value: Any) -> bool:
        return value in self.values


Parameter = Annotated[FloatParameter | IntParameter | ChoiceParameter, Field(discriminator="kind")]


class TpeSampler(Spec):
    """Tree-structured Parzen estimator: models good and bad settings apart. Takes every kind of space."""

    kind: Literal["tpe"] = "tpe"
    startup_trials: int = Field(10, ge=1)
    """Settings drawn at random before the model is used."""


class CmaesSampler(Spec):
    """Covariance matrix adaptation, for two or more numbers that always take part (needs `cmaes`)."""

    kind: Literal["cmaes"] = "cmaes"
    startup_trials: int = Field(1, ge=1)
    """Settings drawn at random first."""
    population: int | None = Field(None, ge=3)
    """Settings of a generation; null takes 4 + 3 ln(numbers)."""


class RandomSampler(Spec):
    """Independent draws."""

    kind: Literal["random"] = "random"


class QmcSampler(Spec):
    """A low-discrepancy sequence: fills the space more evenly than random draws."""

    kind: Literal["qmc"] = "qmc"
    sequence: Literal["sobol", "halton"] = "sobol"
    scramble: bool = True
    """Shift the sequence at random, by the search's seed."""


class GpSampler(Spec):
    """A Gaussian process, for few and costly trials (needs torch where the driver runs)."""

    kind: Literal["gp"] = "gp"
    startup_trials: int = Field(10, ge=1)
    """Settings drawn at random before the model is used."""


def _shorthand(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Sampler = Annotated[
    Annotated[
        TpeSampler | CmaesSampler | RandomSampler | QmcSampler | GpSampler, Field(discriminator="kind")
    ],
    BeforeValidator(_shorthand, json_schema_input_type=str | dict[str, Any]),
]


class Goal(Spec):
    """A quantity of a finished run, and which way it should go."""

    metric: str = SCORE
    """`score` (mean pass@1 over the arm's sets), a key of metrics.jsonl, or a cost (docs/search.md)."""
    direction: Literal["maximize", "minimize"] = "maximize"
    over: Over = "last"
    """What of a run's steps counts."""


class Constraint(Spec):
    """A bound on a quantity of a finished run: settings outside it are never best."""

    at_most: float | None = None
    at_least: float | None = None
    over: Over = "max"
    """What of a run's steps counts."""

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.at_most is None and self.at_least is None:
            raise ValueError("a constraint needs `at_most` or `at_least`.")
        if self.at_most is not None and self.at_least is not None and self.at_least > self.at_most:
            raise ValueError(
                f"at_least {self.at_least:g} is above at_most {self.at_most:g}: nothing would be inside."
            )
        return self


class AshaPruning(Spec):
    """Asynchronous successive halving (arXiv 1810.05934): whoever is among the best 1/factor at a rung goes on."""

    kind: Literal["asha"] = "asha"
    first: int | None = Field(None, ge=1)
    """Training steps until the first rung; null takes the first evaluation."""
    factor: int = Field(3, ge=2)
    """Of so many settings one goes on, and a rung is so many times as far as the one before."""

    def stops(self, first: int, every: int, steps: int) -> tuple[int, ...]:
        """Steps at which a run pauses, below `steps`."""
        found, at = [], first
        while at < steps:
            found.append(at)
            at *= self.factor
        return tuple(found)


class MedianPruning(Spec):
    """A setting goes on where it is no worse than the median of the others at the same step."""

    kind: Literal["median"] = "median"
    first: int | None = Field(None, ge=1)
    """Training steps until the first comparison; null takes the first evaluation."""
    every: int | None = Field(None, ge=1)
    """Steps between two comparisons; null takes `eval.every`."""
    startup_trials: int = Field(5, ge=1)
    """Settings that must have reached a step before anything waits there."""

    def stops(self, first: int, every: int, steps: int) -> tuple[int, ...]:
        """Steps at which a run pauses, below `steps`."""
        return tuple(range(first, steps, self.every or every))


Pruning = Annotated[
    Annotated[AshaPruning | MedianPruning, Field(discriminator="kind")],
    BeforeValidator(_shorthand, json_schema_input_type=str | dict[str, Any]),
]


class RacingSpec(Spec):
    """More seeds where it is uncertain which setting is best."""

    settings: int = Field(4, ge=2)
    """The best so many take part."""
    seeds: int = Field(3, ge=2)
    """Most seeds of a setting, the first ones of the sweep's."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """A setting leaves the race where it is worse than the leader with this confidence (paired by seed)."""


class ConfirmSpec(Spec):
    """The winners, and the reference arm, on seeds that nothing was chosen by."""

    settings: int = Field(1, ge=1)
    """How many of the best; of a Pareto front at most so many."""
    seeds: int = Field(3, ge=1)
    """How many fresh seeds: the whole numbers after the largest of the sweep's."""


class SearchSpec(Spec):
    """Which settings of an arm to try is asked of a sampler, one after another."""

    space: dict[str, Parameter] = Field(min_length=1)
    """Dotted key -> what it may be."""
    trials: int = Field(ge=1)
    """Settings to try (settings known before do not count)."""
    sampler: Sampler = TpeSampler()
    """Who proposes settings: tpe, cmaes, random, qmc or gp."""
    seed: int = Field(0, ge=0)
    """Of the proposals; the runs have the sweep's seeds."""
    metric: str = SCORE
    """What is to be as good as possible: `score`, a key of metrics.jsonl, or a cost (docs/search.md)."""
    direction: Literal["maximize", "minimize"] = "maximize"
    objectives: list[Goal] = []
    """Several goals at once, in place of `metric` and `direction`: the report shows their Pareto front."""
    constraints: dict[str, Constraint] = {}
    """Metric -> its bounds."""
    seeds: int = Field(1, ge=1)
    """Every setting starts with so many seeds, the first ones of the sweep's."""
    pruning: Pruning | None = None
    """asha or median: settings that do badly pause early, and may go on later."""
    racing: RacingSpec | None = None
    """More seeds for the best settings, where it is uncertain which is best."""
    confirm: ConfirmSpec | None = ConfirmSpec()
    """Fresh seeds for the winner; null leaves that out."""
    warm_start: bool = True
    """Begin with what finished trials of this store say, where they are settings of this search."""
    parallel: int | None = Field(None, ge=1)
    """Settings at work at once; null takes what runs at once, and at most a fifth of `trials`."""

    @property
    def goals(self) -> tuple[Goal, ...]:
        """What is optimised, in order."""
        return tuple(self.objectives) or (Goal(metric=self.metric, direction=self.direction),)

    @property
    def most_at_once(self) -> int:
        """Settings at work at once, whatever the launcher offers."""
        return self.parallel or max(1, self.trials // 5)

    @model_validator(mode="after")
    def _goals_agree(self) -> Self:
        names = [goal.metric for goal in self.goals]
        if self.objectives and ({"metric", "direction"} & self.model_fields_set):
            raise ValueError("objectives stand in place of `metric` and `direction`: leave those out.")
        if len(set(names)) < len(names):
            raise ValueError(f"objectives name a metric twice ({', '.join(names)}). Keep each once.")
        if len(names) > 1:
            for key, what in (("pruning", self.pruning), ("racing", self.racing)):
                if what is not None:
                    raise ValueError(
                        f"{key} ranks settings by one metric, and there are {len(names)} objectives."
                    )
            if isinstance(self.sampler, CmaesSampler):
                raise ValueError("sampler cmaes takes one objective. Take tpe, random, qmc or gp.")
        if self.pruning is not None and names[0] in COSTS:
            raise ValueError(
                f"pruning compares runs at the same step, where a cost ({names[0]}) says little."
            )
        return self

    @model_validator(mode="after")
    def _race_widens(self) -> Self:
        if self.racing is not None and self.racing.seeds <= self.seeds:
            raise ValueError(
                f"racing adds seeds up to {self.racing.seeds}, and every setting starts with {self.seeds}: raise "
                "racing.seeds, or lower seeds."
            )
        return self


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_bounds(low: float, high: float, log: bool) -> None:
    if low >= high:
        raise ValueError(f"low {low:g} must be below high {high:g}.")
    if log and low <= 0:
        raise ValueError(f"log needs a low above 0 (given {low:g}).")


def order_of(space: dict[str, Any]) -> list[str]:
    """The keys, each after those that its `when` names. Raises ValueError for a circle."""
    order: list[str] = []
    left = dict(space)
    while left:
        ready = [key for key, p in left.items() if all(k in order for k in p.when if k in space)]
        if not ready:
            raise ValueError(f"`when` goes in a circle: {', '.join(left)}.")
        for key in ready:
            order.append(key)
            del left[key]
    return order


def is_active(parameter: Any, params: dict[str, Any]) -> bool:
    """Whether a parameter takes part, given the values of those before it."""
    for key, wanted in parameter.when.items():
        allowed = wanted if isinstance(wanted, list) else [wanted]
        if key not in params or params[key] not in allowed:
            return False
    return True


def fits(space: dict[str, Any], params: dict[str, Any]) -> bool:
    """Whether these are the values of exactly the parameters that take part, all within their bounds."""
    seen: dict[str, Any] = {}
    for key in order_of(space):
        if is_active(space[key], seen):
            if key not in params or not space[key].contains(params[key]):
                return False
            seen[key] = params[key]
    return seen.keys() == params.keys()
