"""The ragged cache against full forward passes: prefill, extension, roll-back, moves and reuse of slots.

Shape suffixes: A rows in use, S slots, G tokens of a pass, H hidden width.
"""

import copy
import random

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from trb_lab.models.load import LanguageModel
from trb_lab.rollout.cached_model import CachedModel, row_bucket
from trb_lab.spec.experiment import ModelSpec

WORDS, SLOTS, CAPACITY = 11, 5, 48
SIZES = {
    "vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


def qwen3(**changes):
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8, **changes))


NETWORKS = {
    "qwen3": qwen3,
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama_one_kv_head": lambda: LlamaForCausalLM(LlamaConfig(**{**SIZES, "num_key_value_heads": 1})),
    "mistral_window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4)),
    "qwen3_window_in_one_layer": lambda: qwen3(
        use_sliding_window=True, sliding_window=4, layer_types=["full_attention", "sliding_attention"]
    ),
}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def model_of(name):
    torch.manual_seed(3)
    network = NETWORKS[name]().eval()
    for parameter in network.parameters():
        if parameter.dim() == 2:
            parameter.normal_(0, 0.5)
    return LanguageModel(network, None, ModelSpec(name=name), (0,))


class Mirror:
    """What the slots should hold: each row's prompt and response, by the rules of CachedModel."""

    def __init__(self, name, prefill_tokens=64):
        self.model = model_of(name)
        self.plain = copy.deepcopy(self.model)  # keeps transformers' own attention
        self.cached = CachedModel(self.model, SLOTS, CAPACITY, prefill_tokens)
        self.rows = []

    def admit(self, slots, prompts):
        self.cached.admit(slots, prompts)
        for slot, prompt in zip(slots, prompts, strict=True):
            row = {"prompt": list(prompt), "response": []}
            if slot < len(self.rows):
                self.rows[slot] = row
            else:
                self.rows.append(row)

    def extend(self, drafts, commits, redrawn):
        """Feed pending and drafts, compare, and commit some of each row's tokens; the last may be another."""
        rows = len(self.rows)
        self.cached.place(torch.tensor([len(row["response"]) for row in self.rows], dtype=torch.int32))
        fed_AG = torch.cat([self.cached.pending_S[:rows, None], drafts[:, :-1]], dim=1)
        seen = self.cached.extend(fed_AG)
        for slot, row in enumerate(self.rows):
            before = row["prompt"] + row["response"]
            assert int(fed_AG[slot, 0]) == before[-1]
            ids = torch.tensor([before[:-1] + fed_AG[slot].tolist()])
            hidden_GH = self.plain.hidden(input_ids=ids)[0, len(before) - 1 :]
            torch.testing.assert_close(seen.hidden_AGH[slot], hidden_GH, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(
                seen.logits_AGW[slot], self.plain.logits(hidden_GH), rtol=1e-5, atol=1e-4
            )
            taken = drafts[slot, : commits[slot]].tolist()
            taken[-1] = redrawn[slot]
            row["response"] += taken
        self.cached.pending_S[:rows] = torch.tensor([row["response"][-1] for row in self.rows])

    def close(self, slot):
        """The last row moves into the slot of one that left."""
        last = self.rows.pop()
        if slot < len(self.rows):
            self.cached.move(len(self.rows), slot)
            self.rows[slot] = last


@pytest.mark.parametrize("name", NETWORKS)
def test_passes_equal_full_forward_passes(name):
    """Ragged prompts, blocks of 1 to 5 tokens, roll-backs by any number, rows that move, leave and are replaced."""
    draw = random.Random(4)

    def prompt():
        return tuple(draw.randrange(WORDS) for _ in range(draw.choice([1, 1, 2, 3, 7, 12])))

    mirror = Mirror(name, prefill_tokens=10)
    with mirror.cached.ready():
        mirror.admit(list(range(SLOTS)), [prompt() for _ in range(SLOTS)])
        for step in range(14):
            block, rows = draw.randint(1, 5), len(mirror.rows)
            drafts = torch.tensor([[draw.randrange(WORDS) for _ in range(block)] for _ in range(rows)])
            commits = [draw.randint(1, block) for _ in range(rows)]
            mirror.extend(drafts, commits, [draw.randrange(WORDS) for _ in range(rows)])
            if step in (3, 5, 8):
                mirror.close(draw.randrange(len(mirror.rows)))
            if step in (4, 10):  # reuse a slot in the middle, and fill the free ones behind
                slots = [1, *range(len(mirror.rows), SLOTS)]
                mirror.admit(slots, [prompt() for _ in slots])
    assert max(len(row["prompt"] + row["response"]) for row in mirror.rows) > 12  # far behind the window of 4


@pytest.mark.parametrize("name", NETWORKS)
def test_a_long_prompt_is_seen_through_the_window_alone(name):
    """Prefill by itself: the hidden state after a 30-token prompt."""
    mirror = Mirror(name)
    prompt = [(7 * i * i + i) % WORDS for i in range(30)]
    with mirror.cached.ready():
        mirror.admit([0, 1], [prompt, prompt[:9]])
        mirror.extend(torch.tensor([[1, 2, 3]] * 2), [3, 3], [4, 4])


def counted_prefills(monkeypatch, cached):
    shapes, real = [], cached._hidden
    monkeypatch.setattr(
        cached, "_hidden", lambda ids, at: (shapes.append(tuple(ids.shape)), real(ids, at))[1]
    )
    return shapes


def test_rows_that_share_a_prompt_share_a_prefill(monkeypatch):
    mirror = Mirror("qwen3")
    shapes = counted_prefills(monkeypatch, mirror.cached)
    with mirror.cached.ready():
        mirror.admit([0, 1, 2, 3, 4], [(1, 2, 3), (4, 5), (1, 2, 3), (1, 2, 3), (4, 5)])
        assert shapes == [(2, 2)]
        mirror.extend(torch.tensor([[1, 2]] * 5), [2] * 5, [3, 4, 5, 6, 7])


def test_prompts_of_one_token_need_no_prefill(monkeypatch):
    mirror = Mirror("llama")
    shapes = counted_prefills(monkeypatch, mirror.cached)
    with mirror.cached.ready():
        mirror.admit([0, 1], [(4,), (9,)])
        assert shapes == []
        mirror.admit([2, 3], [(4,), (9, 1, 1)])
        assert shapes == [(1, 2)]
        mirror.extend(torch.tensor([[1, 2, 3]] * 4), [1, 2, 3, 3], [3, 4, 5, 6])


def test_a_prefill_comes_in_parts_under_its_token_budget(monkeypatch):
    """A prompt longer than the budget is a part by itself."""
    mirror = Mirror("qwen3", prefill_tokens=8)
    shapes = counted_prefills(monkeypatch, mirror.cached)
    prompts = [tuple((i + j) % WORDS for j in range(length)) for i, length in enumerate((3, 13, 5, 5, 2))]
    with mirror.cached.ready():
        mirror.admit(list(range(5)), prompts)
        assert shapes == [(1, 12), (2, 4), (2, 2)]
        mirror.extend(torch.tensor([[1, 2, 3, 4]] * 5), [4, 3, 2, 1, 4], [5] * 5)
        mirror.extend(torch.tensor([[6, 7]] * 5), [2] * 5, [8] * 5)


def test_transformers_own_attention_returns_afterwards():
    cached = Mirror("qwen3").cached
    before = cached.model.network.config._attn_implementation
    with pytest.raises(RuntimeError), cached.ready():
        raise RuntimeError
    assert cached.model.network.config._attn_implementation == before
    assert all("forward" not in module.__dict__ for module in cached.model.network.modules())


def test_row_buckets_hold_the_rows():
    buckets = [row_bucket(rows) for rows in range(1, 400)]
    assert all(bucket >= rows for rows, bucket in enumerate(buckets, start=1))
    assert buckets == sorted(buckets)
    assert {row_bucket(bucket) for bucket in buckets} == set(buckets)
    assert max(bucket - rows for rows, bucket in enumerate(buckets, start=1) if rows <= 128) < 32
