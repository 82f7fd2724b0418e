"""Kernels against plain float64 formulas, run on the CPU by Triton's interpreter.

The interpreter must be chosen before Triton is first imported, and then holds for the whole process: the cases run in
a process of their own.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


def repair_interpreter() -> None:
    """Two faults of Triton 3.6's interpreter: scalars under NumPy 2.4, and bf16 (rounding, and dot of raw bits)."""
    torch.set_num_threads(1)
    interpreter: Any = importlib.import_module("triton.runtime.interpreter")
    tl: Any = importlib.import_module("triton.language")
    patch_tensor, convert = interpreter._patch_lang_tensor, interpreter._convert_float
    dot = interpreter.InterpreterBuilder.create_dot

    def patched_tensor(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.reshape(-1)[0]))

    def patched_convert(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        if {source, target} != {tl.float32, tl.bfloat16}:
            return convert(data, source, target, rounding)
        if source == tl.float32:
            bits = torch.from_numpy(data.copy()).to(torch.bfloat16).view(torch.int16).numpy()
            return bits.view("uint16")
        bits = torch.from_numpy(data.copy().view("int16"))
        return bits.view(torch.bfloat16).float().numpy()

    def patched_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        wide = [
            interpreter.TensorHandle(patched_convert(x.data, tl.bfloat16, tl.float32, None), tl.float32)
            if x.dtype.scalar == tl.bfloat16
            else x
            for x in (a, b)
        ]
        return dot(self, *wide, *rest)

    interpreter._patch_lang_tensor = patched_tensor
    interpreter._convert_float = patched_convert
    interpreter.InterpreterBuilder.create_dot = patched_dot


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Callable[..., Any]]:
    """Runs a function of a test module in the process that has the interpreter."""
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        pool.submit(repair_interpreter).result()
    finally:
        if before is None:
            del os.environ["TRITON_INTERPRET"]
        else:
            os.environ["TRITON_INTERPRET"] = before
    yield lambda function, *args: pool.submit(function, *args).result()
    pool.shutdown()


def reference(
    query_BHGD: Tensor,
    keys_BKCD: Tensor,
    values_BKCD: Tensor,
    lengths: list[int],
    scaling: float,
    window: int | None,
) -> Tensor:
    """Attention by its definition, one query at a time, in float64: [B, G, H, D]."""
    B, H, G, D = query_BHGD.shape
    group = H // keys_BKCD.shape[1]
    out = torch.empty(B, G, H, D, dtype=torch.float64)
    for b, length in enumerate(lengths):
        for g in range(G):
            last = length + g
            seen = slice(0 if window is None else max(0, last - window + 1), last + 1)
            for h in range(H):
                keys, values = (
                    keys_BKCD[b, h // group, seen].double(),
                    values_BKCD[b, h // group, seen].double(),
                )
                weights = (keys @ query_BHGD[b, h, g].double() * scaling).softmax(0)
                out[b, g, h] = weights @ values
    return out


def caches(rows: int, heads: int, capacity: int, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """NaN throughout, as unwritten memory may be; one slot more than the rows."""
    empty = torch.full((rows + 1, heads, capacity, size), float("nan"), dtype=dtype)
    return empty, empty.clone()


def attention_case(
    G: int, group: int, D: int, split: int | None, lengths: list[int],
    window: int | None = None, dtype: torch.dtype = torch.float32, capacity: int = 0,
) -> None:  # fmt: skip
    """Write the new keys and attend, as a decoder does; every output is compared."""
    from trb_lab.rollout import attention_kernel as kernel

    assert kernel.available(torch.device("cpu"))
    kernel.SPLIT_LENGTH, kernel.TILE_BYTES = split, 16 * 16 * 4  # tiles of 16 keys
    torch.manual_seed(0)
    B, K = len(lengths), 2
    capacity = capacity or max(lengths) + G + 3
    keys, values = caches(B, K, capacity, D, dtype)
    for b, length in enumerate(lengths):
        keys[b, :, :length] = torch.randn(K, length, D)
        values[b, :, :length] = torch.randn(K, length, D)
    query, key, value = (torch.randn(B, G, heads, D).to(dtype).transpose(1, 2) for heads in (K * group, K, K))
    lengths_B = torch.tensor(lengths, dtype=torch.int32)
    kernel.write_kv(keys, values, key, value, lengths_B)
    for b, length in enumerate(lengths):
        torch.testing.assert_close(keys[b, :, length : length + G], key[b], rtol=0, atol=0)
        torch.testing.assert_close(values[b, :, length : length + G], value[b], rtol=0, atol=0)
    out = torch.full((B, G, K * group, D), float("nan"), dtype=dtype)
    found = kernel.ragged_attention(query, keys, values, lengths_B, 0.3, window, out)
    expected = reference(query, keys, values, lengths, 0.3, window)
    assert found is out
    error = (found.double() - expected).norm() / expected.norm()
    bound = 1e-5 if dtype == torch.float32 else 6e-3
    assert error < bound, f"relative error {error:.2e}"


@needs_triton
@pytest.mark.parametrize(
    "case",
    [
        {"G": 1, "group": 2, "D": 16, "split": None, "lengths": [0, 5, 37]},
        {"G": 1, "group": 1, "D": 16, "split": 16, "lengths": [0, 15, 16, 17, 40]},
        {"G": 2, "group": 4, "D": 16, "split": 32, "lengths": [30, 31, 0, 65]},
        {"G": 5, "group": 2, "D": 80, "split": 48, "lengths": [0, 44, 61]},
        {"G": 8, "group": 4, "D": 16, "split": 16, "lengths": [9, 0, 40]},
        {"G": 8, "group": 4, "D": 32, "split": 128, "lengths": [12, 70]},
        {"G": 1, "group": 2, "D": 24, "split": 32, "lengths": [50], "capacity": 51},
    ],
)  # fmt: skip
def test_attention(interpreted, case):
    interpreted(run_case, case)


def run_case(case: dict[str, Any]) -> None:
    attention_case(**case)


@needs_triton
@pytest.mark.parametrize("window", [1, 7, 20, 1000])
@pytest.mark.parametrize("split", [None, 16])
def test_sliding_window(interpreted, window, split):
    interpreted(
        run_case, {"G": 3, "group": 2, "D": 16, "split": split, "lengths": [0, 19, 60], "window": window}
    )


@needs_triton
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(interpreted, dtype):
    interpreted(run_case, {"G": 9, "group": 2, "D": 64, "split": 32, "lengths": [0, 33, 90], "dtype": dtype})


def capacity_edge() -> None:
    """Tokens that no longer fit are skipped, and the neighbours of their places stay."""
    from trb_lab.rollout import attention_kernel as kernel

    kernel.SPLIT_LENGTH = 16
    for lengths in ([3, 8], [-1, 7], [6, 100]):
        keys, values = torch.zeros(3, 2, 8, 16), torch.zeros(3, 2, 8, 16)
        key, value = torch.ones(2, 3, 2, 16).transpose(1, 2), 2 * torch.ones(2, 3, 2, 16).transpose(1, 2)
        lengths_B = torch.tensor(lengths, dtype=torch.int32)
        kernel.write_kv(keys, values, key, value, lengths_B)
        expected = torch.zeros(3, 2, 8, 16)
        for b, length in enumerate(lengths):
            expected[b, :, [p for p in range(length, length + 3) if 0 <= p < 8]] = 1
        assert torch.equal(keys, expected) and torch.equal(values, 2 * expected)
        out = kernel.ragged_attention(torch.ones(2, 2, 3, 16), keys, values, lengths_B, 0.25)
        assert out.isfinite().all()


@needs_triton
def test_tokens_beyond_the_capacity_are_skipped(interpreted):
    interpreted(capacity_edge)


def interleaved_cache() -> None:
    """A cache may be a view with other strides, for keys and values apart."""
    from trb_lab.rollout import attention_kernel as kernel

    kernel.SPLIT_LENGTH = 16
    torch.manual_seed(1)
    keys = torch.randn(2, 40, 2, 16).transpose(1, 2)
    values = torch.randn(2, 2, 50, 16)[:, :, :40]
    query, lengths = torch.randn(2, 4, 2, 16), [5, 38]
    found = kernel.ragged_attention(query, keys, values, torch.tensor(lengths, dtype=torch.int32), 0.25)
    torch.testing.assert_close(
        found.double(), reference(query, keys, values, lengths, 0.25, None), rtol=1e-5, atol=1e-5
    )


@needs_triton
def test_strided_caches(interpreted):
    interpreted(interleaved_cache)


def test_splits_and_tiles_follow_shapes():
    from trb_lab.rollout.attention_kernel import block_keys, block_queries, split_length

    assert split_length(256, 2, 4096) == 1024  # 1024 programs
    assert split_length(256, 2, 1024) == 256  # 1024 programs
    assert split_length(8, 2, 1024) == 128
    assert split_length(256, 32, 1024) == 1024  # partial results of 32 queries stay small beside the keys
    assert [block_keys(size, 2) for size in (16, 64, 128, 256)] == [128, 128, 64, 32]
    assert [block_queries(queries, 2) for queries in (1, 17, 256)] == [16, 32, 64]
    assert block_queries(256, 4) == 16


def test_impossible_shapes_are_refused():
    from trb_lab.rollout.attention_kernel import ragged_attention, write_kv

    cache, wide, lengths = (
        torch.zeros(2, 2, 8, 16),
        torch.zeros(2, 2, 8, 32),
        torch.zeros(2, dtype=torch.int32),
    )
    with pytest.raises(ValueError, match="evenly"):
        ragged_attention(torch.zeros(2, 3, 1, 16), cache, cache, lengths, 1.0)
    with pytest.raises(ValueError, match="at least 3 rows"):
        ragged_attention(torch.zeros(3, 2, 1, 16), cache, cache, lengths, 1.0)
    with pytest.raises(ValueError, match="adjacent"):
        write_kv(wide[..., ::2], cache, *[torch.zeros(2, 2, 1, 16)] * 2, lengths)
