"""Pause and promote through the real driver: who goes how far, and at what cost."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from trb_lab.launch import claim
from trb_lab.spec.sweeps import expand_searches
from trb_lab.store.pauses import pause_after
from trb_lab.store.status import attempt_count, state_of

from .known_function import score_after
from .search.test_pruning import Algorithm2
from .search_fakes import ASHA, STEPS, STOPS, SearchLab, check, once, search_lab, spec_of

pytestmark = pytest.mark.long


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchLab:
    found = search_lab(tmp_path, monkeypatch)
    found.amend({"seeds": [0]})
    found.search(trials=15, pruning=ASHA)
    return found


def values_at(lab: SearchLab, number: int, stop: int) -> float:
    arm = expand_searches(lab.path)["trb"]
    return score_after(spec_of(arm, number, lab.proposals()[number]), stop)


def the_papers(lab: SearchLab, trials: int) -> dict[int, int]:
    """Candidate -> steps made, by the pseudocode of the paper with one worker."""
    reference = Algorithm2(3, [{} for _ in STOPS], [set() for _ in STOPS])
    reached: dict[int, int] = {}
    rungs = (*STOPS, STEPS)
    while True:
        job = reference.get_job()
        if job is not None:
            number, rung = job[0], job[1] + 1
        elif len(reached) < trials:
            number, rung = len(reached), 0
        else:
            break
        reached[number] = rungs[rung]
        if rung < len(STOPS):
            reference.rungs[rung][number] = values_at(lab, number, rungs[rung])
    return reached


def steps_made(lab: SearchLab) -> dict[int, int]:
    return {number: len(lab.steps_made(lab.run_of(number).run_id)) for number in range(len(lab.proposals()))}


def optuna_states(lab: SearchLab) -> list[str]:
    path = str(lab.store.sweep("found").search_study("trb"))
    storage = JournalStorage(JournalFileBackend(path))
    (name,) = optuna.get_all_study_names(storage)
    return [trial.state.name for trial in optuna.load_study(study_name=name, storage=storage).trials]


def test_asha_takes_each_candidate_as_far_as_the_papers_algorithm(lab: SearchLab) -> None:
    assert lab.run() == 0
    check(lab, asked=15)
    reached = steps_made(lab)
    assert reached == the_papers(lab, 15)
    assert set(reached.values()) == {2, 6, 18}
    for number, steps in reached.items():
        run = lab.run_of(number)
        assert once(lab.steps_made(run.run_id))
        assert attempt_count(run) == 1 + (2, 6, 18).index(steps)
        assert claim.live_worker(run) is None
        assert state_of(run) == ("completed" if steps == STEPS else "paused")
        stops = {int(stop): value for stop, value in lab.candidates()[number]["stops"].items()}
        assert stops == {stop: pytest.approx(values_at(lab, number, stop)) for stop in STOPS if stop <= steps}
    complete = [number for number, steps in reached.items() if steps == STEPS]
    assert optuna_states(lab) == ["COMPLETE" if n in complete else "PRUNED" for n in range(15)]
    assert lab.summary()["best"] in complete


def test_with_more_trials_paused_ones_may_go_on_from_where_they_are(lab: SearchLab) -> None:
    lab.search(trials=4, sampler="random")
    assert lab.run() == 0
    before = steps_made(lab)
    lab.search(trials=15)
    assert lab.run() == 0
    after = steps_made(lab)
    check(lab, asked=15)
    assert [n for n in before if before[n] < after[n]]
    assert all(once(steps) for steps in lab.searched().values())


def test_too_few_to_stand_out_still_leave_a_winner(lab: SearchLab) -> None:
    lab.search(trials=2)
    assert lab.run() == 0
    assert sorted(steps_made(lab).values()) == [2, 18]
    best = max((0, 1), key=lambda number: values_at(lab, number, 2))
    assert lab.summary()["best"] == best
    before = lab.attempts()
    assert lab.run() == 0
    assert lab.attempts() == before


def test_median_lets_on_who_is_no_worse_than_the_median(lab: SearchLab) -> None:
    lab.search(trials=8, pruning={"kind": "median", "first": 4, "every": 6, "startup_trials": 3})  # 4, 10, 16
    assert lab.run() == 0
    check(lab, asked=8)
    reached = steps_made(lab)
    assert [reached[number] for number in range(3)] == [18, 18, 18]  # nobody to be compared with
    assert set(reached.values()) <= {4, 10, 16, 18}
    assert min(reached.values()) < 18
    assert all(once(steps) for steps in lab.searched().values())


def test_runs_that_stand_short_of_their_stop_go_on_to_it(lab: SearchLab) -> None:
    """A driver died between the word that lets a run go on and the start of its worker; or the stops have moved."""
    lab.search(trials=3)
    assert lab.run() == 0
    paused = [number for number, steps in steps_made(lab).items() if steps == 2]
    assert len(paused) == 2
    lab.search(pruning={"kind": "asha", "first": 4, "factor": 3})
    assert lab.run() == 0
    assert all(steps_made(lab)[number] in (4, 12, 18) for number in paused)
    assert all(once(steps) for steps in lab.searched().values())
    assert all(pause_after(lab.run_of(number)) in (4, 12, None) for number in paused)


def test_without_pruning_all_that_paused_go_on_to_the_end(lab: SearchLab) -> None:
    lab.search(trials=4)
    assert lab.run() == 0
    lab.search(pruning=...)
    assert lab.run() == 0
    assert set(steps_made(lab).values()) == {18}
    assert lab.summary()["counts"] == {"complete": 4}


def test_candidates_with_two_starting_seeds_pause_and_go_on_together(lab: SearchLab) -> None:
    lab.amend({"seeds": [0, 1]})
    lab.search(trials=6, seeds=2)
    assert lab.run() == 0
    check(lab, asked=6)
    for number in range(6):
        one, two = (lab.steps_made(lab.run_of(number, seed).run_id) for seed in (0, 1))
        assert once(one)
        assert one == two


def test_a_setting_that_is_asked_for_twice_has_one_run(lab: SearchLab) -> None:
    lab.search(
        trials=8,
        sampler="random",
        parallel=3,
        space={"warmup.anneal": {"kind": "choice", "values": ["linear", "cosine"]}},
    )
    lab.amend({"parallel": 3, "arms/trb/overrides": {"warmup": {"kind": "trb", "steps": 10}}})
    assert lab.run() == 0
    check(lab, asked=8)
    assert len(lab.searched()) == 2
    assert all(once(steps) for steps in lab.searched().values())
    # The runs that completed complete all of their candidates.
    for candidate in lab.candidates().values():
        states = {run["state"] for run in candidate["runs"]}
        assert states == ({"completed"} if candidate["state"] == "complete" else {"paused"})
