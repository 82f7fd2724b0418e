"""Master weights, the learning-rate schedule, and the optimiser's state."""

import math

import pytest
import torch
from torch import nn

from trb_lab.spec.experiment import OptimSpec
from trb_lab.train.optimizer import MasterAdamW, learning_rate


def test_learning_rate_rises_as_a_cosine_and_stays():
    spec = OptimSpec(lr=1.0, lr_warmup_steps=4)
    found = [learning_rate(spec, k) for k in range(6)]
    assert found == pytest.approx([0.5 * (1 - math.cos(math.pi * (k + 1) / 4)) for k in range(4)] + [1, 1])
    assert learning_rate(OptimSpec(lr=0.5, lr_warmup_steps=0), 0) == 0.5


def gradients(module, seed):
    torch.manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape).to(parameter.dtype)


def test_float32_equals_plain_adamw():
    torch.manual_seed(0)
    ours, plain = nn.Linear(5, 3), nn.Linear(5, 3)
    plain.load_state_dict(ours.state_dict())
    optimizer = MasterAdamW(ours, OptimSpec(lr=0.1, lr_warmup_steps=0, grad_clip=0.5))
    reference = torch.optim.AdamW(plain.parameters(), lr=0.1, betas=(0.9, 0.999), weight_decay=0.01)
    for step in range(4):
        gradients(ours, step)
        gradients(plain, step)
        optimizer.accumulate()
        norm = optimizer.step(step)
        assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(plain.parameters(), 0.5)))
        reference.step()
    assert torch.equal(ours.weight, plain.weight)


def test_small_updates_survive_bfloat16():
    """At lr 1e-5 a bfloat16 weight of 1 cannot move; its float32 master does, and the sum shows in time."""
    module = nn.Linear(4, 4, bias=False).bfloat16()
    nn.init.ones_(module.weight)
    optimizer = MasterAdamW(module, OptimSpec(lr=1e-5, lr_warmup_steps=0, weight_decay=0.0))
    for step in range(400):
        module.weight.grad = torch.ones_like(module.weight)
        optimizer.accumulate()
        optimizer.step(step)
    assert optimizer.masters[0].mean().item() == pytest.approx(1 - 400e-5, abs=1e-4)
    assert module.weight.float().max().item() < 1.0


def test_micro_batch_gradients_add_up_in_float32():
    module = nn.Linear(3, 3, bias=False).bfloat16()
    optimizer = MasterAdamW(module, OptimSpec())
    parts = [torch.full((3, 3), 1.0), torch.full((3, 3), 2**-9)]  # the second is lost in a bfloat16 sum
    for part in parts:
        module.weight.grad = part.bfloat16()
        optimizer.accumulate()
    assert torch.equal(optimizer.masters[0].grad, sum(parts))
    assert module.weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_round_trip_continues_bit_for_bit(dtype):
    def fresh():
        torch.manual_seed(1)
        return nn.Linear(6, 2).to(dtype)

    def advance(module, optimizer, steps):
        for step in steps:
            gradients(module, step)
            optimizer.accumulate()
            optimizer.step(step)

    straight = fresh()
    optimizer = MasterAdamW(straight, OptimSpec(lr=0.01))
    advance(straight, optimizer, range(3))
    tensors = {k: v.clone() for k, v in optimizer.state_tensors().items()}
    advance(straight, optimizer, range(3, 6))
    resumed = fresh()
    second = MasterAdamW(resumed, OptimSpec(lr=0.01))
    second.load_state_tensors(tensors)
    advance(resumed, second, range(3, 6))
    assert torch.equal(straight.weight, resumed.weight)
    for name, value in optimizer.state_tensors().items():
        assert torch.equal(value, second.state_tensors()[name]), name
