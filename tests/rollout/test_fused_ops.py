"""The fused operations give the numbers of transformers' own, and leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm

from trb_lab.rollout.fused_ops import fused_operations

from .test_attention_kernel import interpreted, needs_triton  # noqa: F401 (a fixture)

SIZES = {
    "vocab_size": 20, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
FAMILIES = {
    "qwen3": (Qwen3ForCausalLM, Qwen3Config),
    "llama": (LlamaForCausalLM, LlamaConfig),
    "gemma": (GemmaForCausalLM, GemmaConfig),
}


def network(family: str) -> nn.Module:
    torch.manual_seed(0)
    model, config = FAMILIES[family]
    built = model(config(**SIZES)).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(0.5 if parameter.dim() == 1 else 0.0, 0.3)
    return built


def hidden(model: nn.Module) -> torch.Tensor:
    ids = torch.arange(24).view(3, 8) % 20
    return model.model(input_ids=ids, use_cache=False).last_hidden_state


def patched(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules() if "forward" in module.__dict__]


def same_inside_and_outside(family: str, kinds: set[str]) -> None:
    """Hidden states agree, the expected kinds of module are patched inside, none after."""
    model = network(family)
    with torch.no_grad():
        before = hidden(model)
        with fused_operations(model):
            assert set(patched(model)) == kinds
            inside = hidden(model)
        after = hidden(model)
    torch.testing.assert_close(inside, before, rtol=1e-5, atol=1e-5)
    assert torch.equal(after, before)
    assert patched(model) == []


@pytest.mark.parametrize(("family", "kinds"), [("qwen3", {"Qwen3RMSNorm"}), ("llama", {"LlamaRMSNorm"})])
def test_hidden_states_stay(family, kinds):
    same_inside_and_outside(family, kinds)


def test_another_formula_is_left_alone():
    same_inside_and_outside("gemma", set())
    with torch.no_grad(), fused_operations(norm := GemmaRMSNorm(8)):
        assert patched(norm) == []


def test_updates_in_place_are_seen():
    model = network("qwen3")
    with torch.no_grad(), fused_operations(model):
        before = hidden(model)
        model.model.norm.weight.mul_(2)
        torch.testing.assert_close(hidden(model), 2 * before)


def test_restored_after_an_error_and_when_nested():
    model, original = network("qwen3"), modeling_qwen3.apply_rotary_pos_emb
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="inside"), fused_operations(model):
            raise RuntimeError("inside")
        assert modeling_qwen3.apply_rotary_pos_emb is original and patched(model) == []
        with fused_operations(model):
            inside = patched(model)
            swapped = modeling_qwen3.apply_rotary_pos_emb
            with fused_operations(model):
                assert patched(model) == inside
            assert patched(model) == inside
            assert modeling_qwen3.apply_rotary_pos_emb is swapped is not original
    assert modeling_qwen3.apply_rotary_pos_emb is original and patched(model) == []


def test_training_is_never_touched():
    model = network("qwen3")
    with fused_operations(model):
        assert patched(model) == []
    with torch.no_grad(), fused_operations(model), torch.enable_grad():
        hidden(model).sum().backward()
    gradient = model.model.norm.weight.grad.clone()
    model.zero_grad()
    hidden(model).sum().backward()
    assert torch.equal(gradient, model.model.norm.weight.grad)


def test_the_random_state_does_not_move(monkeypatch):
    from trb_lab.rollout import fused_ops

    monkeypatch.setattr(fused_ops, "_CHECKS", {})
    model = network("llama")
    state = torch.get_rng_state()
    with torch.no_grad(), fused_operations(model):
        assert fused_ops._CHECKS
    assert torch.equal(torch.get_rng_state(), state)


def kernels_follow_transformers(dtype: torch.dtype) -> None:
    """Norm, rotary embedding and gated activation of the Qwen3 file, on odd sizes and transposed heads."""
    from trb_lab.rollout import fused_ops

    torch.manual_seed(0)
    with torch.no_grad():
        for rows, size in ((5, 16), (3, 80), (2, 2500)):
            norm = Qwen3RMSNorm(size).to(dtype)
            norm.weight.normal_()
            states = torch.randn(2, rows, size).to(dtype)
            assert fused_ops._agree(norm(states), fused_ops.rms_norm(states, norm.weight, 1e-6))
        for size, rows in ((16, 2), (80, 1)):
            query, key = (torch.randn(2, 3, heads, size).to(dtype).transpose(1, 2) for heads in (6, 2))
            cos, sin = torch.randn(2, rows, 3, size).to(dtype)
            expected = modeling_qwen3.apply_rotary_pos_emb(query, key, cos, sin)
            for wanted, found in zip(expected, fused_ops.rotate(query, key, cos, sin), strict=True):
                assert fused_ops._agree(wanted, found) and found.stride() == wanted.stride()
        gate, up = torch.randn(2, 3, 700).to(dtype)
        assert fused_ops._agree(nn.functional.silu(gate) * up, fused_ops.silu_mul(gate, up))
        config = Qwen3Config(**SIZES)
        mlp, states = Qwen3MLP(config).to(dtype), torch.randn(2, 32).to(dtype)
        expected = mlp(states)
        with fused_operations(mlp):
            assert patched(mlp) == ["Qwen3MLP"]
            torch.testing.assert_close(mlp(states), expected)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_follow_transformers(interpreted, dtype):  # noqa: F811
    interpreted(kernels_follow_transformers, dtype)


@needs_triton
def test_kernels_in_whole_networks(interpreted):  # noqa: F811
    interpreted(same_inside_and_outside, "qwen3", {"Qwen3RMSNorm", "Qwen3MLP"})
    interpreted(same_inside_and_outside, "llama", {"LlamaRMSNorm", "LlamaMLP"})
    interpreted(same_inside_and_outside, "gemma", set())
