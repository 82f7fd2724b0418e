"""Parts of the benchmarks that have an answer in closed form."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import tiny_pair
from trb_lab.bench.ceilings import Ceilings, Floor
from trb_lab.bench.components import pass_floor, weight_bytes, weight_flops
from trb_lab.bench.live_memory import peak_bytes
from trb_lab.bench.options import TINY
from trb_lab.bench.random_pair import ENTROPY_NATS, SHAPES, mean_entropy, random_pair, random_prompts

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pair():
    return random_pair(TINY, CPU, torch.float32)


def test_random_pairs_have_a_realistic_entropy_and_repeat_themselves(pair):
    again = random_pair(TINY, CPU, torch.float32)
    for model, same in ((pair.student, again.student), (pair.teacher, again.teacher)):
        assert mean_entropy(model) == pytest.approx(ENTROPY_NATS, abs=0.01)
        for old, new in zip(model.parameters(), same.parameters(), strict=True):
            assert torch.equal(old, new)
    assert not any(parameter.requires_grad for parameter in pair.teacher.parameters())


def test_shapes_have_the_parameters_of_the_models_that_they_are_named_after():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    billions = {"qwen3-1p7b-8b": (1.72, 8.19), "qwen3-0p6b-4b": (0.60, 4.02)}
    for name, sizes in billions.items():
        pair = SHAPES[name]
        for shape, size in zip((pair.student, pair.teacher), sizes, strict=True):
            config = Qwen3Config(
                vocab_size=pair.width, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
                num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
                num_key_value_heads=shape.kv_heads, head_dim=shape.head_size, tie_word_embeddings=shape.tied,
            )  # fmt: skip
            with torch.device("meta"):
                network = Qwen3ForCausalLM(config)
            assert sum(p.numel() for p in network.parameters()) / 1e9 == pytest.approx(size, abs=0.006)


def test_random_prompts_are_distinct_rows_without_special_tokens():
    prompts = random_prompts(20, 12, 1000, seed=3)
    assert len({tuple(prompt) for prompt in prompts}) == 20
    assert max(map(max, prompts)) < 990


def test_a_floor_is_the_larger_of_moving_and_computing():
    ceilings = Ceilings(bytes_per_second=10.0, flops_per_second=100.0, dtype="float32")
    assert Floor(20.0, 100.0).seconds(ceilings) == 2.0
    assert Floor(20.0, 100.0).bound(ceilings) == "bytes"
    assert Floor(20.0, 500.0).seconds(ceilings) == 5.0
    assert Floor(20.0, 500.0).bound(ceilings) == "operations"


def test_floor_of_a_pass_counts_read_weights_and_cached_keys():
    student = tiny_pair().student  # untied: 8 x 16 embedding, not read
    layer = 16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 32 + 2 * 16 + 2 * 8
    read = layer + 16 + 8 * 16
    assert weight_bytes(student) == 4 * read
    assert weight_flops(student) == 2 * read
    floor = pass_floor(student, rows=3, tokens=2, context=10)
    assert floor.num_bytes == 4 * read + 3 * 10 * 2 * 8 * 4
    assert floor.num_flops == 3 * 2 * (2 * read + 4 * 2 * 8 * 10)


def test_peak_bytes_counts_what_lives_at_once_and_no_views():
    given = torch.ones(1000)

    def work() -> None:
        first = given + 1  # 4,000 bytes
        view = first.view(10, 100)[2:].t()
        del first
        second = view.exp()  # 3,200 more
        del view, second
        given.add_(1)  # in place: nothing new
        given.double().sum()  # 8,000 + 8

    assert peak_bytes(CPU, work) == 8008


def test_peak_bytes_sees_the_backward_pass():
    weight = torch.ones(100, 100, requires_grad=True)
    peak = peak_bytes(CPU, lambda: (weight @ weight).sum().backward())
    assert peak >= 3 * 40_000  # the product and two parts of the gradient
