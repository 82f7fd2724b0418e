"""A search at work: whenever a place is free, the next thing that is worth its cost.

In this order: what is paused and stands out goes on; a new setting is asked of the sampler; the best get more seeds
(racing); at the end the winners run on fresh seeds (confirm). There is no batch: every free place is filled at once.

Everything that is decided is written to the search's log before it is acted on, and everything else is read from the
run directories. So a driver may be killed at any moment, and the next one goes on as if it had not been.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from trb_lab.driver.action import Action, decide
from trb_lab.driver.candidates import ENDED_BADLY, Candidate, SearchRun, candidates_of
from trb_lab.driver.plan import PlannedSearch, plan_row
from trb_lab.driver.search_context import known_settings
from trb_lab.driver.search_state import SearchState
from trb_lab.errors import UsageError
from trb_lab.failpoints import reach
from trb_lab.launch.base import Job, JobStatus
from trb_lab.launch.follow import Fleet, Member
from trb_lab.search.pruning import Standing, may_go_on, next_stop
from trb_lab.search.racing import next_replicates
from trb_lab.search.told import Told
from trb_lab.spec import ExperimentSpec
from trb_lab.spec.trial_draft import TrialDraft
from trb_lab.store.identity import canonical_json
from trb_lab.store.run_dir import Store, read_json
from trb_lab.store.search_log import Decision, append
from trb_lab.trial import plan_trial, prepare

if TYPE_CHECKING:
    from trb_lab.search.optuna_file import StudyFile

SAVE_SECONDS = 5.0
"""Between two looks of others at the search: its Optuna file, and the cache of what was read."""

_SURELY = 3
"""Complete settings without a constraint's metric: some write it and others do not, but so many say that none does."""

Ask = Callable[[int, Sequence[Told], Mapping[str, Any]], Any]
"""(number, candidates so far, the sampler's notes) -> search.told.Proposal."""


@dataclass(frozen=True)
class Surroundings:
    """What a search has to know of the rest of the sweep."""

    store: Store
    retry: Collection[str] = ()
    """Classes of failures that are run again (retry.CLASSES)."""
    places: Mapping[str, JobStatus] | None = None
    """What a cluster holds."""
    whole: Collection[str] = ()
    """Run ids that the sweep's plan wants to their end."""
    spent: Callable[[], str | None] = lambda: None
    """Why nothing more is started, once a budget is spent."""
    names: dict[str, str] = field(default_factory=dict)
    """What each run id is called: filled as runs are started."""
    check: Callable[[], object] = lambda: None
    """Raises where another driver has taken over: called before anything is decided."""


class Search(SearchState):
    """One arm's search at work. Make it from the plan, `begin`, then `tick` after each look of the fleet."""

    def __init__(self, planned: PlannedSearch, around: Surroundings, ask: Ask | None = None) -> None:
        super().__init__(planned, around.store, around.whole)
        self.around = around
        self._ask_sampler = ask
        directory = around.store.sweep(planned.sweep)
        self.log = directory.search_log(self.arm.name)
        self._cancel_mark = directory.search_cancelled(self.arm.name)
        self._began = time.time()
        self._active: dict[str, None] = {}
        """Run ids that are followed, in order."""
        self._file: StudyFile | None = None
        self._next_save = 0.0
        self.view_problem: str | None = None
        """Why the views of the search are not up to date."""

    def begin(self, fleet: Fleet) -> None:
        """Take up what was begun, and what is known already."""
        self._learn_known()
        self._require_metrics()
        if any(c.state in ("complete", "paused") for c in self.candidates.values()):
            fleet.succeeded_before = True
        for candidate in self.candidates.values():
            if not any(self._stays_failed(run) for run in candidate.starting):
                for run in candidate.runs.values():
                    self._resume(fleet, candidate, run)
        for run in self.confirmations:
            self._resume(fleet, None, run)

    def _learn_known(self) -> None:
        """Settings of the arm's grid, and those that finished trials tell of, as candidates that cost nothing."""
        known: dict[str, Candidate] = {}
        for candidate in self.candidates.values():
            known.setdefault(canonical_json(candidate.params), candidate)
        for origin, settings in (("grid", self._grid()), ("warm", self._warm())):
            for params in settings:
                key = canonical_json(params)
                if key not in known:
                    known[key] = self._propose(params, origin=origin)
                # Also of one that is there: the grid may be new, or a driver have died before it wrote them down.
                self._take_up_seeds(known[key])

    def _take_up_seeds(self, candidate: Candidate) -> None:
        """Further seeds of a known setting: those of the sweep's grid, and what has finished."""
        for seed in self.arm.seeds:
            if seed in candidate.runs:
                continue
            row = self._row(self.arm.draft(candidate.number, candidate.params, seed), candidate.number)
            run = self._run_of(row)
            if run.run_id in self.around.whole or run.run_dir.result.exists():
                self._write(Decision("replicate", self.context, (row,), number=candidate.number))
                candidate.runs[seed] = run
                self._track(candidate, run)
                self._read(run)
                self._changed(candidate)

    def _grid(self) -> list[dict[str, Any]]:
        found = [self.arm.params_of(trial.model_dump(mode="json")) for trial in self.arm.grid_trials]
        return [params for params in found if params is not None]

    def _warm(self) -> list[dict[str, Any]]:
        """Nothing once a setting was asked for: what finishes later is somebody else's."""
        if not self.spec.warm_start or self._has_asked:
            return []
        return known_settings(self.arm, self.around.store)

    def _resume(self, fleet: Fleet, candidate: Candidate | None, run: SearchRun) -> None:
        """Go on with a run that somebody began, or that was decided and never started."""
        if self._stays_failed(run) or not (run.state in ENDED_BADLY or self._has_work(candidate, run)):
            return
        if run.run_id not in fleet.members and self.around.spent() is not None:
            action, _ = decide(run.run_dir, run.eval_sets, self.around.retry, self.around.places or {})
            if action is not Action.ATTACH:
                return  # begun, and left until there is a budget again
        self._start(fleet, candidate, run)

    def _stays_failed(self, run: SearchRun) -> bool:
        """Whether it failed, or was cancelled, and is not to be tried again."""
        if run.state not in ENDED_BADLY:
            return False
        action, _ = decide(run.run_dir, run.eval_sets, self.around.retry, self.around.places or {})
        return action in (Action.FAILED, Action.CANCELLED, Action.ADOPT)

    def tick(self, fleet: Fleet) -> None:
        """Take in what has ended, and fill the places that are free."""
        self._absorb(fleet)
        if not self._idle:
            self._require_metrics()
        if fleet.stopping or fleet.halted is not None:
            return
        while not self._idle and not self.over and self._has_room(fleet):
            self._idle = not self._next(fleet)

    def _require_metrics(self) -> None:
        """Raises UsageError where runs complete and none has a metric: it does not exist, most likely."""
        advice = "Mend the search's metric or constraint; what has run stays."
        if self._failed_for_want is not None and not any(
            c.values(self.goal) for c in self.candidates.values()
        ):
            raise UsageError(f"{self._failed_for_want} {advice}")
        complete = (
            [c for c in self.candidates.values() if c.state == "complete"] if self.spec.constraints else []
        )
        if len(complete) < _SURELY:
            return
        for metric in self.spec.constraints:
            lacking = [run.measured.missing.get(metric) for c in complete for run in c.starting]
            if all(text is not None for text in lacking):
                raise UsageError(f"{lacking[0]} {advice}")

    def _absorb(self, fleet: Fleet) -> None:
        for run_id in list(self._active):
            member = fleet.members[run_id]
            if member.ended:
                del self._active[run_id]
            for candidate, run in self._sharing[run_id]:
                if member.standing in ("waiting", "running"):
                    run.state = member.standing
                    continue
                self._read(run)
                if run.state not in ("completed", *ENDED_BADLY):
                    run.state = member.standing
                run.error = (member.error or run.error) if run.state in ENDED_BADLY else None
                self._changed(candidate)

    def _has_room(self, fleet: Fleet) -> bool:
        busy = {id(self._sharing[run_id][0][0]) for run_id in self._active}
        return fleet.free > 0 and len(busy) < self.spec.most_at_once

    def _next(self, fleet: Fleet) -> bool:
        """Do the one thing that comes next. Whether anything was there to do now."""
        self.stopped = "cancelled by hand" if self._is_cancelled() else self.around.spent()
        if self.stopped is not None:
            self.over = not self._active
            return False
        if self._promote(fleet):
            return True
        if self.asked < self.spec.trials:
            self._ask(fleet)
            return True
        if self._replicate(fleet):
            return True
        if self._active:
            return False
        # One whose worker somebody stopped may still win: the next driver goes on with it first.
        begun = [c for c in self.candidates.values() if c.state != "failed"]
        stopped = any(run.state == "interrupted" for c in begun for run in c.runs.values())
        if not stopped and (self._promote_the_last(fleet) or self._confirm(fleet)):
            return True
        self.over = not self._active
        return False

    def save(self, now: bool = False) -> bool:
        """Bring the views up to date, now and then; whether it was done.

        They are made again at any time: neither disk trouble nor a missing package ends a search.
        """
        began = time.monotonic()
        if began < self._next_save and not now:
            return False
        try:
            self.measures.save()
            self._study_file().update(self.told(), self.over)
            self.view_problem = None
        except (OSError, ImportError) as error:
            self.view_problem = f"{self.log.parent}: {error}"
        self._next_save = time.monotonic() + SAVE_SECONDS + 20 * (time.monotonic() - began)
        return True

    def _study_file(self) -> StudyFile:
        if self._file is None:
            from trb_lab.search.optuna_file import StudyFile

            directory = self.around.store.sweep(self.planned.sweep)
            title = f"{self.planned.sweep} {self.arm.name}"
            self._file = StudyFile(directory.search_study(self.arm.name), title, self.spec)
        return self._file

    def upcoming(self, count: int) -> list[str]:
        """The next settings, if nothing new were known by then; nothing is written."""
        told = self.told()
        known = [canonical_json(c.params) for c in self.candidates.values()]
        found: list[str] = []
        first = self.next_number
        for origin, settings in (("in the grid", self._grid()), ("tried by finished trials", self._warm())):
            new = [params for params in settings if canonical_json(params) not in known]
            if new:
                found.append(
                    f"{len(new)} settings {origin} are known first, {self.arm.setting(first, new[0])} the first"
                )
        if found:  # what they say is not read here, and the asks depend on it
            return found
        notes = dict(self.study_attrs)
        for number in range(first, first + min(count, self.spec.trials - self.asked)):
            proposal = self._sampler()(number, told, notes)
            notes.update(proposal.study_attrs)
            told = [*told, Told(number, proposal.params, "running", attrs=proposal.attrs)]
            found.append(self.arm.setting(number, proposal.params))
        return found

    def _is_cancelled(self) -> bool:
        """Whether somebody cancelled the arm since this driver began; a later one may ask again."""
        mark = read_json(self._cancel_mark)
        return mark is not None and float(mark["time"]) >= self._began

    def _promote(self, fleet: Fleet) -> bool:
        if self.spec.pruning is None:
            return False
        standings = [
            Standing(
                c.number, c.at_stops(), c.allowed, c.state == "failed", c.state in ("paused", "complete")
            )
            for c in self._distinct()
        ]
        direction = self.spec.goals[0].direction
        for number in may_go_on(self.spec.pruning, self.arm.stops, self.arm.steps, standings, direction):
            self._let_go_on(fleet, self.candidates[number])
            return True
        return False

    def _promote_the_last(self, fleet: Fleet) -> bool:
        """Too few candidates for anyone to stand out: the best goes on, so that there is one at the end."""
        paused = [c for c in self.candidates.values() if c.state == "paused"]
        if not paused or any(c.state == "complete" for c in self.candidates.values()):
            return False
        sign = 1.0 if self.spec.goals[0].direction == "maximize" else -1.0
        self._let_go_on(
            fleet, max(paused, key=lambda c: (c.allowed, sign * c.at_stops().get(c.allowed, 0.0), -c.number))
        )
        return True

    def _let_go_on(self, fleet: Fleet, candidate: Candidate) -> None:
        candidate.allowed = next_stop(self.arm.stops, self.arm.steps, candidate.allowed)
        for run in candidate.starting:
            self._begin_run(fleet, candidate, run)
        self._changed(candidate)

    def _ask(self, fleet: Fleet) -> None:
        proposal = self._sampler()(self.next_number, self.told(), self.study_attrs)
        reach("driver.ask.after")
        candidate = self._propose(proposal.params, "ask", proposal.attrs, proposal.study_attrs)
        reach("driver.proposal.after")
        for run in candidate.runs.values():
            if self._has_work(candidate, run):
                self._start(fleet, candidate, run)

    def _sampler(self) -> Ask:
        if self._ask_sampler is None:
            from trb_lab.search.optuna import Asker

            self._ask_sampler = Asker(self.spec).ask
        return self._ask_sampler

    def _propose(
        self,
        params: Mapping[str, Any],
        origin: Any,
        attrs: Mapping[str, Any] | None = None,
        study_attrs: Mapping[str, Any] | None = None,
    ) -> Candidate:
        """A new candidate, written down before anything of it starts."""
        number = self.next_number
        rows = tuple(self._row(self.arm.draft(number, params, s), number) for s in self.arm.starting_seeds)
        decision = Decision(
            "proposal", self.context, rows, number=number, origin=origin, params=dict(params),
            attrs=dict(attrs or {}), study_attrs=dict(study_attrs or {}),
        )  # fmt: skip
        self._write(decision)
        self.study_attrs.update(decision.study_attrs)
        candidate = candidates_of(self.arm, [decision], self.around.store)[number]
        self.candidates[number] = candidate
        self.next_number = number + 1
        self._has_asked = self._has_asked or origin == "ask"
        self._look_at(candidate)
        return candidate

    def _replicate(self, fleet: Fleet) -> bool:
        if self.spec.racing is None:
            return False
        wanted = next_replicates(
            self.spec.racing, self._entrants(), self.arm.seeds, self.spec.goals[0].direction
        )
        for number, seed in wanted:
            candidate = self.candidates[number]
            rows = (self._row(self.arm.draft(number, candidate.params, seed), number),)
            decision = Decision("replicate", self.context, rows, number=number)
            self._write(decision)
            run = candidate.runs[seed] = self._run_of(rows[0])
            self._begin_run(fleet, candidate, run)
            return True
        return False

    def _confirm(self, fleet: Fleet) -> bool:
        """The winners and the reference on fresh seeds, once nothing else is left to do."""
        if self.spec.confirm is None:
            return False
        winners = tuple(self.best()[: self.spec.confirm.settings])
        rows = []
        for seed in self.arm.fresh_seeds:
            for number in winners:
                draft = self.arm.draft(number, self.candidates[number].params, seed)
                rows.append(self._row(draft, number, "confirm"))
            if self.arm.reference is not None:
                rows.append(self._row(self.arm.reference(seed), None, "confirm"))
        if not winners or {row["run_id"] for row in rows} == {run.run_id for run in self.confirmations}:
            return False
        self._write(Decision("confirm", self.context, tuple(rows), numbers=winners))
        self.winners = winners
        self.confirmations = [self._run_of(row) for row in rows]
        for run in self.confirmations:
            self._begin_run(fleet, None, run)
        return True

    def _write(self, decision: Decision) -> None:
        self.around.check()
        append(self.log, decision)

    def _row(self, draft: TrialDraft, number: int | None, role: str = "select") -> dict[str, Any]:
        row = plan_row(draft, plan_trial(draft.spec).run_id)
        return {**row, "search": {"arm": self.arm.name, "number": number, "role": role}}

    def _begin_run(self, fleet: Fleet, candidate: Candidate | None, run: SearchRun) -> None:
        """Start a run that may have been made, or gone on, before."""
        self._track(candidate, run)
        if run.run_id not in self._active:
            self._read(run)
        if self._has_work(candidate, run):
            self._start(fleet, candidate, run)
        self._changed(candidate)

    def _has_work(self, candidate: Candidate | None, run: SearchRun) -> bool:
        """Whether a worker is wanted: it has not come as far as it may."""
        if run.state == "paused" and candidate is not None and not run.whole:
            return run.steps_done < candidate.allowed
        return run.state not in ("completed", *ENDED_BADLY)

    def _start(self, fleet: Fleet, candidate: Candidate | None, run: SearchRun) -> None:
        """Have the run go on as far as it may."""
        run.whole = run.whole or run.run_id in self.around.whole
        until = None if candidate is None or run.whole else candidate.allowed
        if until is not None and until >= self.arm.steps:
            until = None
        member = fleet.members.get(run.run_id)
        if member is None or member.ended:
            spec = ExperimentSpec.model_validate(run.row["spec"])
            fresh = Member(
                Job(run.run_dir, "run", spec.resources, partial(prepare, spec, self.around.store)),
                steps=spec.steps,
                eval_sets=run.eval_sets,
                until=until,
            )
            fleet.add(fresh)
            member = fresh
        else:
            fleet.extend(member, until)  # another search of this sweep shares it
        self._active[run.run_id] = None
        for sharer, shared in self._sharing[run.run_id]:
            shared.state = "running" if member.standing == "running" else "waiting"
            self._changed(sharer)
        role = " (confirm)" if candidate is None else ""
        name = " ".join(filter(None, [run.row["arm"], run.row["setting"], f"seed={run.seed}"]))
        self.around.names.setdefault(run.run_id, name + role)
