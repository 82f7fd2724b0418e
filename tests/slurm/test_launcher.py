"""The launcher itself on a real cluster: the suite of every launcher, and jobs of several tasks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from trb_lab.launch.base import Job, Phase
from trb_lab.launch.slurm import SlurmLauncher
from trb_lab.spec.cluster import ClusterProfile, load_cluster
from trb_lab.store.run_dir import Store, write_json

from ..launch.conformance import LauncherConformance, fake_command, wait_for
from .lab import PATIENCE, ROOT, Marks

pytestmark = Marks


@pytest.fixture
def profile() -> ClusterProfile:
    found = load_cluster(ROOT / "slurm" / "dev.yaml")
    return found.model_copy(update={"mem": "500MB", "poll_seconds": 0.2})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Nothing of it is left on the cluster."""
    store = Store(tmp_path / "runs")
    yield store
    names = [f"trb-{path.parent.name}" for path in store.slurm.glob("*/batch.json")]
    if names:
        subprocess.run(["scancel", "--quiet", "--name", ",".join(names)], check=True)


class TestSlurmLauncher(LauncherConformance):
    @pytest.fixture
    def store(self, store: Store) -> Store:
        return store

    @pytest.fixture
    def launcher(self, store: Store, profile: ClusterProfile) -> SlurmLauncher:
        return SlurmLauncher(store, profile, "sweep", slots=2, command=fake_command)


SUM_OF_RANKS = """
import os
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
local = os.environ["LOCAL_RANK"]
line = f"rank {dist.get_rank()} (local {local}) of {dist.get_world_size()}: {total.item():.0f}\\n"
os.write(1, line.encode())  # in one piece: the other rank prints to the same file
dist.destroy_process_group()
"""


def test_the_tasks_of_a_job_find_each_other(store: Store, profile: ClusterProfile):
    run_dir = store.trial("two")
    write_json(run_dir.config, {"run_id": "two"})
    two = profile.model_copy(update={"tasks_per_node": 2, "mem": "2GB"})
    launcher = SlurmLauncher(store, two, "sweep", command=lambda job: ["-c", SUM_OF_RANKS])
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    launcher.submit(Job(run_dir))
    wait_for(lambda: launcher.poll()["two"].phase is Phase.ENDED, PATIENCE)
    wait_for(lambda: len(run_dir.log.read_text().splitlines()) == 2, PATIENCE)  # rank 0 tells the end of both
    assert launcher.poll()["two"].exit_code == 0, launcher.logs("two")
    said = sorted(line for line in launcher.logs("two") if line.startswith("rank "))
    assert said == ["rank 0 (local 0) of 2: 3", "rank 1 (local 1) of 2: 3"]
