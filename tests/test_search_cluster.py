"""A search whose runs are jobs of a (fake) cluster: paused ones give their job back, promoted ones get another."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from trb_lab.driver import cluster as driver_cluster
from trb_lab.driver import overview
from trb_lab.driver.cluster import cluster_of
from trb_lab.errors import UsageError
from trb_lab.launch import claim, slurm, slurm_jobs
from trb_lab.store.status import attempt_count, state_of

from .search_fakes import ASHA, STEPS, SearchLab, check, once, search_lab
from .slurm_fakes import FakeSlurm
from .test_sweep_cluster import PROFILE

pytestmark = pytest.mark.long

pytest.importorskip("submitit")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    with FakeSlurm(tmp_path / "cluster", kill_wait=1.0, requeue_delay=0.05, cpus=6) as cluster:
        for key, value in cluster.environment().items():
            monkeypatch.setenv(key, value)
        yield cluster


@pytest.fixture
def lab(tmp_path: Path, cluster: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> SearchLab:
    monkeypatch.setattr(slurm_jobs, "GONE_SECONDS", 0.3)
    monkeypatch.setattr(slurm, "FULL_SECONDS", 0.1)
    monkeypatch.setattr(overview, "ASK_SECONDS", 0.1)
    monkeypatch.setattr(driver_cluster, "mlflow_is_here", lambda: False)
    found = search_lab(tmp_path, monkeypatch)
    found.amend({"seeds": [0]})
    found.search(trials=4, pruning=ASHA)
    (tmp_path / "profile.yaml").write_text(PROFILE)
    return found


def on_it(lab: SearchLab) -> driver_cluster.Cluster | None:
    return cluster_of(lab.root / "profile.yaml")


def test_paused_runs_give_their_job_back_and_go_on_in_another(
    lab: SearchLab, cluster: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = lab.fork_driver("driver.result.before:3", cluster=on_it(lab))
    assert lab.code_of(pid) == -signal.SIGKILL
    assert lab.run(cluster=on_it(lab)) == 0, (lab.root / "driver.txt").read_text()
    cluster.wait_idle(60)
    check(lab, asked=4)
    for number in range(4):
        run = lab.run_of(number)
        steps = lab.steps_made(run.run_id)
        assert once(steps)
        assert attempt_count(run) == 1 + (2, 6, STEPS).index(len(steps))
        assert claim.live_worker(run) is None
    states = [state_of(lab.run_of(number)) for number in range(4)]
    assert sorted(states) == ["completed", "paused", "paused", "paused"]

    (tmp_path / "calm").mkdir()  # what workers on this machine make of it
    calm = search_lab(tmp_path / "calm", monkeypatch)
    calm.path.write_text(lab.path.read_text())
    assert calm.run() == 0
    assert lab.proposals() == calm.proposals()
    assert lab.searched() == calm.searched()
    before = len(cluster.calls("sbatch"))
    assert lab.run(cluster=on_it(lab)) == 0
    assert len(cluster.calls("sbatch")) == before


def test_a_search_wants_a_driver(lab: SearchLab) -> None:
    with pytest.raises(UsageError, match="--detach leaves no driver"):
        lab.run(cluster=cluster_of(lab.root / "profile.yaml", detach=True))
    assert not lab.store.root.exists() or not lab.store.trials()
