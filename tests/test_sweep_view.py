from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from trb_lab.driver.view import duration, event_line, live_table, progress_text, seconds_left, text_table
from trb_lab.launch.base import Job, JobStatus, Phase
from trb_lab.launch.follow import Event, Fleet, Member
from trb_lab.launch.progress import ProgressReader
from trb_lab.store.run_dir import RunDir, write_json


class _TwoRun:
    """A launcher that runs its first two jobs for ever."""

    slots = 2

    def __init__(self) -> None:
        self.jobs: list[str] = []

    def submit(self, job: Job) -> None:
        self.jobs.append(job.run_id)

    def poll(self) -> Mapping[str, JobStatus]:
        phases = [Phase.RUNNING] * 2 + [Phase.WAITING] * len(self.jobs)
        return {run_id: JobStatus(phase) for run_id, phase in zip(self.jobs, phases, strict=False)}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """Three runs of 100 steps at 2 s a step; the first has made 50, the second 90, the third waits."""
    for name, done in (("first", 50), ("second", 90), ("third", 0)):
        run = RunDir(tmp_path / name)
        write_json(run.config, {})
        lines = [{"step": k, "rollout/reward": 0.25, "train/reverse_kl": 0.5} for k in range(done)]
        run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        run.timing.write_text(
            "".join(json.dumps({"step": k, "seconds": {"total": 2.0}}) + "\n" for k in range(done))
        )
    members = [Member(Job(RunDir(tmp_path / name)), steps=100) for name in ("first", "second", "third")]
    fleet = Fleet(_TwoRun(), members)  # type: ignore[arg-type]
    assert [event.what for event in fleet.tick()] == ["started", "started"]
    return fleet


def test_time_left_counts_what_waits_and_the_slots(fleet: Fleet):
    # The second ends first, after 10 steps of 2 s; the third takes its slot for 100 more.
    assert seconds_left(fleet) == (10 + 100) * 2


def test_progress_text_says_step_rate_time_left_and_scores(fleet: Fleet):
    text = progress_text(fleet.members["first"])
    assert text == "step 50/100, 2.00 s/step, 1:40 left, reward 0.250, KL 0.500"


def test_the_live_table_shows_running_trials_and_totals(fleet: Fleet):
    out = io.StringIO()
    names = {"first": "trb seed=0", "second": "opd seed=0", "third": "opd seed=1"}
    Console(file=out, width=120).print(live_table(fleet, names))
    text = out.getvalue()
    assert "50/100" in text
    assert "trb seed=0" in text
    assert "2 running, 1 waiting; 3:40 left" in text


def test_the_live_table_keeps_to_the_rows_that_fit_and_names_places(fleet: Fleet):
    names = {run_id: run_id for run_id in fleet.members}
    fleet.members["second"].status = JobStatus(Phase.RUNNING, where="node7")
    fleet.members["third"].standing = "failed"
    table = live_table(fleet, names, rows=2)
    assert table.row_count == 2  # failed ones come first
    out = io.StringIO()
    Console(file=out, width=140).print(live_table(fleet, names, rows=3))
    assert "where" in out.getvalue()
    assert "node7" in out.getvalue()


def test_a_job_that_is_back_in_the_queue_is_an_event_of_its_own(fleet: Fleet):
    event = Event(fleet.members["first"], "waits", "waits: BeginTime")
    assert event_line(event, {"first": "opd seed=0"}) == "waits     opd seed=0 (first): waits: BeginTime"


def test_progress_follows_a_file_that_a_resume_cuts_shorter(tmp_path: Path):
    run = RunDir(tmp_path)
    reader = ProgressReader(run)
    assert reader.read().done == 0
    run.metrics.write_text('{"step": 0}\n{"step": 1, "eval/mean/pass_at_1": 0.5}\n{"st')
    assert (reader.read().done, reader.latest.pass_at_1) == (2, 0.5)
    with open(run.metrics, "a") as f:
        f.write('ep": 2}\n')
    assert reader.read().done == 3
    run.metrics.write_text('{"step": 0}\n')
    assert reader.read().done == 1


def test_a_long_file_is_read_from_near_its_end(tmp_path: Path):
    run = RunDir(tmp_path)
    run.metrics.write_text("".join(json.dumps({"step": k, "pad": "x" * 500}) + "\n" for k in range(1000)))
    assert ProgressReader(run).read().done == 1000


def test_durations_and_tables_are_aligned():
    assert [duration(s) for s in (None, 5, 65, 7509)] == ["?", "0:05", "1:05", "2:05:09"]
    assert text_table(["a", "bb"], [["xxx", "y"]]) == "a    bb\n---  --\nxxx  y"
