"""Cheaper norms, rotary embeddings and gated activations for decoding with a transformers network.

At one token a row a decoder is a long chain of tiny operations, and each costs a launch. `fused_operations` swaps
three of them for one operation each. A swap is made only where it gives the original's numbers on random input, up to
rounding (see `_agree`), so a class with another formula under a similar name keeps its own code.

Suffixes: B rows, T tokens, H query heads, K key-value heads, D head size, N channels, R rows of a matrix.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention_kernel import available
from .fused_op_kernels import MAX_CHANNELS, rms_norm, rotate, silu_mul


def rotation_on_cpu() -> Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`rotate` from torch operations: the same products and sums, from 8 operations a layer instead of 16.

    A forward pass hands the same cos and sin to all of its layers, so what is derived from them is kept for as long
    as the same tensors come, unchanged.
    """
    kept: list[Any] = [None, None, None, None]

    def rotate_cpu(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        half = sin.shape[-1] // 2
        version = (
            None if sin.is_inference() else (cos._version, sin._version)
        )  # inference tensors keep no count
        if version is None or kept[0] is not sin or kept[1] != version:
            signed = torch.cat((-sin[..., :half], sin[..., half:]), -1).unsqueeze(1)
            kept[:] = [sin, version, cos.unsqueeze(1), signed]
        cos, signed = kept[2], kept[3]
        return query * cos + query.roll(half, -1) * signed, key * cos + key.roll(half, -1) * signed

    return rotate_cpu


@contextmanager
def fused_operations(network: nn.Module) -> Iterator[None]:
    """Within it the network's norms, rotary embeddings and (on CUDA) gated activations are one operation each.

    What the network computes stays the same up to rounding. Parameters may be updated in place at any time. Does
    nothing where gradients are enabled at entry; calls with gradients inside it take the original code. The first
    entry for a kind of module compares numbers on its device: enter once before capturing a graph.
    """
    if torch.is_grad_enabled():
        yield
        return
    with ExitStack() as restore:
        for module in network.modules():
            replacement = _replacement(module)
            if replacement is not None:
                module.forward = replacement
                restore.callback(module.__dict__.pop, "forward", None)
        for name, device, dtype in _attention_modules(network.modules()):
            _swap_rotary(sys.modules[name], device, dtype, restore)
        yield


def _replacement(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """A cheaper `forward` for a norm or gated MLP; None where there is none, or the module has been patched already."""
    if "forward" in module.__dict__:
        return None
    if type(module).__name__.endswith("RMSNorm"):
        return _norm_replacement(module)
    if all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return _gated_replacement(module)
    return None


def _norm_replacement(module: Any) -> Callable[[Tensor], Tensor] | None:
    weight, eps = (
        getattr(module, "weight", None),
        getattr(module, "variance_epsilon", getattr(module, "eps", None)),
    )
    if not isinstance(weight, Tensor) or not isinstance(eps, float) or weight.dim() != 1:
        return None
    shape = weight.shape
    kernel = available(weight.device)
    if weight.device.type != "cpu" and not (kernel and shape[0] <= MAX_CHANNELS):
        return None

    def norm(hidden: Tensor, weight: Tensor) -> Tensor:
        if kernel:
            return rms_norm(hidden, weight, eps)
        return functional.rms_norm(hidden, shape, weight, eps)

    def compare() -> bool:
        hidden, other = _random(weight, (3, shape[0]), (shape[0],))
        shadow = copy.copy(module)
        shadow.__dict__["_parameters"] = {**module._parameters, "weight": nn.Parameter(other, False)}
        return _agree(type(module).forward(shadow, hidden), norm(hidden, other))

    if not _checked((type(module), weight.dtype, weight.device.type, kernel), compare):
        return None
    original = module.forward

    def forward(hidden_states: Tensor) -> Tensor:
        if hidden_states.dtype is not weight.dtype or torch.is_grad_enabled():
            return original(hidden_states)
        return norm(hidden_states, weight)

    return forward


class _Half(nn.Module):
    """Stands for a projection: the first or second half of the input."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.chunk(2, -1)[self.index]


def _gated_replacement(module: Any) -> Callable[[Tensor], Tensor] | None:
    weight = getattr(module.gate_proj, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or not available(weight.device):
        return None

    def compare() -> bool:
        both = 3 * _random(weight, (3, 512))[0]
        shadow = copy.copy(module)
        stand_ins = {"gate_proj": _Half(0), "up_proj": _Half(1), "down_proj": nn.Identity()}
        shadow.__dict__["_modules"] = {**module._modules, **stand_ins}
        return _agree(type(module).forward(shadow, both), silu_mul(*both.chunk(2, -1)))

    activation = type(module.act_fn) if isinstance(module.act_fn, nn.Module) else module.act_fn
    if not _checked((type(module), activation, weight.dtype, weight.device.type), compare):
        return None
    original = module.forward

    def forward(hidden_states: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return original(hidden_states)
        return module.down_proj(silu_mul(module.gate_proj(hidden_states), module.up_proj(hidden_states)))

    return forward


def _attention_modules(modules: Iterable[nn.Module]) -> set[tuple[str, torch.device, torch.dtype]]:
    """Names of the modeling files of a network's attention layers, with the device and dtype of their weights."""
    found = set()
    for module in modules:
        weight = getattr(getattr(module, "q_proj", None), "weight", None)
        if type(module).__name__.endswith("Attention") and isinstance(weight, Tensor):
            found.add((type(module).__module__, weight.device, weight.dtype))
    return found


def _swap_rotary(modeling: Any, device: torch.device, dtype: torch.dtype, restore: ExitStack) -> None:
    """Replace the modeling file's function, which every network of the family calls: it decides by its arguments."""
    original = getattr(modeling, "apply_rotary_pos_emb", None)
    kernel = available(device)
    if original is None or hasattr(original, "_replaces") or not (kernel or device.type == "cpu"):
        return
    rotated = rotate if kernel else rotation_on_cpu()

    def compare() -> bool:
        like = torch.empty(0, dtype=dtype, device=device)
        query, key, cos, sin = _random(like, (2, 3, 4, 16), (2, 3, 2, 16), (2, 3, 16), (2, 3, 16))
        query, key = query.transpose(1, 2), key.transpose(1, 2)
        triples = zip(
            (query, key), original(query, key, cos, sin), rotated(query, key, cos, sin), strict=True
        )
        return all(_agree(wanted, found, _terms(heads, cos, sin)) for heads, wanted, found in triples)

    if not _checked((original, dtype, device.type, kernel), compare):
        return

    @functools.wraps(original)
    def apply_rotary_pos_emb(
        q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        plain = not args and not kwargs and q.dim() == 4 and cos.dim() == 3
        shapes = plain and q.shape[-1] == k.shape[-1] == cos.shape[-1] and cos.shape == sin.shape
        if not shapes or q.dtype is not dtype or cos.dtype is not dtype or q.device.type != device.type:
            return original(q, k, cos, sin, *args, **kwargs)
        if torch.is_grad_enabled() or (
            kernel and q.stride(-1) * k.stride(-1) * cos.stride(-1) * sin.stride(-1) != 1
        ):
            return original(q, k, cos, sin)
        return rotated(q, k, cos, sin)

    apply_rotary_pos_emb._replaces = original  # type: ignore[attr-defined]
    modeling.apply_rotary_pos_emb = apply_rotary_pos_emb
    restore.callback(setattr, modeling, "apply_rotary_pos_emb", original)


_CHECKS: dict[Any, bool] = {}


def _checked(key: Any, compare: Callable[[], bool]) -> bool:
    """The comparison's outcome, made once. Any failure of the original on the stand-in input means: leave it alone."""
    if key not in _CHECKS:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return False
        try:
            with torch.no_grad():
                _CHECKS[key] = compare()
        except Exception:
            _CHECKS[key] = False
    return _CHECKS[key]


def _terms(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Magnitude of the two products whose sum a rotated entry is.

    A compiler may fuse one product into the sum (a multiply-add rounds once where two operations round twice), so the
    outcomes differ by a rounding step of the products, not of their sum.
    """
    half = heads.shape[-1] // 2
    cos, sin = cos.unsqueeze(1).double(), sin.unsqueeze(1).double()
    return heads.double().abs() * cos.abs() + heads.double().roll(half, -1).abs() * sin.abs()


def _agree(expected: Tensor, found: Tensor, size: Tensor | None = None) -> bool:
    """Equal up to one rounding step of the dtype (1e-6 for float32), beside 1e-6 of the largest entry.

    `size` is the magnitude that the step refers to, the entries' own by default.
    """
    if expected.dtype is not found.dtype or expected.shape != found.shape:
        return False
    step = max(torch.finfo(expected.dtype).eps, 1e-6)
    wanted, error = expected.double(), (found.double() - expected.double()).abs()
    size = wanted.abs() if size is None else size
    return bool((error <= step * size + 1e-6 * wanted.abs().max()).all()) and bool(wanted.any())


def _random(like: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Normal numbers from a generator of their own, so that nobody's random state moves."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(like) for shape in shapes]
