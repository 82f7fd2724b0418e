"""The supervised phase: what it trains on, and that a killed run ends as one that was never killed."""

import json
import os
import random
import signal
import time

import pytest
import torch
from torch import nn

from tests.train.experiments import small_run, small_spec
from tests.train.test_resume import final_bytes, worker
from trb_lab.experiment import run_experiment
from trb_lab.models.load import load_pair
from trb_lab.policy.eos import canonical_log_probs
from trb_lab.spec.experiment import OptimSpec
from trb_lab.spec.warmup import SftWarmup
from trb_lab.store.metrics import read_metrics
from trb_lab.store.status import TrialState, attempts, state_of
from trb_lab.tasks.grading import Grader
from trb_lab.train import checkpoint
from trb_lab.train.backward import imitate
from trb_lab.train.data import TrainingData
from trb_lab.train.optimizer import MasterAdamW, learning_rate
from trb_lab.train.sft import SftPhase, as_rollouts, sft_optim
from trb_lab.train.teacher_samples import TeacherSampler
from trb_lab.worker import Stopped

WARMUP = {"kind": "sft", "updates": 5, "samples_per_prompt": 2, "lr": 2e-3, "lr_warmup_steps": 2}
SFT = {"warmup": WARMUP, "checkpoint": {"every": 2}}


def all_bytes(run_dir):
    return {
        **final_bytes(run_dir),
        "sft": run_dir.sft.read_bytes(),
        "positions": run_dir.positions.read_bytes(),
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run_dir = small_run(tmp_path_factory.mktemp("undisturbed"), **SFT)
    result = run_experiment(run_dir)
    return run_dir, all_bytes(run_dir), result


@pytest.fixture(scope="module")
def pair():
    spec = small_spec()
    return load_pair(spec.student, spec.teacher, torch.device("cpu"), torch.float32)


def test_updates_have_lines_and_the_run_ends_with_plain_steps(undisturbed):
    run_dir, _, result = undisturbed
    lines = read_metrics(run_dir.sft)
    assert [line["update"] for line in lines] == list(range(5))
    optim = OptimSpec(lr=2e-3, lr_warmup_steps=2)
    assert [line["lr"] for line in lines] == [learning_rate(optim, i) for i in range(5)]
    assert all(line["loss"] > 0 and 0 <= line["truncated_share"] <= 1 for line in lines)
    metrics = read_metrics(run_dir.metrics)
    assert [line["step"] for line in metrics] == list(range(6))
    assert metrics[0]["train/lr"] == learning_rate(small_spec().optim, 0)  # a fresh schedule
    phases = result["cost"]["phases"]
    assert phases["sft"]["student_tokens"] > sum(line["tokens"] for line in lines)
    assert phases["sft_samples"]["teacher_tokens"] > 0 == phases["sft_samples"]["student_tokens"]
    assert [p.name for p in run_dir.checkpoints.iterdir()] == ["step_000006"]


def test_training_starts_from_the_weights_of_the_phase(undisturbed, tmp_path):
    run_dir, _, _ = undisturbed
    opd = small_run(tmp_path, warmup={"kind": "opd"})
    run_experiment(opd)
    assert (
        read_metrics(run_dir.metrics)[0]["train/reverse_kl"]
        != read_metrics(opd.metrics)[0]["train/reverse_kl"]
    )
    assert not opd.sft.exists()


def data_of(pair, spec):
    with Grader() as grader:
        return TrainingData(spec, pair, grader)


def test_update_i_takes_the_prompts_of_step_i(pair):
    spec = small_spec(rollout={"prompts_per_step": 4, "samples_per_prompt": 3, "max_new_tokens": 8})
    data = data_of(pair, spec)
    for step in (0, 3):
        rollouts, supervised = data.prompts_at(step), data.rows_at(step, 2)
        assert [data.problems[i] for i in supervised[::2]] == rollouts.problems[::3]
        assert supervised[::2] == supervised[1::2]


def test_samples_come_from_the_teacher(pair):
    """Greedy enough to see: the teacher gives its own samples far more probability than the student does."""
    spec = small_spec(**SFT)
    data = data_of(pair, spec)
    rows = data.rows_at(0, 4)
    samples = TeacherSampler(spec, pair, 4, 0).at(0, [data.teacher_ids[i] for i in rows])
    means = []
    for model, prompts in ((pair.teacher, data.teacher_ids), (pair.student, data.student_ids)):
        values = []
        for row, i in enumerate(rows):
            response = samples.tokens_BT[row, : samples.lengths_B[row]].tolist()
            ids = torch.tensor([prompts[i] + response])
            with torch.no_grad():
                log_probs = canonical_log_probs(model.logits(model.hidden(input_ids=ids))[0], model.stops)
            values += [float(log_probs[len(prompts[i]) - 1 + t, token]) for t, token in enumerate(response)]
        means.append(sum(values) / len(values))
    assert means[0] > means[1] + 0.05
    assert samples.finished_B.any()
    ends = samples.tokens_BT[torch.arange(len(rows)), samples.lengths_B - 1] == pair.vocabulary.stop_id
    assert torch.equal(ends, samples.finished_B)


def test_loss_is_the_token_mean_nll_and_cut_samples_count(pair, tmp_path):
    short = {"prompts_per_step": 8, "samples_per_prompt": 1, "max_prompt_tokens": 64, "max_new_tokens": 12}
    run_dir = small_run(tmp_path, **{**SFT, "rollout": short, "eval": {"sets": []}})
    run_experiment(run_dir)
    line = read_metrics(run_dir.sft)[0]
    spec = small_spec(**{**SFT, "rollout": short})
    data = data_of(pair, spec)
    rows = data.rows_at(0, 2)
    samples = TeacherSampler(spec, pair, 2, 0).at(0, [data.teacher_ids[i] for i in rows])
    batch = as_rollouts(samples, [data.student_ids[i] for i in rows])
    total = 0.0
    for row, prompt in enumerate(batch.student_prompts):
        response = batch.tokens_BT[row, : samples.lengths_B[row]].tolist()
        ids = torch.tensor([prompt + response])
        with torch.no_grad():
            logits = pair.student.logits(pair.student.hidden(input_ids=ids))[0]
        log_p = canonical_log_probs(logits.double(), pair.student.stops)
        total -= sum(float(log_p[len(prompt) - 1 + t, token]) for t, token in enumerate(response))
    assert line["loss"] == pytest.approx(total / int(samples.lengths_B.sum()), rel=1e-5)
    assert line["truncated_share"] == float((~samples.finished_B).double().mean()) > 0
    assert line["tokens"] == int(samples.lengths_B.sum())


def test_updates_on_one_batch_lower_its_loss():
    spec = small_spec(**SFT)
    own = load_pair(spec.student, spec.teacher, torch.device("cpu"), torch.float32)
    data = data_of(own, spec)
    rows = data.rows_at(0, 2)
    samples = TeacherSampler(spec, own, 2, 0).at(0, [data.teacher_ids[i] for i in rows])
    batch = as_rollouts(samples, [data.student_ids[i] for i in rows])
    optimizer = MasterAdamW(own.student.network, OptimSpec(lr=3e-4, lr_warmup_steps=0))
    losses = []
    for step in range(4):
        losses.append(imitate(spec, own.student, batch, optimizer.accumulate).loss)
        optimizer.step(step)
    assert losses == sorted(losses, reverse=True)


# ---- the optimisers ----


def test_float32_masters_carry_over_and_moments_do_not():
    torch.manual_seed(0)
    module = nn.Linear(8, 4).bfloat16()
    first = MasterAdamW(module, OptimSpec(lr=1e-4, lr_warmup_steps=0))
    for step in range(3):
        for parameter in module.parameters():
            parameter.grad = torch.randn(parameter.shape).bfloat16()
        first.accumulate()
        first.step(step)
    masters = [m.detach().clone() for m in first.masters]
    assert any(not torch.equal(m, w.float()) for m, w in zip(masters, module.parameters(), strict=True))
    fresh = first.renewed(OptimSpec(lr=0.5, lr_warmup_steps=0))
    assert all(torch.equal(a, b) for a, b in zip(masters, fresh.masters, strict=True))
    assert not fresh.adamw.state and fresh.spec.lr == 0.5 and first.spec.lr == 1e-4
    # What is saved between the phases brings the same masters back, with no moments.
    saved = {name: value.clone() for name, value in fresh.state_tensors().items()}
    assert all(name.startswith("master/") for name in saved)
    other = MasterAdamW(nn.Linear(8, 4).bfloat16(), OptimSpec())
    other.load_state_tensors(saved)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    for mine, theirs in zip(other.working, fresh.working, strict=True):
        mine.grad = theirs.grad.clone()
    for optimizer in (fresh, other):
        optimizer.spec = OptimSpec(lr=0.5, lr_warmup_steps=0)
        optimizer.accumulate()
        optimizer.step(0)
    assert all(torch.equal(a, b) for a, b in zip(fresh.masters, other.masters, strict=True))


def test_what_the_arm_leaves_out_is_the_runs():
    optim = OptimSpec(lr=3e-4, lr_warmup_steps=7, weight_decay=0.2)
    assert sft_optim(optim, SftWarmup()) == optim
    assert sft_optim(optim, SftWarmup(lr=1.0, lr_warmup_steps=0)) == OptimSpec(
        lr=1.0, lr_warmup_steps=0, weight_decay=0.2
    )


# ---- kill and resume ----


def wait_for(path, count, process):
    while process.poll() is None and len(read_metrics(path)) < count:
        time.sleep(0.005)


@pytest.mark.parametrize("update", [1, 3, 5])
def test_an_error_at_any_update_and_resume(undisturbed, tmp_path, monkeypatch, update):
    """1: before the first checkpoint; 3: after it; 5: the phase is over and its checkpoint cannot be written."""
    _, expected, _ = undisturbed
    run_dir = small_run(tmp_path, **SFT)
    if update < 5:
        real = SftPhase._update

        def dies(self, i):
            real(self, i)
            if i == update:
                raise MemoryError("simulated")

        monkeypatch.setattr(SftPhase, "_update", dies)
    else:
        real_rename = os.rename

        def fails(source, target):
            if "step_000000" in str(target):
                raise MemoryError("simulated")
            real_rename(source, target)

        monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(MemoryError):
        run_experiment(run_dir)
    monkeypatch.undo()
    saved = checkpoint.newest(run_dir)
    assert (saved and saved.sft_updates) == {1: None, 3: 2, 5: 4}[update]
    run_experiment(run_dir)
    assert all_bytes(run_dir) == expected


def test_died_between_the_phase_and_the_first_step(undisturbed, tmp_path, monkeypatch):
    _, expected, _ = undisturbed
    run_dir = small_run(tmp_path, **SFT)

    def dies(*_):
        raise MemoryError("simulated")

    monkeypatch.setattr(TrainingData, "prompts_at", dies)
    with pytest.raises(MemoryError):
        run_experiment(run_dir)
    monkeypatch.undo()
    saved = checkpoint.newest(run_dir)
    assert (saved.path.name, saved.step, saved.sft_updates) == ("step_000000", 0, None)
    before = run_dir.sft.read_bytes()
    run_experiment(run_dir)
    assert run_dir.sft.read_bytes() == before
    assert all_bytes(run_dir) == expected


def test_a_stop_signal_in_the_phase_saves_and_goes_on(undisturbed, tmp_path):
    _, expected, _ = undisturbed
    run_dir = small_run(tmp_path, **{**SFT, "checkpoint": {"every": 50}})
    process = worker(run_dir)
    wait_for(run_dir.sft, 1, process)
    process.terminate()
    assert process.wait() == 130
    assert b"supervised updates" in process.stderr.read()
    assert state_of(run_dir) is TrialState.INTERRUPTED
    saved = checkpoint.newest(run_dir)
    assert saved.path.name == f"sft_{saved.sft_updates:06d}" and saved.sft_updates == len(
        read_metrics(run_dir.sft)
    )
    run_experiment(run_dir)
    assert all_bytes(run_dir) == expected


@pytest.mark.slow
@pytest.mark.parametrize("case", range(3))
def test_killed_at_random_moments(undisturbed, tmp_path, case):
    """In the phase, then in training; the samples' cache is there or not."""
    _, expected, _ = undisturbed
    run_dir = small_run(tmp_path, **SFT)
    rng = random.Random(case)
    environment = {"TRB_LAB_CACHE": str(tmp_path / "cache")} if case else {}
    for path, count in ((run_dir.sft, rng.randint(0, 4)), (run_dir.metrics, rng.randint(1, 5))):
        process = worker(run_dir, **environment)
        wait_for(path, count, process)
        time.sleep(rng.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = worker(run_dir, **environment)
    assert process.wait() == 0, process.stderr.read().decode()
    assert all_bytes(run_dir) == expected
    assert state_of(run_dir) is TrialState.COMPLETED


def test_a_damaged_checkpoint_of_the_phase_is_passed_over(undisturbed, tmp_path, monkeypatch):
    _, expected, _ = undisturbed
    run_dir = small_run(tmp_path, **{**SFT, "checkpoint": {"every": 2, "keep": 2}})
    real = SftPhase._update

    def stops(self, update):
        if update == 4:
            raise Stopped("here")
        real(self, update)

    monkeypatch.setattr(SftPhase, "_update", stops)
    with pytest.raises(Stopped):
        run_experiment(run_dir)
    monkeypatch.undo()
    assert sorted(p.name for p in run_dir.checkpoints.iterdir()) == ["sft_000002", "sft_000004"]
    (run_dir.checkpoints / "sft_000004" / checkpoint.WEIGHTS).write_bytes(b"torn")
    assert checkpoint.newest(run_dir).sft_updates == 2
    run_experiment(run_dir)
    assert all_bytes(run_dir) == expected
    assert not [p for p in run_dir.checkpoints.iterdir() if p.name.startswith("sft")]


def test_divergence_in_the_phase_is_nan(tmp_path):
    warmup = {"kind": "sft", "updates": 6, "samples_per_prompt": 1, "lr": 1e30, "lr_warmup_steps": 0}
    run_dir = small_run(tmp_path, warmup=warmup, optim={"grad_clip": 1e30})
    with pytest.raises(Exception, match=r"SFT update"):
        run_experiment(run_dir)
    assert attempts(run_dir)[-1]["error_class"] == "nan"


def test_cost_and_seconds_count_the_phase(undisturbed):
    run_dir, _, result = undisturbed
    timing = read_metrics(run_dir.timing) + read_metrics(run_dir.sft_timing)
    assert result["seconds_total"] == pytest.approx(sum(line["seconds"]["total"] for line in timing))
    assert json.loads(run_dir.result.read_text())["cost"] == result["cost"]
