"""The cost ledger: tokens by hand, and sums that count each step once."""

import json

import pytest
import torch

from tests.tiny import tiny_pair
from tests.train.experiments import small_run
from trb_lab.experiment import run_experiment
from trb_lab.policy.behaviors import student_rollouts, trust_region_rollouts
from trb_lab.rollout.engine import Draws, Keep, RolloutRequest
from trb_lab.rollout.torch_engine import TorchEngine
from trb_lab.store.metrics import read_metrics
from trb_lab.store.run_dir import RunDir
from trb_lab.train.ledger import Cost, Ledger, gpus_of, run_cost, run_seconds

PHASES = {"rollout", "scoring", "grading", "objective", "optimizer"}


def request(rows=4, width=6):
    prompts = ([3, 4, 5], [5], [3, 4, 5], [2, 4])
    student = [list(prompts[i % 4]) for i in range(rows)]
    teacher = [[*prompt, 3] for prompt in student]
    return RolloutRequest(student, teacher, Draws.keyed(0, "test", 0, range(rows), width), block_tokens=3)


@pytest.mark.parametrize("with_teacher", [False, True])
def test_rollout_counts_drafts_and_the_prefill_of_distinct_prompts(with_teacher):
    engine = TorchEngine(tiny_pair())
    budgets = torch.full((4,), 0.05, dtype=torch.float64)
    behavior = trust_region_rollouts(budgets, 0.05) if with_teacher else student_rollouts(4)
    for times in (1, 2):  # the second rollout takes the caches of the first
        work = engine.rollout(request(), behavior, Keep()).work
        # Of a prompt its last token is fed with the first draft: 2 + 0 + 1 for the student, one more for the teacher.
        assert engine.tokens["student"] == times * (work.drafted_tokens + 3)
        assert engine.tokens["teacher"] == (times * (work.verified_tokens + 3 + 3) if with_teacher else 0)


def test_scoring_counts_full_sequences_but_their_last_tokens():
    engine = TorchEngine(tiny_pair())
    rollouts = engine.rollout(request(), student_rollouts(4), Keep())
    assert engine.tokens["teacher"] == 0
    engine.score(rollouts, Keep())
    fed = [len(p) + n - 1 for p, n in zip(rollouts.teacher_prompts, rollouts.lengths_B.tolist(), strict=True)]
    assert engine.tokens["teacher"] == sum(fed)


def test_a_phase_takes_its_own_tokens_and_adds_up():
    tokens = {"student": 5, "teacher": 0}
    ledger = Ledger(lambda: tokens, gpus=2)
    with ledger("rollout"):
        tokens["student"] += 7
    tokens["student"] += 100  # between phases: nobody's
    with ledger("rollout"):
        tokens["teacher"] += 3
    ledger.charge("rollout", Cost(seconds=1.0, student_tokens=1))
    cost = ledger.phases["rollout"]
    assert (cost.student_tokens, cost.teacher_tokens) == (8, 3)
    assert cost.gpu_seconds == pytest.approx(2 * (cost.seconds - 1.0))
    assert ledger.seconds["total"] == ledger.seconds["rollout"] == cost.seconds >= 1.0


def test_gpus_of_a_run():
    assert (gpus_of("cpu", 4), gpus_of("cuda", 1), gpus_of("cuda", 2), gpus_of("cuda", 0)) == (0, 1, 2, 1)


def lines(path, entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def entry(key, number, seconds, tokens, phase="rollout"):
    cost = {"seconds": seconds, "cpu_seconds": 0.0, "gpu_seconds": 0.0, "student_tokens": tokens}
    return {key: number, "seconds": {"total": seconds}, "cost": {phase: {**cost, "teacher_tokens": 1}}}


def test_a_repeated_step_counts_as_last_timed(tmp_path):
    run_dir = RunDir(tmp_path)
    steps = [entry("step", 0, 1.0, 10), entry("step", 1, 2.0, 20), entry("step", 1, 4.0, 40)]
    lines(run_dir.timing, steps)
    lines(run_dir.sft_timing, [entry("update", 0, 8.0, 5, "sft"), entry("update", 0, 16.0, 6, "sft")])
    cost = run_cost(run_dir, 1)
    assert cost["phases"]["rollout"]["seconds"] == 5.0 and cost["phases"]["rollout"]["student_tokens"] == 50
    assert cost["phases"]["sft"]["student_tokens"] == 6
    assert cost["total"] == {
        "seconds": 21.0, "cpu_seconds": 0.0, "gpu_seconds": 0.0, "student_tokens": 56, "teacher_tokens": 3,
    }  # fmt: skip
    assert cost["gpus"] == 1
    assert run_seconds(run_dir) == 21.0


def test_a_step_without_a_ledger_leaves_no_sum(tmp_path):
    run_dir = RunDir(tmp_path)
    assert run_cost(run_dir, 0) is None
    lines(run_dir.timing, [{"step": 0, "seconds": {"total": 1.0}}, entry("step", 1, 2.0, 20)])
    assert run_cost(run_dir, 0) is None
    assert run_seconds(run_dir) == 3.0


@pytest.mark.parametrize("kind", ["opd", "trb"])
def test_ledger_of_a_real_run(tmp_path, kind):
    warmup = {"kind": "trb", "kl_budget": 0.1, "steps": 6} if kind == "trb" else {"kind": "opd"}
    run_dir = small_run(tmp_path, warmup=warmup)
    result = run_experiment(run_dir)
    phases = result["cost"]["phases"]
    assert set(phases) == PHASES | {"eval"}
    timing = read_metrics(run_dir.timing)
    for name in phases:
        student = sum(line["cost"].get(name, {}).get("student_tokens", 0) for line in timing)
        assert phases[name]["student_tokens"] == student
    responses = sum(line["rollout/tokens"] for line in read_metrics(run_dir.metrics))
    assert phases["objective"]["student_tokens"] > responses - 6 * 8
    assert phases["rollout"]["student_tokens"] > responses
    assert phases["eval"]["student_tokens"] > 0 == phases["eval"]["teacher_tokens"]
    assert phases["grading"]["student_tokens"] == 0 == phases["objective"]["teacher_tokens"]
    where = "rollout" if kind == "trb" else "scoring"
    other = "scoring" if kind == "trb" else "rollout"
    assert phases[where]["teacher_tokens"] > responses - 6 * 8 and phases[other]["teacher_tokens"] == 0
    for line in timing:
        cost = line["cost"]
        assert line["seconds"] == {
            **{p: c["seconds"] for p, c in cost.items()},
            "total": line["seconds"]["total"],
        }
    total = result["cost"]["total"]
    assert total["teacher_tokens"] == sum(phase["teacher_tokens"] for phase in phases.values())
    assert total["gpu_seconds"] == 0 and result["cost"]["gpus"] == 0
