"""Position profiles against plain loops over tokens."""

import pytest
import torch

from tests.tiny import reference_log_probs, tiny_pair
from tests.train.experiments import small_run
from tests.train.rollouts import made_rollouts
from trb_lab.experiment import run_experiment
from trb_lab.store.metrics import read_metrics
from trb_lab.train.positions import bin_means, log_bins, top_k_agreement


def test_bins_double():
    assert log_bins(1) == [(1, 1)]
    assert log_bins(9) == [(1, 1), (2, 3), (4, 7), (8, 15)]
    assert log_bins(8)[-1] == log_bins(15)[-1] == (8, 15)


def test_bin_means_are_token_means():
    lengths = [9, 2, 5, 1]
    rollouts = made_rollouts(lengths, seed=1)
    bins = log_bins(9)
    found = bin_means(rollouts.kl_BT, rollouts.mask_BT, [*bins, (16, 31)])
    for (first, last), value in zip(bins, found, strict=False):
        tokens = [
            float(rollouts.kl_BT[row, t - 1])
            for row, length in enumerate(lengths)
            for t in range(first, last + 1)
            if t <= length
        ]
        assert value == pytest.approx(sum(tokens) / len(tokens))
    assert found[-1] is None


@pytest.mark.parametrize(("token_budget", "chunk"), [(1000, 100), (9, 3)])
def test_agreement_is_that_of_the_definitions(token_budget, chunk):
    pair, top_k = tiny_pair(), 2
    rollouts = made_rollouts([4, 1, 3], seed=2, prompts=[[3, 4], [5], [2, 3, 4]])
    found = top_k_agreement(pair, rollouts, top_k, token_budget, chunk)
    stops, size = pair.vocabulary.stop_ids, pair.vocabulary.size
    for row, length in enumerate([4, 1, 3]):
        for t in range(length):
            before = rollouts.tokens_BT[row, :t].tolist()
            log_p, log_q = (
                reference_log_probs(model, [*prompts[row], *before], stops, size)
                for model, prompts in (
                    (pair.student, rollouts.student_prompts),
                    (pair.teacher, rollouts.teacher_prompts),
                )
            )
            likeliest = set(log_p.topk(top_k).indices.tolist())
            theirs = set(log_q.topk(top_k).indices.tolist())
            at = (row, t)
            masses = [sum(float(part[i].exp()) for i in likeliest) for part in (log_p, log_q)]
            assert float(found.student_mass_BT[at]) == pytest.approx(masses[0], abs=1e-5)
            assert float(found.teacher_mass_BT[at]) == pytest.approx(masses[1], abs=1e-5)
            assert float(found.overlap_BT[at]) == pytest.approx(len(likeliest & theirs) / top_k)
    assert not any(part[~rollouts.mask_BT].any() for part in found)


def test_lines_of_sampled_steps(tmp_path):
    run_dir = small_run(tmp_path, steps=4, eval={"sets": [], "every": 3})
    run_experiment(run_dir)
    lines = read_metrics(run_dir.positions)
    assert [line["step"] for line in lines] == [0, 2, 3]
    metrics = read_metrics(run_dir.metrics)
    for line in lines:
        same = metrics[line["step"]]
        tokens = line["tokens"]
        assert sum(tokens) == same["rollout/tokens"]
        for key, name in (("kl", "kl_mean"), ("redraw_rate", "redraw_rate"), ("beta", "beta_mean")):
            mean = sum(n * value for n, value in zip(tokens, line[key], strict=True)) / sum(tokens)
            assert mean == pytest.approx(same[f"policy/{name}"], abs=1e-9)
        shares = line["student_top_k_mass"] + line["teacher_top_k_mass"] + line["top_k_overlap"]
        assert all(value is None or 0 <= value <= 1 + 1e-6 for value in shares)


def test_torch_generators_are_left_alone():
    pair, rollouts = tiny_pair(), made_rollouts([3, 2])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    top_k_agreement(pair, rollouts, 2, 100, 100)
    assert torch.equal(torch.get_rng_state(), before)
