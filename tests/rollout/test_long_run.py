"""Ten thousand rollouts through one engine: neither memory nor cache slots leak."""

import gc
import math
import weakref
from pathlib import Path
from resource import getpagesize

import torch

from tests.tiny import tiny_pair
from trb_lab.policy.behaviors import student_rollouts, trust_region_rollouts
from trb_lab.rollout.engine import Draws, Keep, RolloutRequest
from trb_lab.rollout.torch_engine import TorchEngine
from trb_lab.seeds import generator

ROLLOUTS, SETTLED = 10_000, 2_000
SLOTS, WIDEST, LONGEST = 32, 14, 9
GROWTH_BYTES = 16 * 2**20
"""Bound on what the process may grow by once SETTLED; 1 KB a rollout would be 8 MB, and the allocator needs some room.
Live tensors are counted besides, to the byte."""


def random_request(rng, step):
    """Rows, widths, prompts and block lengths at random; each row has its own budget, from 0 to infinity."""
    rows, width = int(rng.integers(1, 90)), int(rng.integers(1, WIDEST + 1))
    prompts = [
        [rng.integers(2, 6, size=rng.integers(1, LONGEST)).tolist() for _ in range(rows)] for _ in range(2)
    ]
    block = None if rng.random() < 0.1 else int(rng.integers(1, 9))
    draws = Draws.keyed(1, "long", step, range(rows), width)
    budgets = 10.0 ** torch.from_numpy(rng.uniform(-5, 2, rows))
    budgets[torch.from_numpy(rng.random(rows) < 0.1)] = 0.0
    budgets[torch.from_numpy(rng.random(rows) < 0.1)] = math.inf
    behavior = student_rollouts(rows) if rng.random() < 0.1 else trust_region_rollouts(budgets, 0.1)
    return RolloutRequest(*prompts, draws, block), behavior, budgets


def live_tensor_bytes():
    """Bytes of all storages that Python can reach, each counted once."""
    gc.collect()
    storages = [part.untyped_storage() for part in gc.get_objects() if type(part) is torch.Tensor]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()


def buffers_of(engine):
    return {
        (role, layer, i): (id(buffer), buffer.data_ptr(), tuple(buffer.shape))
        for role, cached in engine.caches.models.items()
        for layer, pair in cached.cache.layers.items()
        for i, buffer in enumerate(pair)
    }


def one_request(engine, batches, rng, step):
    """Rows of one random request, and a weak reference to the batch that decoded them."""
    asked, behavior, budgets = random_request(rng, step)
    rollouts = engine.rollout(asked, behavior, Keep(top_k=2, teacher_hidden=step % 2 == 0))
    batch = batches.pop()
    assert len(batch) == 0
    assert not batch.waiting
    assert not batches
    assert (rollouts.lengths_B >= 1).all()
    if behavior.needs_teacher:
        over_BT = rollouts.kl_BT.double() > budgets[:, None] * (1 + 1e-5)
        assert not over_BT[rollouts.mask_BT].any()
    return len(asked.student_prompts), weakref.ref(batch)


def test_ten_thousand_rollouts_leak_neither_memory_nor_slots(monkeypatch):
    batches, real = [], TorchEngine.start
    monkeypatch.setattr(TorchEngine, "start", lambda *args: (batches.append(real(*args)), batches[-1])[1])
    engine = TorchEngine(tiny_pair(6, sharpness=1.0, seed=8), max_rows=SLOTS, score_tokens=100)
    # The largest request first: its caches serve all that follow.
    draws = Draws.keyed(0, "largest", 0, range(SLOTS), WIDEST)
    largest = RolloutRequest([[2] * LONGEST] * SLOTS, [[3] * LONGEST] * SLOTS, draws, 4)
    engine.rollout(largest, trust_region_rollouts(torch.full((SLOTS,), 0.1), 0.1), Keep(top_k=2))
    batches.clear()
    buffers = buffers_of(engine)
    assert len(buffers) == 4  # keys and values of one layer in each of two models
    rng, done, step, settled, passed = generator(0, "long_run"), 0, 0, None, []
    while done < ROLLOUTS:
        rows, batch = one_request(engine, batches, rng, step)
        done, step = done + rows, step + 1
        passed.append(batch)
        if done >= SETTLED and settled is None:
            settled = live_tensor_bytes(), resident_bytes()
    assert live_tensor_bytes() == settled[0]
    assert resident_bytes() - settled[1] < GROWTH_BYTES
    assert all(reference() is None for reference in passed)
    assert buffers_of(engine) == buffers
    for cached in engine.caches.models.values():
        assert len(cached.pending_S) == cached.cache.slots == SLOTS
    held = weakref.ref(engine.caches.models["student"])
    engine.release()
    gc.collect()
    assert held() is None
