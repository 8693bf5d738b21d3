"""Random numbers without a state: each is a hash of the seed, a name and counters (the ids of what it belongs to).

So any part of the world can be made alone, in any order, and twice: a user's platform is a function of the user's
number, and no table of users is held. The hash is the finaliser of splitmix64 (Steele, Lea and Flood 2014).
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_NORMAL_BITS = 14


def _mix(x: U64) -> U64:
    """The finaliser of splitmix64, in place: every bit of the input moves every bit of the output."""
    x ^= x >> np.uint64(30)
    x *= _FIRST
    x ^= x >> np.uint64(27)
    x *= _SECOND
    x ^= x >> np.uint64(31)
    return x


class Stream:
    """An endless table of random numbers, read at any position: `stream.bits(user)`, `stream.normal(campaign, hour)`.

    seed: the seed of the world. name: tells the streams of a world apart; equal (seed, name) give equal numbers.
    Counters are whole numbers, at least one of them an array; they broadcast.
    """

    def __init__(self, seed: int, name: str) -> None:
        digest = blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
        self.key = np.uint64(int.from_bytes(digest, "little"))

    def bits(self, *counters: ArrayLike) -> U64:
        """64 random bits a position, uint64."""
        with np.errstate(over="ignore"):
            x: Any = np.atleast_1d(np.asarray(counters[0])).astype(np.uint64) * _GAMMA
            x += self.key
            _mix(x)
            for counter in counters[1:]:
                x = x + np.asarray(counter).astype(np.uint64) * _GAMMA
                _mix(x)
        return x  # type: ignore[no-any-return]

    def uniform(self, *counters: ArrayLike) -> F64:
        """Uniform on the open interval (0, 1), float64."""
        return unit(self.bits(*counters))

    def normal(self, *counters: ArrayLike) -> F32:
        """Standard normal, float32, in 2**14 steps: within 4 standard deviations."""
        values: F32 = _normal_quantiles()[self.bits(*counters) >> np.uint64(64 - _NORMAL_BITS)]
        return values

    def gumbel(self, *counters: ArrayLike) -> F64:
        """Standard Gumbel: the argmax of utility + Gumbel noise is a draw from the softmax of the utilities."""
        return -np.log(-np.log(self.uniform(*counters)))


def unit(bits: U64) -> F64:
    """64 random bits as a float64 in the open interval (0, 1)."""
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def bit_slice(bits: U64, start: int, width: int) -> I64:
    """The whole number in `width` bits of `bits` from bit `start` on: several draws out of one hash."""
    return ((bits >> np.uint64(start)) & np.uint64((1 << width) - 1)).astype(np.int64)


@cache
def _normal_quantiles() -> F32:
    size = 1 << _NORMAL_BITS
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / size) for i in range(size)], dtype=np.float32)


def lookup(shares: ArrayLike, size: int) -> I64:
    """A table of `size` entries in which value i stands in proportion to shares[i]: a draw is one gather."""
    cumulative = np.cumsum(np.asarray(shares, dtype=np.float64))
    points = (np.arange(size) + 0.5) / size * cumulative[-1]
    values: I64 = np.searchsorted(cumulative, points, side="right")
    return values


def shuffled(count: int, stream: Stream) -> I64:
    """A random order of 0..count-1."""
    return np.argsort(stream.bits(np.arange(count)), kind="stable").astype(np.int64)


def sparse_ids(count: int, gaps: float, stream: Stream) -> I64:
    """`count` ascending ids from 1 on with a share `gaps` of them left out at random, as deleted rows leave them."""
    total = count + round(count * gaps)
    return np.sort(shuffled(total, stream)[:count]) + 1


class Permutation:
    """A random order of 0..size-1 that is computed, not stored: `permutation(index)` gives the places.

    A bijection on the next power of two, walked on until it lands below `size` (Black and Rogaway 2002).
    """

    def __init__(self, size: int, stream: Stream) -> None:
        self.size = size
        bits = max(size - 1, 1).bit_length()
        self._mask = np.uint64((1 << bits) - 1)
        self._shift = np.uint64(bits // 2 + 1)
        keys = stream.bits(np.arange(8))
        self._factors = keys[:4] | np.uint64(1)
        self._terms = keys[4:]

    def __call__(self, index: I64) -> I64:
        """The place of each index."""
        x = self._step(index.astype(np.uint64))
        outside = np.flatnonzero(x >= np.uint64(self.size))
        while len(outside):
            moved = self._step(x[outside])
            x[outside] = moved
            outside = outside[moved >= np.uint64(self.size)]
        return x.astype(np.int64)

    def _step(self, x: U64) -> U64:
        with np.errstate(over="ignore"):
            for factor, term in zip(self._factors, self._terms, strict=True):
                x = x * factor
                x += term
                x &= self._mask
                x ^= x >> self._shift
        return x
