"""What came out, in sentences made from the numbers.

Nothing is called better or worse unless the difference from the reference arm survives the report's correction (Holm's)
for all that were compared with it: every setting of every arm, at the final checkpoint, and again every arm with its
whole grid, under the fair selection rule. Every claim carries its interval and its number of seeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from trb_lab.spec.report import StatisticsSpec

from .arms import Arm, arm_differences
from .collect import MEAN, SweepData
from .judging import coverage, level_words, significant
from .plot_curves import early_steps, reference_score
from .selection_table import optimism
from .settings import UNFINISHED_STATES, Setting, differences, distinct, reference_setting
from .stats import Difference, difference, mean, pooled_sd, seeds_needed
from .tables import signed

EFFECTS_POINTS = (1, 3, 5)
NO_COMMON_SETS = "The settings have no evaluation set in common, so they are not compared."


def counts(data: SweepData) -> dict[str, int]:
    """Planned and completed trials, those of each unfinished state, and missing ones.

    A trial that several settings share counts once.
    """
    trials = data.trials.drop_duplicates("run_id")
    states = Counter(trials["state"])
    shown = {state: states[state] for state in ("completed", *UNFINISHED_STATES)}
    return {"planned": len(trials), **shown, "missing": len(trials) - sum(shown.values())}


def shared_rows(data: SweepData) -> str:
    """`27 rows, 24 runs` where settings share trials; empty where they do not."""
    rows, runs = len(data.trials), data.trials["run_id"].nunique()
    return f"{rows} rows, {runs} runs" if rows != runs else ""


def findings(
    data: SweepData,
    settings: list[Setting],
    arms: Sequence[Arm] = (),
    statistics: StatisticsSpec | None = None,
) -> list[str]:
    """Paragraphs for the head of the report, most important first; `arms` adds what the selection rules say."""
    judged = statistics or StatisticsSpec()
    reference = reference_setting(settings)
    settings = distinct(settings)
    gaps = differences(settings, level=judged.level)
    compared = _versus(settings, reference, gaps, judged) if data.mean_sets else NO_COMMON_SETS
    paragraphs = [_completeness(data), compared, _rules(arms, judged) if data.mean_sets else ""]
    paragraphs += [_anchors(data, reference), _early(data, settings, reference, judged)]
    paragraphs.append(power_note(gaps, judged))
    # No-break spaces keep numbers with their units.
    return [p.replace(" %", "\u00a0%") for p in paragraphs if p]


def _completeness(data: SweepData) -> str:
    n = counts(data)
    open_trials = n["running"] + n["interrupted"] + n["missing"]
    parts = []
    if open_trials:
        parts.append(
            f"This sweep is not finished: {open_trials} of {n['planned']} trials are still to come, and "
            "the numbers will change."
        )
    if n["failed"]:
        parts.append(
            f"{n['failed']} of {n['planned']} trials failed; their settings are compared on the seeds that "
            "finished, which need not be a fair sample."
        )
    if n["cancelled"]:
        parts.append(f"{n['cancelled']} of {n['planned']} trials were cancelled.")
    return " ".join(parts)


def _versus(
    settings: list[Setting],
    reference: Setting | None,
    gaps: dict[str, Difference],
    judged: StatisticsSpec,
) -> str:
    """The main comparison: every setting with the reference, with the number of settings tried."""
    if reference is None:
        return "The sweep has no reference arm, so settings are not compared with one."
    if not reference.mean_scores():
        return f"No seed of {reference.title} has finished, so nothing can be compared with it yet."
    if all(s.key == reference.key for s in settings):
        return ""  # nothing beside it has a row: a search tells of its own settings
    titles = {s.key: s.title for s in settings}
    tested = {k: g.p_value for k, g in gaps.items() if g.p_value is not None}
    if not tested:
        return (
            f"No setting can be told from {reference.title}: with one finished seed (or "
            "differences without any "
            "spread) there is no interval, and the table shows single runs, not a result."
        )
    seeds = _seed_words(gaps, tested)
    compared = f"{len(tested)} setting{'s' * (len(tested) != 1)} compared"
    certain = list(significant(gaps, judged)[0])
    alone = [k for k in tested if gaps[k].significant]
    level, correction = level_words(judged), _correction(judged)
    how = " (Holm)" * (judged.correction == "holm")
    if certain:
        listed = "; ".join(f"{titles[k]} by {interval_words(gaps[k])}" for k in _by_size(certain, gaps))
        text = f"Different from {reference.title} at the {level}, {correction} {compared}{how}, {seeds}: {listed}."
        rest = len(tested) - len(certain)
        return text + (f" The other {rest} cannot be told from it." if rest else "")
    largest = _by_size(list(tested), gaps)[0]
    size = f"the largest difference is {interval_words(gaps[largest])}, of {titles[largest]}"
    if not alone:
        return f"No setting differs from {reference.title} at the {level} {seeds} ({compared}); {size}."
    chance = judged.level * len(tested)
    return (
        f"No setting differs from {reference.title} at the {level} {seeds} once {len(tested)} comparisons are "
        f"corrected for (Holm). Taken alone, {len(alone)} of {len(tested)} would pass; "
        f"{chance:.1f} would by chance if "
        f"no setting had an effect. {size[0].upper()}{size[1:]}, uncorrected."
    )


def _correction(judged: StatisticsSpec) -> str:
    return "corrected for" if judged.correction == "holm" else "not corrected for"


def _rules(arms: Sequence[Arm], judged: StatisticsSpec) -> str:
    """Arms with their whole grids under the fair rule, and what the paper's rule would have added."""
    reference = next((a for a in arms if a.is_reference), None)
    if reference is None or reference.fair is None or len(arms) < 2:
        return ""
    fair = [a for a in arms if a.fair is not None]
    gaps = {k: g for k, g in arm_differences(fair, MEAN, judged.level).items() if g.p_value is not None}
    labels = {a.name: a.label for a in arms}
    gains = {a.name: gain for a in fair if (gain := optimism(a.paper, a.fair)) is not None}
    told = ""
    if gains:
        most = max(gains, key=lambda k: (gains[k], k))
        tried = next(a.paper_tried for a in arms if a.name == most)
        told = (
            f" The paper's rule reports {signed(mean(gains.values()))} points more than the fair rule on average over "
            f"arms, and at most {signed(gains[most])} ({labels[most]}, {tried} candidates tried)."
        )
    if not gaps:
        return f"Under the fair rule no arm can be told from {reference.label}: there is no interval.{told}"
    certain = _by_size(list(significant(gaps, judged)[0]), gaps)
    against = (
        f"{reference.label} at the {level_words(judged)}, {_correction(judged)} {len(gaps)} "
        f"arm{'s' * (len(gaps) != 1)}{' (Holm)' * (judged.correction == 'holm')}"
    )
    if certain:
        listed = "; ".join(f"{labels[k]} by {interval_words(gaps[k])}" for k in certain)
        return f"Under the fair rule, different from {against}: {listed}.{told}"
    largest = _by_size(list(gaps), gaps)[0]
    return (
        f"Under the fair rule no arm differs from {against}; the largest difference is "
        f"{interval_words(gaps[largest])}, of {labels[largest]}.{told}"
    )


def _by_size(keys: list[str], gaps: dict[str, Difference]) -> list[str]:
    return sorted(keys, key=lambda k: (-abs(gaps[k].mean), k))


def interval_words(gap: Difference) -> str:
    """`+1.2 points (95 % interval -3.0 to +5.4)`."""
    text = f"{signed(gap.mean)} points"
    if gap.half_width is None:
        return text
    low, high = signed(gap.mean - gap.half_width), signed(gap.mean + gap.half_width)
    return f"{text} ({coverage(StatisticsSpec(level=gap.level))} interval {low} to {high})"


def _seed_words(gaps: dict[str, Difference], keys: dict[str, float]) -> str:
    numbers = sorted({gaps[k].n for k in keys})
    span = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return f"with {span} seeds"


def _anchors(data: SweepData, reference: Setting | None) -> str:
    """Where the reference arm ends between the untrained student and the teacher."""
    student, teacher = reference_score(data, "student"), reference_score(data, "teacher")
    if reference is None or not reference.mean_scores() or student is None or teacher is None:
        return ""
    score = mean(reference.mean_scores().values())
    return (
        f"The reference arm, {reference.title}, ends at {100 * score:.1f} % (mean over sets); the "
        "untrained student has "
        f"{100 * student:.1f} %, the teacher {100 * teacher:.1f} %."
    )


def _early(
    data: SweepData, settings: list[Setting], reference: Setting | None, judged: StatisticsSpec
) -> str:
    """Whether early rollouts earned more than the reference arm's, for the setting with the largest
    difference.
    """
    if reference is None or "rollout/reward" not in data.curves:
        return ""
    steps = early_steps(settings)
    rewards = _early_rewards(data, settings, steps)
    gaps = {
        s.key: difference(rewards[s.key], rewards[reference.key], judged.level)
        for s in settings
        if s.key != reference.key
    }
    known = {k: g for k, g in gaps.items() if g is not None and g.p_value is not None}
    if not known:
        return ""
    certain = len(significant(known, judged)[0])
    largest = _by_size(list(known), known)[0]
    title = next(s.title for s in settings if s.key == largest)
    return (
        f"Early rollouts (share correct over the first {steps} steps, "
        f"{_seed_words(known, dict.fromkeys(known, 0.0))}): "
        f"{certain} of {len(known)} settings differ from {reference.title}"
        f"{' after correction' * (judged.correction == 'holm')}; the largest difference is "
        f"{interval_words(known[largest])}, of {title}."
    )


def _early_rewards(data: SweepData, settings: list[Setting], steps: int) -> dict[str, dict[int, float]]:
    """Setting -> seed -> mean rollout reward of the first steps, for runs that have made them all."""
    early = data.curves[data.curves["step"] < steps].dropna(subset=["rollout/reward"])
    by_run = {str(k): v for k, v in early.groupby("run_id")["rollout/reward"] if len(v) >= steps}
    return {
        s.key: {seed: mean(map(float, by_run[r])) for seed, r in s.run_ids.items() if r in by_run}
        for s in settings
    }


def power_note(
    gaps: Mapping[str, Difference], statistics: StatisticsSpec | None = None, compared: str = "two settings"
) -> str:
    """How many seeds differences of a few points would need, at the spread that these showed; empty without any.

    compared: what differs in each.
    """
    judged = statistics or StatisticsSpec()
    spread = pooled_sd(gaps.values())
    if not spread:
        return ""
    needs = [seeds_needed(100 * spread, effect, level=judged.level) for effect in EFFECTS_POINTS]
    words = ["more than 1000" if n is None else str(n) for n in needs]
    effects = [str(e) for e in EFFECTS_POINTS]
    return (
        f"Power: the difference between {compared} on the same seed spreads by {100 * spread:.1f} points (standard "
        f"deviation). To find a true difference of {_listed(effects)} points four times out of five (paired t test, "
        f"{level_words(judged)}, one comparison) takes {_listed(words)} seeds."
    )


def _listed(words: list[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1]
