"""Proposals are those of a plain Optuna loop, whoever asks, how often it was begun anew, and whatever ran beside."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from trb_lab.errors import MissingExtra, UsageError
from trb_lab.search.optuna import Asker, importance
from trb_lab.search.told import Proposal, Told
from trb_lab.seeds import derive
from trb_lab.spec.explain import written
from trb_lab.spec.search import SearchSpec, fits

pytest.importorskip("optuna")
import optuna

pytestmark = pytest.mark.long

SEED = 5
COSINE = {"kind": "cosine", "end": 0.1}
NUMBERS: dict[str, Any] = {
    "w.lr": {"kind": "float", "low": 1e-4, "high": 1.0, "log": True},
    "w.mix": {"kind": "float", "low": -1, "high": 2},
    "steps": {"kind": "int", "low": 2, "high": 20, "step": 3},
    "k": {"kind": "int", "low": 1, "high": 64, "log": True},
}
MIXED: dict[str, Any] = {
    "w.lr": NUMBERS["w.lr"],
    "steps": NUMBERS["steps"],
    "anneal": {"kind": "choice", "values": ["linear", COSINE, 3, None, False]},
}
CONDITIONAL: dict[str, Any] = {
    # Written before the parameter that it hangs on, to see that the order is found.
    "end": {"kind": "float", "low": 0, "high": 1, "when": {"anneal": ["cosine", "step"]}},
    "every": {"kind": "int", "low": 1, "high": 9, "when": {"anneal": "step"}},
    "lr": NUMBERS["w.lr"],
    "anneal": {"kind": "choice", "values": ["linear", "cosine", "step"]},
}


def numbers(trial: optuna.Trial) -> None:
    trial.suggest_float("w.lr", 1e-4, 1.0, log=True)
    trial.suggest_float("w.mix", -1, 2)
    trial.suggest_int("steps", 2, 20, step=3)
    trial.suggest_int("k", 1, 64, log=True)


def mixed(trial: optuna.Trial) -> None:
    trial.suggest_float("w.lr", 1e-4, 1.0, log=True)
    trial.suggest_int("steps", 2, 20, step=3)
    trial.suggest_categorical("anneal", ("linear", "{kind: cosine, end: 0.1}", "3", "null", "false"))


def conditional(trial: optuna.Trial) -> None:
    trial.suggest_float("lr", 1e-4, 1.0, log=True)
    anneal = trial.suggest_categorical("anneal", ("linear", "cosine", "step"))
    if anneal in ("cosine", "step"):
        trial.suggest_float("end", 0, 1)
    if anneal == "step":
        trial.suggest_int("every", 1, 9)


@dataclass(frozen=True)
class End:
    """How a candidate ends, and what is known of it from its beginning on."""

    state: str = "complete"
    values: tuple[float, ...] = ()
    intermediate: dict[int, float] = field(default_factory=dict)
    constraints: dict[str, float] = field(default_factory=dict)


def distance(params: dict[str, Any]) -> float:
    """A number that depends on every parameter."""
    total = 0.0
    for key, value in params.items():
        x = math.log(value) if key.endswith("lr") else value
        total += (x + 2) ** 2 if isinstance(x, int | float) else len(written(value))
    return total


def one_goal(number: int, params: dict[str, Any]) -> End:
    return End(values=(distance(params),))


def two_goals(number: int, params: dict[str, Any]) -> End:
    return End(values=(distance(params), -params["w.lr"]))


def bounded(number: int, params: dict[str, Any]) -> End:
    violations = {"kl": params["w.lr"] - 0.1, "tokens": 5.0 - params["steps"]}
    return End(values=(distance(params),), constraints=violations)


def mishaps(number: int, params: dict[str, Any]) -> End:
    value = distance(params)
    if number % 5 == 2:
        return End("failed")
    if number % 5 == 4:
        rungs = {3: value + 2} if number % 2 else {3: value + 2, 9: value + 1}
        return End("pruned", intermediate=rungs)
    return End(values=(value,), intermediate={3: value + 2})


@dataclass(frozen=True)
class Case:
    space: dict[str, Any]
    suggest: Callable[[optuna.Trial], None]
    sampler: Callable[[int], optuna.samplers.BaseSampler]
    end: Callable[[int, dict[str, Any]], End] = one_goal
    trials: int = 25
    at_once: int = 1
    spec: dict[str, Any] = field(default_factory=dict)

    def search(self) -> SearchSpec:
        base = {"space": self.space, "trials": self.trials, "seed": SEED}
        if "objectives" not in self.spec:
            base["direction"] = "minimize"
        return SearchSpec.model_validate({**base, **self.spec})


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed)


def groups(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)


def cma(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=2, popsize=4)


def cma_rungs(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=1, popsize=4, consider_pruned_trials=True)


CMA = {"sampler": {"kind": "cmaes", "startup_trials": 2, "population": 4}}
TWO = {
    "objectives": [{"metric": "a", "direction": "minimize"}, {"metric": "b", "direction": "maximize"}],
}
BOUNDS = {"constraints": {"kl": {"at_most": 0.1}, "tokens": {"at_least": 5}}}
CASES = {
    "random": Case(MIXED, mixed, optuna.samplers.RandomSampler, spec={"sampler": "random"}),
    "tpe": Case(MIXED, mixed, tpe),
    "tpe, three at once": Case(MIXED, mixed, tpe, at_once=3),
    "tpe, numbers": Case(NUMBERS, numbers, tpe, spec={"direction": "maximize"}),
    "tpe, startup": Case(
        MIXED,
        mixed,
        lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=3),
        trials=8,
        spec={"sampler": {"kind": "tpe", "startup_trials": 3}},
    ),
    "tpe, constraints": Case(MIXED, mixed, tpe, bounded, at_once=2, spec=BOUNDS),
    "tpe, mishaps": Case(MIXED, mixed, tpe, mishaps, trials=30, at_once=2, spec={"pruning": "asha"}),
    "tpe, conditions": Case(CONDITIONAL, conditional, groups, trials=30),
    "tpe, conditions, three at once": Case(CONDITIONAL, conditional, groups, trials=30, at_once=3),
    "tpe, two goals": Case(MIXED, mixed, tpe, two_goals, at_once=2, spec=TWO),
    "cmaes": Case(NUMBERS, numbers, cma, spec=CMA),
    "cmaes, three at once": Case(NUMBERS, numbers, cma, at_once=3, spec=CMA),
    "cmaes, rungs": Case(
        NUMBERS,
        numbers,
        cma_rungs,
        mishaps,
        spec={"sampler": {"kind": "cmaes", "population": 4}, "pruning": "asha"},
    ),
    "gp": Case(
        NUMBERS,
        numbers,
        lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=4),
        trials=6,
        at_once=2,
        spec={"sampler": {"kind": "gp", "startup_trials": 4}},
    ),
}


RUNS: dict[str | None, list[tuple[list[Told], Proposal]]] = {}
"""Of the cases, by name: several tests look at the same."""


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    needed = {"cmaes": ("cmaes",), "gp": ("torch", "scipy")}.get(request.param.split(",")[0], ())
    for package in needed:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    return CASES[request.param]


def plain(case: Case) -> list[dict[str, Any]]:
    """What Optuna alone proposes: trials overlap, `at_once` of them, and end in the order they began."""
    spec = case.search()
    study = optuna.create_study(directions=[goal.direction for goal in spec.goals])
    at_work: list[optuna.Trial] = []
    for number in range(case.trials):
        if len(at_work) == case.at_once:
            trial = at_work.pop(0)
            end = case.end(trial.number, trial.params)
            for step, value in end.intermediate.items():
                trial.report(value, step)
            for key, value in end.constraints.items():
                trial.set_constraint(key, value)
            state = {"complete": "COMPLETE", "failed": "FAIL", "pruned": "PRUNED"}[end.state]
            study.tell(trial, list(end.values) or None, state=optuna.trial.TrialState[state])
        study.sampler = case.sampler(derive(SEED, "search", number) % 2**32)
        at_work.append(study.ask())
        case.suggest(at_work[-1])
    return [trial.params for trial in study.get_trials()]


def categories(params: dict[str, Any]) -> dict[str, Any]:
    """Params as Optuna knows them."""
    return {key: written(value) if key == "anneal" else value for key, value in params.items()}


def asked(case: Case) -> list[tuple[list[Told], Proposal]]:
    """The same through an Asker: what it was told at each ask, and what it proposed."""
    name = next((name for name, known in CASES.items() if known is case), None)
    if name in RUNS:
        return RUNS[name]
    asker = Asker(case.search())
    told: list[Told] = []
    found: list[tuple[list[Told], Proposal]] = []
    study_attrs: dict[str, Any] = {}
    for number in range(case.trials):
        ended = number - case.at_once
        if ended >= 0:
            end = case.end(ended, categories(told[ended].params))
            told[ended] = replace(told[ended], **vars(end))
        proposal = asker.ask(number, list(told), study_attrs)
        found.append((list(told), proposal))
        told.append(Told(number, proposal.params, "running", attrs=proposal.attrs))
        study_attrs = proposal.study_attrs
    if name is not None:
        RUNS[name] = found
    return found


def through_json(told: list[Told]) -> list[Told]:
    """As read from files."""
    read = []
    for value in json.loads(json.dumps([vars(one) for one in told])):
        intermediate = {int(step): v for step, v in value["intermediate"].items()}
        read.append(Told(**{**value, "values": tuple(value["values"]), "intermediate": intermediate}))
    return read


def without_pickles(proposal: Proposal) -> Proposal:
    """CMA-ES keeps its state as a pickle, whose bytes differ between equal states."""
    notes = {key: value for key, value in proposal.attrs.items() if not key.startswith("cma:optimizer")}
    return replace(proposal, attrs={**notes, "parts": len(proposal.attrs)})


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_proposes_what_a_plain_loop_does(case: Case) -> None:
    expected = plain(case)
    got = [categories(proposal.params) for _, proposal in asked(case)]
    assert got == expected
    assert len({json.dumps(params, sort_keys=True) for params in got}) == case.trials  # none twice


def test_begun_anew_at_any_point(case: Case) -> None:
    spec = case.search()
    study_attrs: dict[str, Any] = {}
    every = 3 if case.trials > 10 else 5
    for number, (told, proposal) in enumerate(asked(case)):
        if number % every == 0:
            again = Asker(spec).ask(number, through_json(told), json.loads(json.dumps(study_attrs)))
            assert json.loads(json.dumps(vars(again))) == vars(again)
            assert without_pickles(again) == without_pickles(proposal)
        study_attrs = proposal.study_attrs


def test_proposals_fit_the_space(case: Case) -> None:
    spec = case.search()
    for _, proposal in asked(case):
        assert fits(spec.space, proposal.params)
        for key, value in proposal.params.items():
            assert type(value) is {"float": float, "int": int}.get(spec.space[key].kind, type(value))


def test_an_ask_leaves_nothing_behind() -> None:
    case = CASES["tpe"]
    told, proposal = asked(case)[-1]
    asker = Asker(case.search())
    for _ in range(3):
        assert asker.ask(24, told, {}) == proposal
    assert asker.ask(20, told[:20], {}) == Asker(case.search()).ask(20, told[:20], {})
    assert asker.ask(24, told, {}) == proposal
    assert asker.ask(25, told, {}) != proposal


def test_what_runs_is_avoided() -> None:
    case = CASES["tpe, numbers"]
    told = asked(case)[-1][0][:-1]
    asker = Asker(case.search())
    first = asker.ask(30, told, {})
    beside = [*told, Told(24, first.params, "running", attrs=first.attrs)]
    second = asker.ask(30, beside, {})  # the same draws: it differs for the one at work alone
    assert second.params != first.params
    failed = [*told, Told(24, first.params, "failed", attrs=first.attrs)]
    assert asker.ask(30, failed, {}).params == first.params


def test_a_paused_candidate_goes_on() -> None:
    case = CASES["tpe, mishaps"]
    told = asked(case)[-1][0]
    asker = Asker(case.search())
    paused = next(i for i, one in enumerate(told) if one.state == "pruned")
    before = asker.ask(29, told, {})
    for state, values in (("running", ()), ("complete", (0.1,)), ("complete", (99.0,)), ("pruned", ())):
        told = [*told]
        told[paused] = replace(told[paused], state=state, values=values)  # type: ignore[arg-type]
        assert asker.ask(29, told, {}) == Asker(case.search()).ask(29, through_json(told), {})
    assert asker.ask(29, told, {}) == before


def test_the_seed_decides() -> None:
    case = CASES["random"]
    firsts = {
        json.dumps(Asker(replace(case, spec={"sampler": "random", "seed": s}).search()).ask(0, [], {}).params)
        for s in range(4)
    }
    assert len(firsts) == 4


def test_a_candidate_without_a_value_counts_as_failed() -> None:
    case = CASES["tpe"]
    told = asked(case)[-1][0]
    without = [replace(one, state="failed", values=()) if one.number % 4 == 0 else one for one in told]
    nan = [replace(one, values=(math.nan,)) if one.number % 4 == 0 else one for one in told]
    asker = Asker(case.search())
    assert asker.ask(25, nan, {}) == asker.ask(25, without, {}) != asker.ask(25, told, {})


def test_a_constraint_that_was_not_measured_is_violated() -> None:
    case = CASES["tpe, constraints"]
    told = [one for one in asked(case)[-1][0] if one.state == "complete"]
    asker = Asker(case.search())
    kl = [replace(one, constraints={"tokens": one.constraints["tokens"], "kl": 1e9}) for one in told]
    nan = [replace(one, constraints={**one.constraints, "kl": math.nan}) for one in told]
    left = [replace(one, constraints={"tokens": one.constraints["tokens"]}) for one in told]
    assert asker.ask(25, nan, {}).params == asker.ask(25, left, {}).params
    mostly = [*left[:-3], *told[-3:]]
    assert asker.ask(25, mostly, {}).params == asker.ask(25, [*kl[:-3], *told[-3:]], {}).params
    assert asker.ask(25, left, {}).params != asker.ask(25, told, {}).params


def test_choices_come_back_as_they_were_written() -> None:
    values = ["linear", COSINE, 3, 3.5, None, False, [1, {"a": 2}], "3"]  # 3 and "3" are written alike
    spec = SearchSpec.model_validate(
        {"space": {"c": {"kind": "choice", "values": values}}, "trials": 40, "sampler": "random"}
    )
    asker = Asker(spec)
    seen: list[Any] = []
    for number in range(60):
        seen.append(
            asker.ask(number, [Told(i, {"c": v}, "running") for i, v in enumerate(seen)], {}).params["c"]
        )
    assert {json.dumps(value) for value in seen} == {json.dumps(value) for value in values}
    other_order = {"end": 0.1, "kind": "cosine"}
    assert Asker(spec).ask(1, [Told(0, {"c": other_order}, "running")], {}).params
    with pytest.raises(ValueError, match="c: sine is none of"):
        Asker(spec).ask(1, [Told(0, {"c": "sine"}, "running")], {})


def test_a_changed_proposal_is_the_callers() -> None:
    """A mapping that was handed out is no part of the space."""
    spec = SearchSpec.model_validate(
        {"space": {"c": {"kind": "choice", "values": [COSINE, {"kind": "x"}]}}, "trials": 1}
    )
    proposal = Asker(spec).ask(0, [], {})
    proposal.params["c"]["kind"] = "other"
    assert all(value["kind"] in ("cosine", "x") for value in spec.space["c"].values)  # type: ignore[union-attr]


# Quasi-Monte Carlo


def qmc(space: dict[str, Any], n: int, again: bool = False, **sampler: Any) -> list[dict[str, Any]]:
    spec = SearchSpec.model_validate(
        {"space": space, "trials": n, "seed": SEED, "sampler": {"kind": "qmc", **sampler}}
    )
    asker = Asker(spec)
    told: list[Told] = []
    attrs: dict[str, Any] = {}
    found = []
    for number in range(n):
        if again:
            asker, told, attrs = Asker(spec), through_json(told), json.loads(json.dumps(attrs))
        proposal = asker.ask(number, told, attrs)
        attrs = proposal.study_attrs
        state = ["complete", "failed", "running"][number % 3]
        told.append(Told(number, proposal.params, state, (1.0,) if state == "complete" else ()))  # type: ignore[arg-type]
        found.append(proposal.params)
    return found


@pytest.mark.parametrize("sequence", ["sobol", "halton"])
@pytest.mark.parametrize("scramble", [True, False])
def test_points_of_one_sequence(sequence: str, scramble: bool) -> None:
    from scipy.stats import qmc as points

    engine = {"sobol": points.Sobol, "halton": points.Halton}[sequence]
    n = 16
    expected = engine(3, scramble=scramble, seed=derive(SEED, "search") % 2**32).random(n)
    space = {
        "a": {"kind": "float", "low": -1, "high": 3},
        "b": {"kind": "float", "low": 0.01, "high": 1, "log": True},
        "c": {"kind": "choice", "values": ["x", COSINE, "z"]},
    }
    found = qmc(space, n, sequence=sequence, scramble=scramble)
    assert found == qmc(space, n, again=True, sequence=sequence, scramble=scramble)
    for params, (a, b, c) in zip(found, expected, strict=True):
        assert params["a"] == pytest.approx(-1 + 4 * a, abs=1e-12)
        assert params["b"] == pytest.approx(0.01 ** (1 - b), rel=1e-9)
        assert params["c"] == ["x", COSINE, "z"][int(3 * c)]
    if sequence == "sobol":  # each quarter of each parameter has a quarter of the points
        assert sorted(int(p["a"] + 1) for p in found) == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_plain_loop_has_the_same_points_one_later() -> None:
    """Optuna draws its first trial at random; that costs no point here."""
    study = optuna.create_study()
    for number in range(9):
        shift = derive(SEED, "search") % 2**32
        independent = optuna.samplers.RandomSampler(seed=number)
        study.sampler = optuna.samplers.QMCSampler(seed=shift, scramble=True, independent_sampler=independent)
        trial = study.ask()
        mixed(trial)
        study.tell(trial, 1.0)
    assert [categories(params) for params in qmc(MIXED, 8)] == [t.params for t in study.get_trials()][1:]


def test_conditions_do_not_split_the_sequence() -> None:
    whole = {key: {k: v for k, v in p.items() if k != "when"} for key, p in CONDITIONAL.items()}
    order = {key: whole[key] for key in ("lr", "anneal", "end", "every")}
    for some, every in zip(qmc(CONDITIONAL, 16), qmc(order, 16), strict=True):
        assert some == {key: every[key] for key in some}


# Refusals


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (MIXED, "anneal is a choice"),
        ({**NUMBERS, "e": {"kind": "float", "low": 0, "high": 1, "when": {"k": 3}}}, "e has `when`"),
        (CONDITIONAL, "end, every have `when`"),
        ({"steps": NUMBERS["steps"]}, "steps is the only parameter"),
    ],
)
def test_cmaes_takes_numbers(space: dict[str, Any], named: str) -> None:
    spec = SearchSpec.model_validate({"space": space, "trials": 3, "sampler": "cmaes"})
    with pytest.raises(UsageError, match=named):
        Asker(spec)


@pytest.mark.parametrize(
    ("sampler", "package", "install"),
    [
        ("tpe", "optuna", r"pip install 'trb-lab\[driver\]'"),
        ("cmaes", "cmaes", r"pip install 'trb-lab\[driver\]'"),
        ("qmc", "scipy", r"pip install 'trb-lab\[driver\]'"),
        ("gp", "scipy", r"pip install 'trb-lab\[driver\]'"),
        ("gp", "torch", "pip install torch"),
    ],
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, sampler: str, package: str, install: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    spec = SearchSpec.model_validate({"space": NUMBERS, "trials": 3, "sampler": sampler})
    with pytest.raises(MissingExtra, match=install):
        Asker(spec)


def test_one_value_for_each_goal() -> None:
    case = CASES["tpe, two goals"]
    params = asked(replace(case, trials=1))[0][1].params
    with pytest.raises(ValueError, match="#7 is complete with 1 values for 2 goals"):
        Asker(case.search()).ask(8, [Told(7, params, "complete", (1.0,))], {})


def test_ten_thousand_candidates() -> None:
    spec = SearchSpec.model_validate({"space": MIXED, "trials": 20000})
    draw = random.Random(0)
    told = [
        Told(i, {"w.lr": draw.uniform(1e-4, 1), "steps": 2, "anneal": COSINE}, "complete", (draw.random(),))
        for i in range(10000)
    ]
    asker = Asker(spec)
    first = asker.ask(10000, told, {})
    asker.ask(10001, [*told, Told(10000, first.params, "running", attrs=first.attrs)], {})
    assert first.params.keys() == told[0].params.keys()


# Importance


def rated(n: int, **spec: Any) -> tuple[SearchSpec, list[Told]]:
    space: dict[str, Any] = {  # not in order of their names
        "z.much": {"kind": "float", "low": 0, "high": 1},
        "some": {"kind": "choice", "values": [COSINE, "x", "y"]},
        "a.none": {"kind": "int", "low": 0, "high": 9},
        "only": {"kind": "float", "low": 0, "high": 1, "when": {"some": "x"}},
    }
    search = SearchSpec.model_validate({"space": space, "trials": n, "sampler": "random", **spec})
    asker = Asker(search)
    told: list[Told] = []
    for number in range(n):
        params = asker.ask(number, told, {}).params
        first = 3 * params["z.much"] + (params["some"] == "x")
        values = (first, float(params["a.none"])) if search.objectives else (first,)
        told.append(Told(number, params, "complete", values, {2: 1.0}))
    return search, told


def test_importance_ranks_parameters() -> None:
    spec, told = rated(60)
    shares = importance(spec, told)["score"]
    assert list(shares) == ["z.much", "some", "a.none"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["z.much"] > 0.6 > 0.05 > shares["a.none"]
    assert importance(spec, through_json(told)) == {"score": shares}
    assert list(importance(spec, told)["score"]) == list(shares)
    unfinished = [Told(100 + i, one.params, "pruned", (), {2: 5.0}) for i, one in enumerate(told)]
    broken = [replace(one, number=200 + one.number, values=(math.nan,)) for one in told]
    assert importance(spec, [*told, *unfinished, *broken]) == {"score": shares}


def test_importance_of_each_goal() -> None:
    goals = {"objectives": [{"metric": "a"}, {"metric": "b", "direction": "minimize"}]}
    shares = importance(*rated(40, **goals))
    assert next(iter(shares["a"])) == "z.much"
    assert next(iter(shares["b"])) == "a.none"


def test_importance_that_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, told = rated(20)
    assert importance(spec, []) == {}
    assert importance(spec, told[:7]) == {}
    assert importance(spec, told[:8]) != {}
    assert importance(spec, [replace(one, values=(0.5,)) for one in told]) == {}
    assert importance(spec, [replace(one, state="running", values=()) for one in told]) == {}
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert importance(spec, told) == {}
