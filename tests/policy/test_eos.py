"""The stop mass of both models on one coordinate."""

import torch

from trb_lab.policy.eos import StopMap, canonical_log_probs


def stop_map(size, stop_id, stop_ids, masked):
    return StopMap(size, stop_id, torch.tensor(stop_ids), torch.tensor(masked, dtype=torch.int64))


def test_stop_mass_is_the_union_and_padding_and_duplicates_carry_none():
    logits = torch.randn(3, 4, 9, dtype=torch.float64)  # 7 shared ids, 2 padding rows
    found = canonical_log_probs(logits, stop_map(7, 2, [2, 5], [4, 5]))
    p = torch.softmax(logits, -1)
    expected = p[..., :7].clone()
    expected[..., 2] = p[..., 2] + p[..., 5]
    expected[..., [4, 5]] = 0
    expected /= expected.sum(-1, keepdim=True)
    torch.testing.assert_close(found.exp(), expected)


def test_works_in_float32_inside_and_carries_gradient():
    logits = torch.randn(5, 9).bfloat16().requires_grad_()
    found = canonical_log_probs(logits, stop_map(7, 0, [0, 1], [1]))
    assert found.dtype == torch.float32
    found[:, 3].sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, 7:] == 0).all()


def test_a_stop_id_beyond_the_shared_part_still_counts():
    logits = torch.zeros(1, 6, dtype=torch.float64)
    found = canonical_log_probs(logits, stop_map(4, 0, [0, 5], []))
    torch.testing.assert_close(found.exp()[0], torch.tensor([0.4, 0.2, 0.2, 0.2], dtype=torch.float64))
