"""What a search found, in sentences made from the numbers.

A value on the seeds that a setting was chosen by is the best of many and therefore too good: it is always said so, and
the fresh seeds are told apart from it. One seed names no winner.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from .search_data import FAILED, PAUSED, RUNNING, Candidate, Confirmed, Goal, Search, fresh_difference, number
from .settings import unfinished
from .stats import LEVEL, Difference, Interval, holm, t_interval

MOST_NAMED = 5
"""Settings that a sentence names one by one."""


def paragraphs(search: Search, reference_arm: str | None, reference_label: str) -> list[str]:
    """The head of the search's section, most important first."""
    told = [
        _progress(search),
        _outcome(search),
        _fresh(search, reference_arm, reference_label),
        _effort(search),
        _constraints(search),
        _failures(search),
    ]
    return [_tight(p) for p in told if p]


def headline(search: Search, reference_arm: str | None, reference_label: str) -> str:
    """The same in one paragraph, for a reader who wants the answer alone."""
    told = [
        _progress(search),
        _outcome(search),
        _fresh(search, reference_arm, reference_label),
    ]
    return _tight(f"Search of {search.label}: " + " ".join(p for p in told if p))


def _tight(text: str) -> str:
    """No-break spaces keep numbers with their units."""
    return text.replace(" %", "\u00a0%")


def many(n: int, what: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{n} {what}{'s' * (n != 1)}"


def named(words: list[str]) -> str:
    """`a, b and c`; beyond MOST_NAMED how many more there are."""
    if len(words) > MOST_NAMED:
        words = [*words[:MOST_NAMED], f"{len(words) - MOST_NAMED} more"]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def interval_words(goal: Goal, interval: Interval) -> str:
    """`35.1 % (95 % interval 33.0 to 37.2, 3 seeds)`."""
    if interval.low is None or interval.high is None:
        return f"{goal.words(interval.mean)} ({many(interval.n, 'seed')})"
    span = f"95 % interval {goal.number(interval.low)} to {goal.number(interval.high)}"
    return f"{goal.words(interval.mean)} ({span}, {many(interval.n, 'seed')})"


def change_words(goal: Goal, gap: Difference) -> str:
    """`+1.2 points (95 % interval -3.0 to +5.4, 3 seeds)`."""
    size = goal.change(gap.mean) + " points" * goal.is_percent
    if gap.half_width is None:
        return f"{size} ({many(gap.n, 'seed')}, no interval)"
    low, high = (goal.change(gap.mean + sign * gap.half_width) for sign in (-1, 1))
    return f"{size} (95 % interval {low} to {high}, {many(gap.n, 'seed')})"


def _progress(search: Search) -> str:
    """Whether the search is over, and whether it came to its end."""
    raw = search.raw
    at_work, asked, planned = len(search.in_state(RUNNING)), int(raw.get("asked", 0)), int(raw["trials"])
    why = raw.get("stopped")
    if not raw.get("over", True):
        ends = f" No more are proposed: {_sentence(why)}" if why else ""
        return (
            f"The search is not over: {asked} of {planned} settings have been proposed, {at_work} "
            f"{'is' if at_work == 1 else 'are'} at work, and the numbers will change.{ends}"
        )
    return f"The search ended early, after {asked} of {planned} settings: {_sentence(why)}" if why else ""


def _sentence(text: object) -> str:
    return str(text).strip().rstrip(".") + "."


def _outcome(search: Search) -> str:
    if not search.comparable:
        return _nothing(search)
    return _front(search) if len(search.goals) > 1 else _best(search)


def _nothing(search: Search) -> str:
    if not search.candidates:
        return "Nothing has been tried yet."
    if len(search.in_state(FAILED)) == len(search.candidates):
        return f"All {many(len(search.candidates), 'setting')} failed, so there is nothing to compare."
    if search.measured:
        return "No setting that ran to the end is inside the constraints, so there is no best one."
    return "No setting has run to the end, so there is no best one."


def _best(search: Search) -> str:
    best, goal, tried = search.best, search.goal, len(search.comparable)
    interval = best.interval(goal) if best else None
    if best is None or interval is None:
        return ""
    most = "highest" if goal.maximize else "lowest"
    if interval.n == 1:
        optimism = f", and as the best of {tried} its value is optimistic besides" if tried > 1 else ""
        return (
            f"The {most} {goal.metric} on the selection seeds is {goal.words(interval.mean)}, of {best.setting}, on "
            f"one seed: a single run, which names no winner{optimism}."
        )
    chosen = (
        f" It was chosen as the best of {tried} on these very seeds, so this value is optimistic."
        if tried > 1
        else ""
    )
    return (
        f"Best on the selection seeds is {best.setting}, with {goal.metric} {interval_words(goal, interval)}.{chosen}"
        f"{_race(search, best)}"
    )


def _race(search: Search, best: Candidate) -> str:
    """What more seeds said of the best few."""
    others = {n: v["verdict"] for n, v in search.verdicts.items() if n != best.number}
    if not others:
        return ""
    worse = [n for n, verdict in others.items() if verdict == "out"]
    left = [f"#{n}" for n in sorted(others) if n not in worse]
    text = f" Of {len(others)} others that raced it on more seeds, {len(worse)} left as worse"
    if not left:
        return text + "."
    return f"{text}; {named(left)} cannot be told from it."


def _front(search: Search) -> str:
    goals = [f"{g.direction} {g.metric}" for g in search.goals]
    front = [c for c in search.comparable if c.number in search.front]
    several = len(front) != 1
    members = named([f"#{c.number}" for c in front]) if front else "none"
    return (
        f"With {len(goals)} goals ({', '.join(goals)}) there is no single best setting. {len(front)} of "
        f"{many(len(search.comparable), 'setting')} {'are' if several else 'is'} on the Pareto front ({members}): no "
        "other is at least as good in every goal and better in one. The front too was chosen on these seeds, so its "
        "values are optimistic."
    )


def _fresh(search: Search, reference_arm: str | None, reference_label: str) -> str:
    """The winners on seeds that nothing was chosen by, and the reference arm on the same."""
    winners, reference = search.winners, search.reference(reference_arm)
    if not winners:
        planned = (search.raw.get("seeds") or {}).get("fresh")
        if not search.comparable:
            return ""
        if planned:
            return "The fresh seeds have not begun, so nothing says yet how much of this is luck."
        return "No fresh seeds are planned, so nothing says how much of this is luck."
    gaps = {
        (i, goal.metric): gap
        for i, winner in enumerate(winners)
        for goal in search.goals
        if reference is not None and (gap := fresh_difference(winner, reference, goal)) is not None
    }
    tested = {f"{i} {metric}": g.p_value for (i, metric), g in gaps.items() if g.p_value is not None}
    adjusted = holm(tested)
    parts = []
    for i, winner in enumerate(winners[:MOST_NAMED]):
        parts.append(_on_fresh_seeds(search, winner))
        for goal in search.goals:
            gap = gaps.get((i, goal.metric))
            if gap is not None:
                parts.append(
                    _against(goal, gap, adjusted.get(f"{i} {goal.metric}"), len(tested), reference_label)
                )
        if reference is not None and set(winner.run_ids) <= set(reference.run_ids):
            parts.append(f"These are the runs of {reference_label} itself.")
    return " ".join(parts)


def _on_fresh_seeds(search: Search, winner: Confirmed) -> str:
    known = {g: t_interval(list(winner.of(g).values())) for g in search.goals if winner.of(g)}
    if not known:
        return f"No fresh seed of {winner.setting} has finished ({unfinished(winner.states) or 'missing'})."
    missing = unfinished(winner.states)
    rest = f" ({missing})" if missing else ""
    if min(v.n for v in known.values()) == 1:
        values = ", ".join(f"{g.metric} {g.words(v.mean)}" for g, v in known.items())
        return f"On the one fresh seed that finished{rest}, {winner.setting} has {values}: a single run, and no result."
    told = ", ".join(f"{g.metric} {interval_words(g, v)}{_fall(search, winner, g)}" for g, v in known.items())
    return f"On fresh seeds, by which nothing was chosen, {winner.setting} has {told}{rest}."


def _fall(search: Search, winner: Confirmed, goal: Goal) -> str:
    """How far the fresh mean lies from the one that it was chosen by."""
    candidate = search.by_number(winner.number)
    before = candidate.mean(goal) if candidate else None
    if before is None:
        return ""
    return f" after {goal.words(before)} on the selection seeds"


def _against(goal: Goal, gap: Difference, p_value: float | None, tests: int, reference: str) -> str:
    about = f" in {goal.metric}" if not goal.is_percent else ""
    text = f"Its difference from {reference}{about} on the same seeds is {change_words(goal, gap)}"
    if p_value is None:
        return f"{text}, which is no result."
    corrected = f", corrected for {tests} comparisons (Holm)" if tests > 1 else ""
    if p_value >= LEVEL:
        return f"{text}: the two cannot be told apart at the 5 % level{corrected}."
    better = goal.better(gap.mean) > 0
    return f"{text}: {'better' if better else 'worse'} at the 5 % level{corrected}."


def sampler_words(search: Search) -> str:
    """`TPE (the first 10 at random)`."""
    sampler = search.raw.get("sampler") or {}
    kind = str(sampler.get("kind", "a sampler"))
    names = {"tpe": "TPE", "cmaes": "CMA-ES", "random": "random draws", "gp": "a Gaussian process"}
    if kind == "qmc":
        return f"a {str(sampler.get('sequence', 'sobol')).capitalize()} sequence"
    first = sampler.get("startup_trials")
    told = f" (the first {'one' if first == 1 else first} at random)" if first else ""
    return names.get(kind, kind) + told


def _effort(search: Search) -> str:
    """How many settings were tried, by whom, and what became of them."""
    origins = Counter(c.origin for c in search.candidates)
    names = [search.name(k) for k in search.raw.get("space") or {}]
    asked = origins["ask"]
    parts = [f"{many(asked, 'setting')} of {named(names)} {'was' if asked == 1 else 'were'} proposed by "]
    parts[0] += sampler_words(search)
    if origins["grid"]:
        parts.append(f"{origins['grid']} came from the arm's grid")
    known = origins["warm"]
    if known:
        parts.append(f"{known} {'was' if known == 1 else 'were'} known before from finished trials")
    complete, paused = len(search.in_state("complete")), search.in_state(PAUSED)
    ended = [f"{complete} ran to the end ({search.steps} steps)"]
    if paused:
        at = Counter(c.last_stop for c in paused)
        stops = [f"{n} at step {stop}" for stop, n in sorted((s, n) for s, n in at.items() if s is not None)]
        ended.append(f"{len(paused)} paused" + (f" ({', '.join(stops)})" if stops else ""))
    failed, running = len(search.in_state(FAILED)), len(search.in_state(RUNNING))
    ended.append(f"{failed} failed")
    if running:
        ended.append(f"{running} {'is' if running == 1 else 'are'} at work")
    return f"{', '.join(parts)}. Of the {len(search.candidates)} in all, {', '.join(ended[:-1])} and {ended[-1]}."


def constraint_words(metric: str, bounds: dict[str, Any]) -> str:
    """`policy/kl_mean (max) ≤ 0.05`."""
    over = bounds.get("over", "max")
    what = metric if over == "last" else f"{metric} ({over})"
    low, high = bounds.get("at_least"), bounds.get("at_most")
    if low is None:
        return f"{what} ≤ {number(float(high or 0.0))}"
    return f"{what} ≥ {number(low)}" if high is None else f"{number(low)} ≤ {what} ≤ {number(high)}"


def _constraints(search: Search) -> str:
    bounds = search.raw.get("constraints") or {}
    if not bounds or not search.measured:
        return ""
    outside = [c for c in search.measured if not c.feasible]
    told = ", ".join(constraint_words(metric, b) for metric, b in bounds.items())
    return (
        f"{len(outside) or 'None'} of {many(len(search.measured), 'setting')} that ran to the end "
        f"{'was' if len(outside) == 1 else 'were'} outside the constraints ({told}); such settings are never best."
    )


def _failures(search: Search) -> str:
    """The first message of each kind."""
    errors = Counter(str(c.error or "no message").strip() for c in search.in_state(FAILED))
    if not errors:
        return ""
    told = [f"{text} ({n})" for text, n in sorted(errors.items(), key=lambda e: (-e[1], e[0]))]
    return f"What failed said: {'; '.join(told[:3])}."
