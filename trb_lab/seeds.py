"""Named random draws: every draw is a pure function of (seed, stream name, indices).

Nothing random is carried from one step to the next, so a resumed run repeats itself without saved generator
states, and no draw depends on which rows share a batch or on the device. Philox is counter-based: the key is
hashed from (seed, stream), the counter holds the indices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def derive(seed: int, stream: str, *indices: int) -> int:
    """A 63-bit integer seed for the named stream."""
    text = "/".join([str(seed), stream, *map(str, indices)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, stream: str, *indices: int) -> np.random.Generator:
    """A numpy generator for the named stream."""
    return np.random.Generator(np.random.Philox(key=derive(seed, stream, *indices)))


def uniforms(seed: int, stream: str, step: int, rows: Iterable[int], width: int) -> np.ndarray:
    """Uniform draws in [0, 1) keyed by (seed, stream, step, row, position).

    Returns float64 [len(rows), width]; row r is the same whatever other rows are asked for, and its first
    positions are the same whatever the width.
    """
    key = derive(seed, stream, step)
    draws = [
        np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, row])).random(width) for row in rows
    ]
    return np.stack(draws) if draws else np.zeros((0, width))
