from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from trb_lab.driver.lease import driving
from trb_lab.driver.plan import plan_sweep
from trb_lab.driver.retry import ALL, retry_classes
from trb_lab.errors import LabError, UsageError
from trb_lab.launch import claim
from trb_lab.store import locks
from trb_lab.store.run_dir import read_json
from trb_lab.store.status import attempt_count, cancel, last_error, state_of

from .sweep_fakes import TESTS, Lab, patch

SLOW = {"": {"pause": 0.05, "steps": 10_000}, "teacher": {}, "student": {}}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    patch(monkeypatch.setattr)
    lab = Lab(tmp_path)
    monkeypatch.setenv("FAKE_WORKER", str(lab.behaviour_file))
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    return lab


def actions(lab: Lab, **kwargs: Any) -> dict[str, int]:
    counts = plan_sweep(lab.path, lab.store, **kwargs).counts()
    return {action: count for action, count in counts.items() if count and action != "trials"}


def test_a_sweep_runs_everything_once_and_then_nothing(lab: Lab, capsys: pytest.CaptureFixture[str]):
    assert lab.run() == 0
    assert list(lab.states().values()) == ["completed"] * 6
    first = capsys.readouterr().out
    assert "fake: 6 trials: 6 new" in first
    assert first.count("started ") == first.count("completed ") == 8  # two references
    assert "| arm | easy |" in first
    assert "report.html" in first
    plan = read_json(lab.store.sweep("fake").plan)
    assert [t["arm"] for t in plan["trials"]] == ["opd"] * 2 + ["trb"] * 4
    assert plan["trials"][2]["setting"] == "kl_budget=0.01"
    assert plan["trials"][2]["overrides"]["warmup.kl_budget"] == 0.01
    assert sorted(r["role"] for r in plan["references"]) == ["student", "teacher"]

    assert lab.run() == 0
    assert lab.attempts() == 8
    assert read_json(lab.store.sweep("fake").plan) == plan


def test_trials_run_seed_by_seed(lab: Lab):
    plan = plan_sweep(lab.path, lab.store)
    assert [trial.spec.seed for trial in plan.trials.values()] == [0, 0, 0, 1, 1, 1]
    assert [row.draft.seed for row in plan.rows] == [0, 1, 0, 1, 0, 1]


def test_a_new_seed_or_setting_runs_only_what_is_new(lab: Lab):
    lab.run()
    lab.edit("seeds: [0, 1]", "seeds: [0, 1, 2]")
    assert actions(lab) == {"new": 3, "adopt": 6}
    lab.edit("[0.01, 0.1]", "[0.01, 0.1, 1.0]")
    assert actions(lab) == {"new": 6, "adopt": 6}
    assert lab.run() == 0
    assert lab.attempts() == 8 + 6


def test_settings_with_the_same_identity_share_a_trial(lab: Lab, capsys: pytest.CaptureFixture[str]):
    lab.edit("arms:\n", "arms:\n  also_opd: {overrides: {warmup: {kind: opd}, name: other}}\n")
    plan = plan_sweep(lab.path, lab.store)
    assert (len(plan.rows), len(plan.trials)) == (8, 6)
    lab.run()
    assert "6 trials (8 rows, some share a trial)" in capsys.readouterr().out
    assert len(read_json(lab.store.sweep("fake").plan)["trials"]) == 8


def test_what_is_no_longer_planned_is_kept(lab: Lab, capsys: pytest.CaptureFixture[str]):
    lab.run()
    lab.edit("[0.01, 0.1]", "[0.01]")
    assert lab.run() == 0
    assert "2 no longer planned (kept): trb-s" in capsys.readouterr().out
    assert len(lab.states()) == 6


def test_a_new_evaluation_set_is_added_to_finished_trials(lab: Lab):
    lab.run()
    (lab.root / "base.yaml").write_text(
        (lab.root / "base.yaml").read_text().replace("easy]", "easy, arith/hard]")
    )
    assert actions(lab) == {"evaluate": 6}
    assert lab.run() == 0
    for run in lab.store.trials():
        assert sorted(read_json(run.result)["final"]["sets"]) == ["easy", "hard"]
        assert attempt_count(run) == 1
    assert actions(lab) == {"adopt": 6}


def test_a_failed_trial_is_shown_and_retried_only_when_asked(lab: Lab, capsys: pytest.CaptureFixture[str]):
    lab.behave({"opd-s1": {"fail_at": 2}})
    assert lab.run() == 1
    assert "failed    opd seed=1 (opd-s1-" in (out := capsys.readouterr().out)
    assert "boom at a step" in out
    assert sorted(lab.states().values()) == ["completed"] * 5 + ["failed"]

    lab.behave({})
    assert lab.run() == 1
    assert lab.attempts() == 8
    assert "--retry-failed" in capsys.readouterr().out
    assert lab.run(retry_failed=True) == 0
    assert lab.attempts() == 9
    assert set(lab.states().values()) == {"completed"}


def test_failed_trials_are_retried_by_class(lab: Lab, capsys: pytest.CaptureFixture[str]):
    lab.behave({"opd-s1": {"fail_at": 2}, "trb-s0": {"exit_before": 2}})
    lab.run()
    cancelled = next(r for r in lab.store.trials() if r.run_id.startswith("trb-s1"))
    cancelled.result.unlink()
    cancel(cancelled)
    capsys.readouterr()
    lab.run(dry_run=True)
    out = capsys.readouterr().out
    assert "4 failed or cancelled trials are left alone (2 killed, 1 code, 1 cancelled)" in out
    assert "--retry-failed=killed: only those" in out
    assert out.count("failed (killed)") == 2
    for chosen, retried in (({"code"}, 1), ({"killed", "cancelled"}, 3), (True, 4), (set(), 0)):
        assert actions(lab, retry_failed=chosen).get("retry", 0) == retried
    lab.behave({})
    lab.run(retry_failed=frozenset({"killed"}))
    assert actions(lab) == {"adopt": 4, "failed": 1, "cancelled": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oom,time_limit", {"oom", "time_limit"}),
        ("Out-Of-Memory, node", {"oom", "node_failure"}),
        ("all", ALL),
        ("cancelled", {"cancelled"}),
    ],
)
def test_retry_classes_have_names(text: str, expected: set[str]):
    assert retry_classes(text) == expected


def test_the_same_error_in_every_trial_stops_the_sweep_and_is_shown_once(
    lab: Lab, capsys: pytest.CaptureFixture[str]
):
    lab.behave({"": {"fail_at": 1}, "teacher": {}, "student": {}})
    lab.edit("seeds: [0, 1]", "seeds: [0, 1, 2]")
    lab.edit("parallel: 2", "parallel: 1")
    assert lab.run() == 1
    out = capsys.readouterr().out
    assert out.count("every trial fails with the same error.\nboom at a step") == 1
    assert lab.attempts() == 2 + 3  # references and the first trials; the others never started
    assert "Stopped after" in out
    assert out.count("failed (code): ") == 1  # told together
    assert actions(lab) == {"failed": 3, "new": 6}


def test_a_killed_worker_starts_again_and_one_that_is_always_killed_fails(lab: Lab):
    lab.behave({"opd-s0": {"kill_at": 2}, "opd-s1": {"kill_at": 2, "kills": 99}})
    assert lab.run() == 1
    once, always = (
        next(r for r in lab.store.trials() if r.run_id.startswith(s)) for s in ("opd-s0", "opd-s1")
    )
    assert (state_of(once), attempt_count(once)) == ("completed", 2)
    assert [line["step"] for line in map(json.loads, once.metrics.read_text().splitlines())] == [0, 1, 2, 3]
    assert (state_of(always), attempt_count(always)) == ("failed", 3)
    error = (last_error(always) or {})["error"]
    assert "3 workers died in a row" in error
    assert "SIGKILL" in error


def test_a_worker_that_cannot_begin_is_a_failure_with_its_last_words(lab: Lab):
    lab.behave({"opd-s0": {"exit_before": 2}})
    assert lab.run() == 1
    run = next(r for r in lab.store.trials() if r.run_id.startswith("opd-s0"))
    assert state_of(run) == "failed"
    assert "code 2; its log ends with: could not begin: no such model" in (last_error(run) or {})["error"]


def test_a_killed_driver_leaves_its_workers_and_the_next_attaches(
    lab: Lab, capsys: pytest.CaptureFixture[str]
):
    lab.behave({**SLOW, "": {"pause": 0.05, "steps": 60}})
    with lab.driver() as driver:
        lab.wait_for_steps(2)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        workers = {r.run_id: claim.live_worker(r) for r in lab.store.trials() if claim.live_worker(r)}
        assert len(workers) == 2
        assert actions(lab) == {"new": 4, "attach": 2}
        lab.behave({})
        assert lab.run() == 0
    out = capsys.readouterr().out
    assert out.count("attached ") == 2
    assert lab.attempts() == 8  # nobody was started twice
    assert set(lab.states().values()) == {"completed"}


def test_a_second_driver_is_refused_and_told_who_is_at_it(lab: Lab):
    lab.behave(SLOW)
    with lab.driver() as driver:
        lab.wait_for_steps(1)
        seen = r"seen \d+ s ago\..*--take-over"
        with pytest.raises(
            locks.Locked, match=rf"sweep 'fake' is in use by process {driver.pid} on .*{seen}"
        ):
            lab.run()


def test_a_driver_that_is_relieved_leaves_everything_alone(lab: Lab, capsys: pytest.CaptureFixture[str]):
    lab.behave({**SLOW, "": {"pause": 0.1, "steps": 60}})
    with lab.driver() as driver:
        lab.wait_for_steps(2)
        lab.behave({})
        before = {r.run_id: (claim.live_worker(r) or {}).get("pid") for r in lab.store.trials()}
        with lab.driver("--take-over") as second:
            out, _ = driver.communicate(timeout=20)
            assert driver.returncode == locks.Lost.exit_code == 3
            assert f"was taken over by process {second.pid} on " in out.splitlines()[-1]
            now = {r.run_id: (claim.live_worker(r) or {}).get("pid") for r in lab.store.trials()}
            assert now == before  # it has stopped no worker and started none
            out, _ = second.communicate(timeout=60)
            assert second.returncode == 0, out
    assert out.count("attached ") == 2
    assert lab.attempts() == 8
    assert set(lab.states().values()) == {"completed"}


def test_a_driver_that_hangs_can_be_relieved_and_finds_out_when_it_goes_on(lab: Lab):
    lab.behave({"": {"pause": 0.05, "steps": 20}})
    with lab.driver() as driver:
        lab.wait_for_steps(1)
        driver.send_signal(signal.SIGSTOP)
        with pytest.raises(locks.Locked, match="also where that one hangs: --take-over"):
            lab.run()
        lab.behave({})
        assert lab.run(take_over=True) == 0
        plan, attempts = lab.store.sweep("fake").plan.read_bytes(), lab.attempts()
        report = lab.store.sweep("fake").report / "table.md"
        written = report.stat().st_mtime_ns
        driver.send_signal(signal.SIGCONT)
        out, _ = driver.communicate(timeout=20)
    assert driver.returncode == 3
    assert "was taken over by" in out
    assert (lab.store.sweep("fake").plan.read_bytes(), lab.attempts()) == (plan, attempts)
    assert report.stat().st_mtime_ns == written
    assert set(lab.states().values()) == {"completed"}


def test_a_driver_job_that_is_back_from_the_queue_relieves_the_one_before(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    lab.behave(SLOW)
    monkeypatch.setenv("TRB_LAB_JOB", "abc/0")
    monkeypatch.setenv("TRB_LAB_INCARNATION", "0")
    with lab.driver() as driver:
        lab.wait_for_steps(1)
        with pytest.raises(locks.Locked):
            lab.run()
        monkeypatch.setenv("TRB_LAB_INCARNATION", "1")
        with driving(lab.store.sweep("fake"), on=None, take_over=False) as lease:
            assert driver.wait(20) == 3
            assert lease.is_mine()


@pytest.mark.parametrize("place", ["plan.before", "plan.after", "result.before", "result.after:2"])
def test_a_driver_that_dies_anywhere_is_followed_by_another(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, place: str
):
    monkeypatch.setenv("TRB_LAB_FAILPOINT", f"driver.{place}")
    with lab.driver() as driver:
        driver.communicate(timeout=60)
        assert driver.returncode == -signal.SIGKILL
        assert lab.store.sweep("fake").plan.exists() == (place != "plan.before")
        monkeypatch.delenv("TRB_LAB_FAILPOINT")
        assert lab.run() == 0
    assert lab.attempts() == 8
    assert set(lab.states().values()) == {"completed"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_store_that_cannot_be_written_is_told_in_words(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, number: int
):
    def fail(path: Path, text: str) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("trb_lab.store.run_dir.write_atomic", fail)
    why = {errno.ENOSPC: "the disk is full", errno.EROFS: "the file system cannot be written"}[number]
    with pytest.raises(LabError, match=f"cannot be written: .*{why}.*plan.json") as caught:
        lab.run()
    assert caught.value.exit_code == 1
    monkeypatch.undo()
    assert lab.attempts() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_lets_the_workers_save(lab: Lab, number: int):
    lab.behave(SLOW)
    with lab.driver() as driver:
        lab.wait_for_steps(2)
        driver.send_signal(number)
        out, _ = driver.communicate(timeout=20)
        assert driver.returncode == 128 + number
        assert "Go on with: trb-lab sweep" in out
        assert not any(claim.live_worker(run) for run in lab.store.trials())
        assert actions(lab) == {"new": 4, "resume": 2}
    lab.behave({})
    assert lab.run() == 0


def test_a_worker_that_was_asked_to_stop_is_left_for_the_next_run(lab: Lab):
    lab.behave({**SLOW, "opd-s1": {}, "trb": {}})
    with lab.driver() as driver:
        lab.wait_for_steps(1, steps=2)
        run = next(r for r in lab.store.trials() if r.run_id.startswith("opd-s0"))
        claim.send_signal(run, signal.SIGTERM)
        driver.communicate(timeout=20)
    assert (state_of(run), attempt_count(run)) == ("interrupted", 1)


def test_a_trial_that_is_cancelled_while_it_waits_never_starts(lab: Lab):
    lab.behave({**SLOW, "trb": {}, "opd": {"pause": 0.05, "steps": 20}})
    lab.edit("parallel: 2", "parallel: 1")
    with lab.driver() as driver:
        lab.wait_for_steps(1)
        waiting = [r for r in lab.store.trials() if r.run_id.startswith("opd-s1")]
        cancel(waiting[0])
        driver.communicate(timeout=20)
    assert attempt_count(waiting[0]) == 0
    assert actions(lab) == {"adopt": 5, "cancelled": 1}
    assert lab.run(retry_failed=True) == 0


def test_changed_resources_reach_a_run_that_resumes(lab: Lab):
    lab.behave({"opd": {"fail_at": 1}})
    lab.run()
    base = lab.root / "base.yaml"
    base.write_text(base.read_text() + "resources: {micro_batch_tokens: 77}\n")
    lab.behave({})
    assert lab.run(retry_failed=True) == 0
    tokens = {
        run.run_id[:3]: read_json(run.config)["spec"]["resources"]["micro_batch_tokens"]
        for run in lab.store.trials()
    }
    assert tokens == {"opd": 77, "trb": 16_384}


def test_dry_run_writes_nothing_and_lists_every_trial(lab: Lab, capsys: pytest.CaptureFixture[str]):
    assert lab.run(dry_run=True) == 0
    text = capsys.readouterr().out
    assert not lab.store.root.exists()
    assert text.count("warmup.kind=trb") == 4
    assert text.count("  new") == 8
    assert lab.run(dry_run=True, as_json=True) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["counts"]["new"] == plan["counts"]["trials"] == 6
    assert {"run_id", "arm", "seed", "overrides", "action"} <= set(plan["trials"][0])
    assert plan["trials"][-1]["overrides"] == {
        "warmup.kind": "trb",
        "warmup.steps": 2,
        "warmup.kl_budget": 0.1,
    }


def test_only_keeps_to_some_arms_and_the_plan_stays_whole(lab: Lab):
    assert lab.run(only=["opd"]) == 0
    assert {run_id[:3] for run_id in lab.states()} == {"opd"}
    assert len(read_json(lab.store.sweep("fake").plan)["trials"]) == 6
    with pytest.raises(UsageError, match=r"no such arm.*Did you mean 'trb'"):
        lab.run(only=["tbr"])


def test_json_of_a_run_is_all_that_stdout_holds(lab: Lab, capsys: pytest.CaptureFixture[str]):
    lab.behave({"opd-s1": {"fail_at": 2}})
    assert lab.run(as_json=True) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["counts"] == {"completed": 5, "failed": 1}
    assert [t["error"] for t in result["trials"] if t["state"] == "failed"] == ["boom at a step"]


def test_a_wrong_file_leaves_no_trace(lab: Lab):
    lab.edit("kl_budget: [0.01, 0.1]", "kl_budget: [0.01, -1]")
    with pytest.raises(UsageError, match="kl_budget"):
        lab.run()
    assert not lab.store.root.exists()


def test_another_sweep_adopts_what_is_there(lab: Lab):
    lab.run()
    lab.edit("name: fake", "name: second")
    assert actions(lab) == {"adopt": 6}
    assert lab.run() == 0
    assert lab.attempts() == 8


def test_planning_needs_nothing_heavy():
    heavy = ("torch", "mlflow", "pandas", "transformers", "rich")
    import subprocess

    code = f"import sys, trb_lab.sweep; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TESTS.parent)
    assert found.stdout.strip() == "[]", found.stderr


def test_a_run_directory_that_is_removed_while_it_waits_is_made_again(lab: Lab):
    lab.behave({**SLOW, "trb": {}, "opd": {"pause": 0.05, "steps": 20}})
    lab.edit("parallel: 2", "parallel: 1")
    with lab.driver() as driver:
        lab.wait_for_steps(1)
        waiting = next(r for r in lab.store.trials() if r.run_id.startswith("opd-s1"))
        shutil.rmtree(waiting.path)
        lab.behave({})
        assert driver.wait(60) == 0
    assert waiting.result.exists()


def test_sets_of_one_name_must_be_the_same_within_a_shared_trial(lab: Lab):
    other = "{name: easy, dataset: {kind: arith, split: test, level: easy, num_examples: 20}}"
    twin = f"  twin: {{overrides: {{warmup: {{kind: opd}}, eval.sets: [{other}]}}}}"
    lab.edit("arms:", f"arms:\n{twin}")
    with pytest.raises(UsageError, match="give the name 'easy' to different sets"):
        plan_sweep(lab.path, lab.store)
