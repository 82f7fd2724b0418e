"""How a search stands, read from its log and the run directories: candidates, values, ranks. Starts nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from trb_lab.driver.candidates import ENDED_BADLY, Candidate, SearchRun, candidates_of
from trb_lab.driver.plan import PlannedSearch
from trb_lab.launch.progress import last_step
from trb_lab.search.measures import Measures, key_of, quantities
from trb_lab.search.pareto import front
from trb_lab.search.racing import Entrant, Verdict, race
from trb_lab.search.told import Told
from trb_lab.spec.search import fits
from trb_lab.store.pauses import pause_after
from trb_lab.store.run_dir import Store, read_json
from trb_lab.store.status import TrialState, last_error, missing_sets, state_of
from trb_lab.trial import plan_trial


class SearchState:
    """One arm's search as its files have it."""

    def __init__(self, planned: PlannedSearch, store: Store, whole: Collection[str] = ()) -> None:
        """Reads every run. `whole`: run ids that the sweep's plan wants to their end."""
        self.planned, self.arm, self.context = planned, planned.arm, planned.context
        self.spec = planned.arm.spec
        self.store, self.whole = store, whole
        directory = store.sweep(planned.sweep)
        self.measures = Measures(self.spec, self.arm.stops, directory.search_values(self.arm.name))
        self._quantities = [key_of(q) for q in quantities(self.spec)]
        found = candidates_of(self.arm, planned.decisions, store)
        self.candidates = {n: c for n, c in found.items() if fits(self.spec.space, c.params)}
        """By number. Those outside the space, which has become smaller since, are left out."""
        self.left_out = len(found) - len(self.candidates)
        self.next_number = max(found, default=-1) + 1
        self.study_attrs: dict[str, Any] = {}
        self.confirmations: list[SearchRun] = []
        """Runs of the last confirmation, of winners and of the reference."""
        self.winners: tuple[int, ...] = ()
        self.stopped: str | None = None
        """Why it ended before its time."""
        self.over = False
        self._has_asked = any(c.decision.origin == "ask" for c in found.values())
        self._firsts: dict[tuple[str, ...], int] = {}
        """Runs of a candidate -> the first one that has them: a setting may be asked for twice."""
        self._failed_for_want: str | None = None
        """Why a completed run counts as failed, where it lacks a goal."""
        self._sharing: dict[str, list[tuple[Candidate | None, SearchRun]]] = {}
        """Run id -> whose run it is: a setting that is asked for twice has one run and two candidates."""
        self._told: dict[int, Told] = {}
        self._idle = False
        """Nothing was to be done at the last look, and nothing has changed since."""
        for decision in planned.decisions:
            self.study_attrs.update(decision.study_attrs)
            if decision.event == "confirm" and self.spec.confirm is not None:
                self.winners = decision.numbers
                self.confirmations = [self._run_of(row) for row in decision.rows if self._still_confirms(row)]
        for candidate in self.candidates.values():
            self._look_at(candidate)
        for run in self.confirmations:
            self._track(None, run)
            self._read(run)

    @property
    def asked(self) -> int:
        """Candidates that count towards `trials`."""
        return self.of_origin("ask")

    def of_origin(self, origin: str) -> int:
        """Candidates that came so: asked for, of the grid, or known from finished trials (`warm`)."""
        return sum(c.decision.origin == origin for c in self.candidates.values())

    def runs(self) -> list[SearchRun]:
        """Every run that it has come to ask for, confirmations included."""
        return [run for c in self.candidates.values() for run in c.runs.values()] + self.confirmations

    @property
    def goal(self) -> str:
        """The first goal's quantity."""
        return self._quantities[0]

    def violation(self, candidate: Candidate) -> dict[str, float]:
        """Metric -> by how much a complete candidate lies outside its bounds; 0 and less is inside."""
        found = {}
        names = self._quantities[len(self.spec.goals) :]
        for (metric, bound), name in zip(self.spec.constraints.items(), names, strict=True):
            value = candidate.mean(name)
            if value is not None:
                above = value - bound.at_most if bound.at_most is not None else None
                below = bound.at_least - value if bound.at_least is not None else None
                found[metric] = max(v for v in (above, below) if v is not None)
        return found

    def is_feasible(self, candidate: Candidate) -> bool:
        """Whether it is known to lie inside every bound; one that lacks the metric is not."""
        known = self.violation(candidate)
        return len(known) == len(self.spec.constraints) and all(v <= 0 for v in known.values())

    def finalists(self) -> list[Candidate]:
        """Complete candidates inside the constraints, each setting once."""
        found = [c for c in self._distinct() if c.state == "complete"]
        return [c for c in found if self.is_feasible(c)] if self.spec.constraints else found

    def _distinct(self) -> list[Candidate]:
        """Every setting once, however often it was asked for."""
        return [c for c in self.candidates.values() if self._firsts.get(_runs_of(c)) == c.number]

    def best(self) -> list[int]:
        """The best first, by their means; of several goals the Pareto front."""
        finalists = self.finalists()
        if len(self.spec.goals) > 1:
            points = {c.number: [c.mean(q) or 0.0 for q in self._goals] for c in finalists}
            return front(points, [goal.direction for goal in self.spec.goals])
        if self.spec.racing is not None:
            raced = [v.number for v in self.race()]
            rest = [c for c in finalists if c.number not in raced]
        else:
            raced, rest = [], finalists
        sign = -1.0 if self.spec.goals[0].direction == "maximize" else 1.0
        return raced + [
            c.number for c in sorted(rest, key=lambda c: (sign * (c.mean(self.goal) or 0.0), c.number))
        ]

    @property
    def _goals(self) -> list[str]:
        return self._quantities[: len(self.spec.goals)]

    def race(self) -> list[Verdict]:
        """How the best stand against each other; empty without racing."""
        if self.spec.racing is None:
            return []
        return race(self.spec.racing, self._entrants(), self.spec.goals[0].direction)

    def told(self) -> list[Told]:
        """The candidates as the sampler sees them."""
        for number, candidate in self.candidates.items():
            if number not in self._told:
                self._told[number] = self._tell(candidate)
        return [self._told[number] for number in self.candidates]

    def _still_confirms(self, row: Mapping[str, Any]) -> bool:
        """Whether a run of an earlier confirmation still is one: on a fresh seed, and of the present reference."""
        seed = int(row["seed"])
        if seed not in self.arm.fresh_seeds:
            return False
        if row["search"]["number"] is not None or self.arm.reference is None:
            return row["search"]["number"] is not None
        return bool(plan_trial(self.arm.reference(seed).spec).run_id == row["run_id"])

    def _run_of(self, row: Mapping[str, Any]) -> SearchRun:
        return SearchRun(row, self.store.trial(row["run_id"]), whole=True)

    def _track(self, candidate: Candidate | None, run: SearchRun) -> None:
        known = self._sharing.setdefault(run.run_id, [])
        if not any(run is other for _, other in known):
            known.append((candidate, run))

    def _look_at(self, candidate: Candidate) -> None:
        """Read the runs' states from their directories, and how far they were let go."""
        self._firsts.setdefault(_runs_of(candidate), candidate.number)
        for run in candidate.runs.values():
            self._track(candidate, run)
            self._read(run)
        for run in candidate.starting:
            run.whole = run.whole or run.run_id in self.whole
            after = pause_after(run.run_dir)
            begun = run.state != "waiting" and run.steps_done > 0
            if run.whole or (after is None and begun):
                candidate.allowed = self.arm.steps
            elif after is not None:
                candidate.allowed = max(candidate.allowed, min(after, self.arm.steps))

    def _read(self, run: SearchRun) -> None:
        state = state_of(run.run_dir)
        names = {TrialState.NEW: "waiting", TrialState.INTERRUPTED: "interrupted"}
        run.state = names.get(state, state.value)  # type: ignore[assignment]
        if state is TrialState.NEW:
            return
        run.measured = self.measures.of(run.run_dir, run.eval_sets)
        if state is TrialState.COMPLETED and (wanting := self._lacks(run)) is not None:
            if missing_sets(read_json(run.run_dir.result) or {}, run.eval_sets):
                run.state = "interrupted"  # completed for somebody who asked for fewer evaluation sets
            else:
                run.state, run.error = "failed", wanting
                self._failed_for_want = self._failed_for_want or wanting
        run.steps_done = _steps_done(run)
        if run.state in ENDED_BADLY and state is not TrialState.COMPLETED:
            run.error = (last_error(run.run_dir) or {}).get("error")

    def _lacks(self, run: SearchRun) -> str | None:
        """Which goal a completed run does not have, in words."""
        return next(
            (run.measured.missing[g.metric] for g in self.spec.goals if g.metric in run.measured.missing),
            None,
        )

    def _changed(self, candidate: Candidate | None) -> None:
        self._idle = False
        if candidate is not None:
            self._told.pop(candidate.number, None)

    def _tell(self, candidate: Candidate) -> Told:
        state = candidate.state
        complete = state == "complete"
        return Told(
            candidate.number,
            candidate.params,
            {"complete": "complete", "paused": "pruned", "failed": "failed", "running": "running"}[state],  # type: ignore[arg-type]
            tuple(candidate.mean(q) or 0.0 for q in self._goals) if complete else (),
            candidate.at_stops() if len(self.spec.goals) == 1 else {},
            self.violation(candidate) if complete else {},
            dict(candidate.decision.attrs),
        )

    def _entrants(self) -> list[Entrant]:
        return [
            Entrant(
                c.number,
                c.values(self.goal),
                # One that failed gets no other run, and its candidate no further seed.
                frozenset(seed for seed, run in c.runs.items() if run.state != "completed"),
            )
            for c in self.finalists()
        ]


def _runs_of(candidate: Candidate) -> tuple[str, ...]:
    """What makes two candidates the same setting."""
    return tuple(run.run_id for run in candidate.starting)


def _steps_done(run: SearchRun) -> int:
    """Updates made, as far as a pause or the end tells."""
    if run.state == "completed":
        return int(run.row["spec"]["steps"])
    return last_step(run.run_dir.metrics) + 1
