"""A search as the report tells it: `search/ARM.summary.json`, made from its log and its runs at any time."""

from __future__ import annotations

from collections import Counter
from typing import Any

from trb_lab.driver.candidates import SearchRun
from trb_lab.driver.search_state import SearchState
from trb_lab.search.measures import key_of, quantities
from trb_lab.search.racing import interval
from trb_lab.store.run_dir import SweepDir, write_json


def write_summary(search: SearchState, sweep: SweepDir, whole: bool = True) -> None:
    """Write it, unless there is nothing to tell yet. Without `whole`, without what takes long to compute."""
    if search.candidates:
        write_json(sweep.search_summary(search.arm.name), summary(search, whole))


def summary(search: SearchState, whole: bool = True) -> dict[str, Any]:
    """Everything that was tried, and what came of it. Scores are fractions of 1."""
    arm, spec = search.arm, search.spec
    names = [key_of(q) for q in quantities(spec)]
    goals = dict(zip([goal.metric for goal in spec.goals], names, strict=False))
    bounds = dict(zip(spec.constraints, names[len(goals) :], strict=True))
    candidates = [_candidate(search, number, goals, bounds) for number in search.candidates]
    best = search.best()
    several = len(spec.goals) > 1
    return {
        "arm": arm.name,
        "context": search.context,
        "label": arm.label,
        "sampler": spec.sampler.model_dump(mode="json"),
        "trials": spec.trials,
        "seed": spec.seed,
        "steps": arm.steps,
        "goals": [goal.model_dump(mode="json") for goal in spec.goals],
        "constraints": {metric: bound.model_dump(mode="json") for metric, bound in spec.constraints.items()},
        "space": {key: parameter.model_dump(mode="json") for key, parameter in spec.space.items()},
        "names": dict(arm.names),
        "pruning": spec.pruning.model_dump(mode="json") if spec.pruning is not None else None,
        "stops": list(arm.stops),
        "seeds": {
            "start": list(arm.starting_seeds),
            "all": list(arm.seeds),
            "fresh": list(arm.fresh_seeds),
        },
        "candidates": candidates,
        "best": None if several or not best else best[0],
        "front": best if several else [],
        "race": [
            {
                "number": v.number,
                "verdict": v.verdict,
                "difference": None if (d := v.difference) is None else [d.mean, d.low, d.high],
            }
            for v in search.race()
        ],
        "importance": _importance(search) if whole else {},
        "winners": list(search.winners),
        "confirmation": _confirmation(search, goals),
        "counts": dict(Counter(candidate["state"] for candidate in candidates)),
        "asked": search.asked,
        "known": search.of_origin("warm"),
        "grid": search.of_origin("grid"),
        "left_out": search.left_out,
        "over": search.over,
        "stopped": search.stopped,
    }


def _candidate(
    search: SearchState, number: int, goals: dict[str, str], bounds: dict[str, str]
) -> dict[str, Any]:
    candidate = search.candidates[number]
    values = {metric: candidate.values(name) for metric, name in goals.items()}
    complete = candidate.state == "complete"
    return {
        "number": number,
        "origin": candidate.decision.origin,
        "setting": candidate.setting,
        "params": candidate.params,
        "state": candidate.state,
        "time": candidate.decision.time,
        "runs": [_run(run) for run in candidate.runs.values()],
        "values": {metric: {str(seed): v for seed, v in found.items()} for metric, found in values.items()},
        "mean": {metric: candidate.mean(name) for metric, name in goals.items() if complete},
        "interval": {metric: interval(list(found.values())) for metric, found in values.items() if complete},
        "stops": {str(stop): value for stop, value in candidate.at_stops().items()}
        if len(goals) == 1
        else {},
        "constraints": {metric: candidate.mean(name) for metric, name in bounds.items() if complete},
        "feasible": search.is_feasible(candidate) if complete else None,
        "error": candidate.error,
    }


def _run(run: SearchRun) -> dict[str, Any]:
    return {"run_id": run.run_id, "seed": run.seed, "state": run.state, "steps_done": run.steps_done}


def _confirmation(search: SearchState, goals: dict[str, str]) -> list[dict[str, Any]]:
    """The winners and the reference on fresh seeds: a row each."""
    rows: dict[tuple[str, int | None], list[SearchRun]] = {}
    for run in search.confirmations:
        rows.setdefault((str(run.row["arm"]), run.row["search"]["number"]), []).append(run)
    return [
        {
            "arm": arm,
            "number": number,
            "setting": str(runs[0].row["setting"]),
            "runs": [_run(run) for run in runs],
            "values": {
                metric: {
                    str(run.seed): run.measured.values[name]
                    for run in runs
                    if run.state == "completed" and name in run.measured.values
                }
                for metric, name in goals.items()
            },
        }
        for (arm, number), runs in rows.items()
    ]


def _importance(search: SearchState) -> dict[str, dict[str, float]]:
    """Which parameters matter; empty where Optuna is not installed or cannot tell."""
    from trb_lab.errors import MissingExtra
    from trb_lab.search.optuna import importance

    try:
        return importance(search.spec, search.told())
    except MissingExtra:
        return {}
