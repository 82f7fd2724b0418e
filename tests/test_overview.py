from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from trb_lab.driver import cancelling, cleanup, overview
from trb_lab.driver.plan import plan_sweep
from trb_lab.errors import LabError, UsageError
from trb_lab.launch import claim
from trb_lab.store import locks
from trb_lab.store.run_dir import RunDir, Store, read_json, write_json
from trb_lab.store.status import state_of

from .launch.conformance import wait_for
from .sweep_fakes import TESTS, Lab, patch

SLOW = {"": {"pause": 0.05, "steps": 10_000}, "teacher": {}, "student": {}}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    patch(monkeypatch.setattr)
    lab = Lab(tmp_path)
    monkeypatch.setenv("FAKE_WORKER", str(lab.behaviour_file))
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    return lab


def states(lab: Lab, start: str = "") -> list[str]:
    return [state for run_id, state in sorted(lab.states().items()) if run_id.startswith(start)]


def test_status_shows_counts_scores_and_why_a_trial_failed(lab: Lab, capsys: pytest.CaptureFixture[str]):
    lab.behave({"opd-s1": {"fail_at": 2}})
    lab.run()
    capsys.readouterr()
    overview.show_status(lab.store)
    text = capsys.readouterr().out
    assert "fake: which arm?\n5 completed, 1 failed\n" in text
    failed = next(line for line in text.splitlines() if line.startswith("opd-s1"))
    assert failed.split()[-7:] == ["2/4", "-", "code:", "boom", "at", "a", "step"]
    assert "kl_budget=0.01" in text
    overview.show_status(lab.store, "fake", as_json=True)
    sweep = json.loads(capsys.readouterr().out)["sweeps"][0]
    assert sweep["counts"] == {"completed": 5, "failed": 1}
    assert {t["score"] for t in sweep["trials"] if t["state"] == "completed"} == {0.5}
    assert sweep["driver"] is None
    with pytest.raises(UsageError, match="Did you mean 'fake'"):
        overview.show_status(lab.store, "fakes")


def test_status_of_an_empty_store_says_how_to_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    overview.show_status(Store(tmp_path))
    assert "Start with: trb-lab sweep" in capsys.readouterr().out


def test_logs_are_found_by_the_beginning_of_an_id(lab: Lab, capsys: pytest.CaptureFixture[str]):
    lab.run()
    capsys.readouterr()
    overview.show_logs(lab.store, "opd-s1", lines=2)
    assert capsys.readouterr().out == "step 2\nstep 3\n"
    with pytest.raises(UsageError, match="'trb-s0' fits 2 runs"):
        overview.show_logs(lab.store, "trb-s0")
    run_id = next(run_id for run_id in lab.states() if run_id.startswith("opd-s0"))
    with pytest.raises(UsageError, match=f"Did you mean '{run_id}'"):
        overview.show_logs(lab.store, run_id.replace("opd", "odp"))


def test_followed_logs_end_with_the_worker(lab: Lab, capsys: pytest.CaptureFixture[str]):
    lab.behave({**SLOW, "opd-s0": {"pause": 0.05, "steps": 20}})
    with lab.driver():
        lab.wait_for_steps(1)
        overview.show_logs(lab.store, "opd-s0", follow=True)
    out = capsys.readouterr().out.splitlines()
    assert out[-2] == "step 19"
    assert out[-1].endswith("is completed)")


def test_cancelling_a_sweep_ends_its_driver_and_its_workers(lab: Lab, capsys: pytest.CaptureFixture[str]):
    lab.behave(SLOW)
    with lab.driver() as driver:
        lab.wait_for_steps(2)
        with pytest.raises(UsageError, match="--yes"):
            cancelling.cancel(lab.store, "fake")  # nobody can be asked here
        cancelling.cancel(lab.store, "fake", yes=True)
        driver.communicate(timeout=10)
        assert driver.returncode == 128 + signal.SIGTERM
    assert states(lab) == ["cancelled"] * 6
    assert "6 trials cancelled" in capsys.readouterr().out
    assert plan_sweep(lab.path, lab.store).counts()["cancelled"] == 6


def test_cancelling_an_arm_or_a_trial_leaves_the_rest_running(lab: Lab):
    lab.behave({**SLOW, "opd": {"pause": 0.05, "steps": 40}})
    with lab.driver() as driver:
        wait_for(lambda: states(lab, "trb").count("running") >= 1)
        cancelling.cancel(lab.store, "fake/trb", yes=True)
        driver.communicate(timeout=20)
        assert driver.returncode == 0
    assert states(lab, "trb") == ["cancelled"] * 4
    assert states(lab, "opd") == ["completed"] * 2
    cancelling.cancel(lab.store, "opd-s0", yes=True)
    assert states(lab, "opd") == ["completed"] * 2
    for wrong, hint in (
        ("fake/trbb", "Did you mean 'trb'"),
        ("fakee", "Did you mean 'fake'"),
        ("fke/trb", "'fake'"),
    ):
        with pytest.raises(UsageError, match=hint):
            cancelling.cancel(lab.store, wrong, yes=True)


def test_a_worker_that_does_not_end_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cancelling, "CANCEL_SECONDS", 0.3)
    lab.behave(SLOW)
    with lab.driver():
        lab.wait_for_steps(1)
        run = next(r for r in lab.store.trials() if locks.is_held(r.lock))
        os.kill(claim.live_worker(run)["pid"], signal.SIGSTOP)
        with pytest.raises(LabError, match=f"{run.run_id}: process .* does not end"):
            cancelling.cancel(lab.store, run.run_id, yes=True)


class TestClean:
    @pytest.fixture
    def used(self, lab: Lab, capsys: pytest.CaptureFixture[str]) -> Lab:
        lab.behave({"opd-s1": {"fail_at": 2}})
        lab.run()
        for run in lab.store.trials():
            for step in ("step_000002", "step_000004"):
                names = ("student.safetensors", "optimizer.safetensors")
                for name in names:
                    path = run.checkpoints / step / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(b"x" * 1000)
                state = {"step": int(step[-1]), "sizes": dict.fromkeys(names, 1000)}
                write_json(run.checkpoints / step / "state.json", state)
        capsys.readouterr()
        return lab

    def test_checkpoints_go_but_for_the_final_weights(self, used: Lab, capsys: pytest.CaptureFixture[str]):
        cleanup.clean(used.store, checkpoints=True, yes=True)
        freed = float(capsys.readouterr().out.split()[-3])
        assert 15 < freed < 18  # kB: 5 completed runs, each three large files and a small one
        for run in used.store.trials():
            left = sorted(str(p.relative_to(run.checkpoints)) for p in run.checkpoints.rglob("*.*"))
            if state_of(run) == "completed":
                assert left == ["step_000004/state.json", "step_000004/student.safetensors"]
                # The list of what makes it valid must not name what has gone.
                assert read_json(run.checkpoints / left[0])["sizes"] == {"student.safetensors": 1000}
            else:
                assert len(left) >= 6  # nothing of an unfinished run goes

    def test_failed_and_unplanned_runs_go_whole(self, used: Lab):
        used.edit("[0.01, 0.1]", "[0.01]")
        used.run()
        items = list(cleanup.find_items(used.store, ["failed", "unplanned"]))
        assert sorted((i.rule, i.run.run_id[:3]) for i in items) == [
            ("failed", "opd"), ("unplanned", "trb"), ("unplanned", "trb"),
        ]  # fmt: skip
        cleanup.clean(used.store, failed=True, unplanned=True, yes=True)
        assert states(used) == ["completed"] * 3
        assert not (used.store.root / "trash").exists()
        assert plan_sweep(used.path, used.store).counts()["new"] == 1

    def test_it_asks_first_and_without_a_rule_only_tells(self, used: Lab, capsys: pytest.CaptureFixture[str]):
        with pytest.raises(UsageError, match="--yes"):
            cleanup.clean(used.store, failed=True)
        cleanup.clean(used.store, yes=True)
        assert "--failed" in capsys.readouterr().out
        cleanup.clean(used.store, failed=True, older_than_days=1, yes=True)
        assert "Nothing to remove" in capsys.readouterr().out
        cleanup.clean(used.store, failed=True, as_json=True)
        found = json.loads(capsys.readouterr().out)
        assert (len(found["items"]), found["freed_bytes"]) == (1, 0)
        assert len(used.states()) == 6

    def test_a_running_trial_is_never_touched(self, used: Lab, capsys: pytest.CaptureFixture[str]):
        run = next(r for r in used.store.trials() if state_of(r) == "failed")
        items = list(cleanup.find_items(used.store, ["failed"]))

        with locks.hold(run.lock, "test"):
            assert not list(cleanup.find_items(used.store, ["failed"]))
            held = threading.Thread(target=lambda: cleanup._remove_all(used.store, items))
            held.start()
            held.join()
        assert run.config.exists()
        assert "is in use now and stays" in capsys.readouterr().err


def test_a_run_by_hand_is_listed_apart(lab: Lab, capsys: pytest.CaptureFixture[str]):
    run = RunDir(lab.store.root / "trials" / "opd-s9-0123456789")
    write_json(run.config, {"run_id": run.run_id, "spec": {"steps": 7}})
    overview.show_status(lab.store)
    out = capsys.readouterr().out
    assert "Runs in no sweep:" in out
    assert "0/7" in out
