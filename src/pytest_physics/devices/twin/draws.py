"""Random numbers by index: the k-th draw of a stream is a function of (seed, stream, k), and of nothing else.

So a reading does not depend on who read before, how often, or in how many steps the clock was moved. The generator is SplitMix64
(Steele, Lea, Flood, OOPSLA 2014) evaluated at its k-th state; 52 bits are used, so a uniform draw is never 0 or 1.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

FloatArray = NDArray[np.float64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@lru_cache(maxsize=256)
def _key(seed: int, stream: str) -> np.uint64:
    digest = hashlib.blake2b(f"{seed}|{stream}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def uniform(seed: int, stream: str, index: ArrayLike) -> FloatArray:
    """Draws from (0, 1) at integer ``index``, same shape (at least one dimension)."""
    state = np.atleast_1d(np.asarray(index, dtype=np.int64)).astype(np.uint64) * _GOLDEN + _key(seed, stream)
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    state ^= state >> np.uint64(31)
    return ((state >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def normal(seed: int, stream: str, index: ArrayLike) -> FloatArray:
    """Standard normal draws at integer ``index``."""
    draws: FloatArray = special.ndtri(uniform(seed, stream, index))
    return draws


def truncated_normal(seed: int, stream: str, index: ArrayLike, *, bound: float = 2.0) -> FloatArray:
    """Standard normal draws at integer ``index``, conditioned on lying within ±``bound``."""
    low = special.ndtr(-bound)
    draws: FloatArray = special.ndtri(low + uniform(seed, stream, index) * (1.0 - 2.0 * low))
    return draws
