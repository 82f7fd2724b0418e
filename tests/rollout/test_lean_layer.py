"""Written-out layers give what transformers' own give, and leave models as they were."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import tiny_pair
from trb_lab.models.load import LanguageModel
from trb_lab.rollout.cached_model import CachedModel
from trb_lab.rollout.lean_layer import _laid_together, lean_layers
from trb_lab.spec.experiment import ModelSpec

from .test_attention_kernel import interpreted, needs_triton  # noqa: F401 (a fixture)
from .test_fused_ops import FAMILIES, network


def model_of(family: str) -> LanguageModel:
    return LanguageModel(network(family), tiny_pair().student.tokenizer, ModelSpec(name=family), (0,))


def passes_agree(family: str) -> None:
    """Prefill and two passes over ragged rows, against plain passes; the layers are those written out."""
    model = model_of(family)
    cached = CachedModel(model, slots=3, capacity=24, prefill_tokens=64)
    rows = [[1, 2, 3, 4, 5, 6, 7], [8], [9, 10, 11]]
    more = torch.tensor([[12, 13, 1], [14, 15, 2], [16, 17, 3]])
    with torch.no_grad(), cached.ready():
        layers = [*model.network.get_decoder().layers, model.network.get_decoder()]
        assert all("forward" in layer.__dict__ for layer in layers)
        cached.admit([0, 1, 2], rows)
        cached.place(torch.zeros(3, dtype=torch.int32))
        found = torch.cat([cached.extend(part).hidden_AGH for part in (cached.pending_S[:, None], more)], 1)
    assert not any("forward" in layer.__dict__ for layer in layers)
    with torch.no_grad():
        for row, prompt in enumerate(rows):
            ids = torch.tensor([prompt + more[row].tolist()])
            plain = model.hidden(input_ids=ids)[0, -4:]
            torch.testing.assert_close(found[row], plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_passes_agree(family: str) -> None:
    passes_agree(family)


@needs_triton
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_passes_agree_with_kernels(interpreted, family: str) -> None:  # noqa: F811
    interpreted(passes_agree, family)


def test_other_families_keep_their_layers() -> None:
    assert set(FAMILIES) == {"qwen3", "llama", "gemma"}
    gemma = network("gemma")
    with torch.no_grad(), lean_layers(gemma):
        assert not any("forward" in module.__dict__ for module in gemma.modules())


def test_updates_in_place_are_seen_by_the_next_pass() -> None:
    model = model_of("qwen3")
    cached = CachedModel(model, slots=1, capacity=8, prefill_tokens=8)

    def hidden() -> torch.Tensor:
        with torch.no_grad(), cached.ready():
            cached.admit([0], [[1, 2, 3]])
            cached.place(torch.zeros(1, dtype=torch.int32))
            return cached.extend(cached.pending_S[:, None]).hidden_AGH[0, 0]

    before = hidden()
    with torch.no_grad():
        model.network.get_decoder().layers[0].self_attn.k_proj.weight.mul_(1.5)
        model.network.get_decoder().layers[0].mlp.up_proj.weight.add_(0.1)
    after = hidden()
    assert not torch.allclose(before, after, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(
            after, model.hidden(input_ids=torch.tensor([[1, 2, 3]]))[0, -1], rtol=1e-4, atol=1e-4
        )


def test_weights_are_laid_together_once_and_stay_parameters() -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(4, size, bias=False) for size in (6, 2, 3)]
    weights = [layer.weight for layer in layers]
    values = [weight.detach().clone() for weight in weights]
    joined = _laid_together(weights)
    assert torch.equal(joined, torch.cat(values))
    assert all(layer.weight is weight for layer, weight in zip(layers, weights, strict=True))
    assert _laid_together(weights).data_ptr() == joined.data_ptr()
    with torch.no_grad():
        weights[1].fill_(7.0)
    assert (joined[6:8] == 7.0).all()
    assert torch.equal(joined[:6], values[0])
    loss = sum(layer(torch.ones(4)).sum() for layer in layers)
    loss.backward()
    assert all(weight.grad is not None and weight.grad.shape == weight.shape for weight in weights)
