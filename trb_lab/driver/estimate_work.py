"""What is left to do of a plan: runs, or parts of runs, at least and at most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from trb_lab.driver.action import Action
from trb_lab.driver.candidates import SearchRun
from trb_lab.driver.estimate_basis import FinishedRun, Wanted, wanted_of
from trb_lab.driver.plan import Plan, PlannedSearch, Trial
from trb_lab.driver.search_context import searched_blocks
from trb_lab.driver.search_counts import ENDED, SearchCounts, count_search, is_open, steps_done
from trb_lab.spec import ExperimentSpec
from trb_lab.spec.experiment import ModelSpec
from trb_lab.store.run_dir import Store
from trb_lab.store.status import TrialState, state_of
from trb_lab.trial import model_fingerprint, plan_trial

_OPEN = (Action.NEW, Action.RESUME, Action.RETRY, Action.ATTACH)


@dataclass(frozen=True)
class Part:
    """The updates of a run from `begin` to `end`."""

    begin: int
    end: int


@dataclass(frozen=True)
class Work:
    """A kind of run that is left to do, as it is at least and at most."""

    label: str
    """What it is for: the arm, and of a search the reason."""
    wanted: Wanted
    steps: int
    """Of a whole run."""
    every: int | None
    """Steps between evaluations."""
    evaluated: bool
    gpus: int
    """GPUs of a run, where it runs on any."""
    low: Part | None
    """None where it may not come to it."""
    high: Part

    def seconds(self, run: FinishedRun) -> tuple[float, float]:
        """At least and at most, if it goes as this finished run went."""
        low, high = (
            run.seconds(part.begin, part.end, self.steps, self.every, self.evaluated) if part else 0.0
            for part in (self.low, self.high)
        )
        return low, high


def work_of(plan: Plan, store: Store, counts: Mapping[str, SearchCounts] | None = None) -> Counter[Work]:
    """Everything that is left to do of a plan, but for evaluations of references and of finished trials.

    `counts` are those of its searches, by arm, where they are known already.
    """
    return _Collector(plan, store).everything(counts or {})


class _Collector:
    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self.store = plan, store
        self._prints: dict[tuple[str, str | None], str] = {}
        self._shared: set[str] = set(plan.trials)
        """Run ids that are counted already."""

    def everything(self, counts: Mapping[str, SearchCounts]) -> Counter[Work]:
        found: Counter[Work] = Counter()
        found.update(self._trials())
        for name, search in self.plan.searches.items():
            for work, count in self._search(search, counts.get(name)):
                found[work] += count
        return found

    def _trials(self) -> Iterator[Work]:
        arms = {row.run_id: row.draft.arm for row in reversed(self.plan.rows)}
        for run_id, trial in self.plan.trials.items():
            if trial.action in _OPEN:
                part = Part(self._done(trial), trial.spec.steps)
                yield self._work(arms[run_id], trial.spec, part, part)

    def _done(self, trial: Trial) -> int:
        if trial.action is Action.NEW:
            return 0
        return steps_done(trial.run_dir, state_of(trial.run_dir)) or 0

    def _work(
        self, label: str, spec: ExperimentSpec, low: Part | None, high: Part, masked: Sequence[str] = ()
    ) -> Work:
        return Work(
            label=label,
            wanted=wanted_of(spec, masked, self._print_of),
            steps=spec.steps,
            every=spec.eval.every,
            evaluated=bool(spec.eval.sets),
            gpus=max(1, spec.resources.local_gpus),
            low=low,
            high=high,
        )

    def _print_of(self, model: ModelSpec) -> str:
        key = (model.name, model.revision)
        if key not in self._prints:
            self._prints[key] = model_fingerprint(model)
        return self._prints[key]

    def _search(self, search: PlannedSearch, counts: SearchCounts | None) -> Iterator[tuple[Work, int]]:
        arm, spec = search.arm, search.arm.spec
        counts = counts or count_search(search, self.store, self._shared)
        settings = self._work(arm.name, arm.example, None, Part(0, arm.steps), searched_blocks(arm))
        whole = Part(0, arm.steps)
        first = Part(0, arm.stops[0] if arm.stops else arm.steps)
        # The winners run last: where they are known, nothing goes on and nobody races any more.
        is_over = bool(counts.confirmations) and not counts.left
        yield from self._candidates(counts, settings, is_over)
        if counts.left:
            yield (
                replace(settings, label=f"{arm.name}: settings to ask for", low=first),
                (counts.left * len(arm.starting_seeds)),
            )
        if spec.racing is not None and not is_over:
            entrants = min(spec.trials + counts.known + counts.grid, spec.racing.settings)
            added = sum(len(c.runs) - len(c.starting) for c in counts.candidates.values())
            most = entrants * (spec.racing.seeds - len(arm.starting_seeds)) - added
            if most > 0:
                yield replace(settings, label=f"{arm.name}: racing", high=whole), most
        yield from self._confirmation(search, counts, replace(settings, label=f"{arm.name}: confirmation"))

    def _candidates(self, counts: SearchCounts, settings: Work, is_over: bool) -> Iterator[tuple[Work, int]]:
        """What is left of the settings that were asked for: those that pause may go on, or not."""
        steps = settings.steps
        for candidate in counts.candidates.values():
            for run in candidate.runs.values():
                if self._is_counted(run) or run.state in ENDED or candidate.state == "failed":
                    continue
                low, high = None, Part(run.steps_done, steps)
                if is_open(candidate, run):
                    until = max(run.steps_done, steps if run.whole else candidate.allowed)
                    low = Part(run.steps_done, until)
                    high = low if is_over else high
                elif is_over:
                    continue
                starts = any(run is first for first in candidate.starting)
                label = settings.label if starts else f"{settings.label}: racing"
                yield replace(settings, label=label, low=low, high=high), 1

    def _confirmation(
        self, search: PlannedSearch, counts: SearchCounts, settings: Work
    ) -> Iterator[tuple[Work, int]]:
        arm, confirm = search.arm, search.arm.spec.confirm
        if confirm is None:
            return
        if counts.confirmations:
            for run in counts.confirmations:
                if not self._is_counted(run) and run.state not in ENDED:
                    part = Part(run.steps_done, int(run.row["spec"]["steps"]))
                    like = settings
                    if run.row["arm"] != arm.name:
                        spec = ExperimentSpec.model_validate(run.row["spec"])
                        like = self._work(settings.label, spec, part, part)
                    yield replace(like, low=part, high=part), 1
            return
        whole = Part(0, arm.steps)
        settings_there = min(confirm.settings, arm.spec.trials + counts.known + counts.grid)
        # With several goals the front, and with pruning those that came to the end, may be fewer.
        sure = settings_there if len(arm.spec.goals) == 1 and not arm.stops else 1
        seeds = len(arm.fresh_seeds)
        yield replace(settings, low=whole, high=whole), sure * seeds
        if settings_there > sure:
            yield replace(settings, low=None, high=whole), (settings_there - sure) * seeds
        for seed in arm.fresh_seeds if arm.reference is not None else ():
            spec = arm.reference(seed).spec  # type: ignore[misc]
            run_dir = self.store.trial(plan_trial(spec).run_id)
            state = state_of(run_dir)
            if run_dir.run_id in self._shared or state is TrialState.COMPLETED:
                continue
            self._shared.add(run_dir.run_id)
            part = Part(steps_done(run_dir, state) or 0, spec.steps)
            yield self._work(settings.label, spec, part, part), 1

    def _is_counted(self, run: SearchRun) -> bool:
        """Whether another part of the sweep wants the same run; from now on it does."""
        if run.run_id in self._shared:
            return True
        self._shared.add(run.run_id)
        return False
