"""Real workers on the bundled pair: a pause is as if it had not been."""

from __future__ import annotations

from pathlib import Path

import pytest

from trb_lab.spec.sweeps import expand_searches
from trb_lab.store.run_dir import RunDir, Store
from trb_lab.store.status import attempt_count, attempts, state_of
from trb_lab.trial import prepare

from .forked_workers import ForkedWorker, fork_workers, forked
from .search_fakes import SearchLab, search_lab

pytestmark = pytest.mark.long

REAL_BASE = """
name: base
student: arith-student
teacher: arith-teacher
dataset: {kind: arith, split: train, num_examples: 60}
steps: 4
optim: {lr: 1e-3}
rollout: {block_tokens: 4, prompts_per_step: 2, max_prompt_tokens: 32, max_new_tokens: 12}
eval:
  sets: [{name: easy, dataset: {kind: arith, split: test, level: easy, num_examples: 4}}]
  samples: 1
  every: 2
checkpoint: {every: 100, keep: 2}
resources: {device: cpu, cpu_threads: 1}
"""


def work(run_dir: RunDir) -> int:
    import torch

    from trb_lab.experiment import run_experiment
    from trb_lab.worker import Paused

    torch.set_num_threads(1)
    try:
        run_experiment(run_dir)
    except Paused:
        return 0
    return 0


class RealWorker(ForkedWorker):
    """A worker of the lab's own, forked: torch is imported once."""

    work = staticmethod(work)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchLab:
    import trb_lab.experiment  # noqa: F401  (once, and not in each worker)

    found = search_lab(tmp_path, monkeypatch)
    fork_workers(monkeypatch.setattr, RealWorker)
    (tmp_path / "base.yaml").write_text(REAL_BASE)
    space = {"warmup.kl_budget": {"kind": "float", "low": 0.01, "high": 1.0, "log": True}}
    found.amend({"seeds": [0], "report": {"references": False}, "arms/opd": ...})
    found.amend({"arms/trb/overrides": {"warmup": {"kind": "trb", "steps": 3}}})
    found.search(space=space, trials=1, sampler="random", pruning={"kind": "asha", "first": 2, "factor": 3})
    return found


def test_a_run_that_paused_and_went_on_is_the_run_that_never_paused(lab: SearchLab, tmp_path: Path) -> None:
    assert lab.run() == 0
    run = lab.run_of(0)
    assert state_of(run) == "completed"
    assert [event.get("state") for event in attempts(run)] == [None, "paused", None, "completed"]

    arm = expand_searches(lab.path)["trb"]
    calm = prepare(arm.draft(0, lab.proposals()[0], 0).spec, Store(tmp_path / "calm"))
    with open(tmp_path / "calm.txt", "wb") as out:
        pid = forked(lambda: work(calm), out.fileno())
    assert lab.code_of(pid) == 0, (tmp_path / "calm.txt").read_text()[-2000:]
    assert calm.run_id == run.run_id
    assert attempt_count(calm) == 1
    assert run.metrics.read_bytes() == calm.metrics.read_bytes()
    last = sorted(p.name for p in run.checkpoints.glob("step_*"))[-1]
    weights = [folder.checkpoints / last / "student.safetensors" for folder in (run, calm)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
