"""Kernels that put the values of fields among those of the others, item by item; and that cross two fields.

Where a value goes: starts, field, fields are those of displays.Side. Its id: first + code, hashed into `bits` bits
unless they are 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int32, uint32, uint64

from pipeline.core.compiled import compiled

#: Items whose fields are written one after the other: few enough for all that they hold to stay in the cache.
_TILE = 32


@compiled
def _id(code: int, first: int, bits: int) -> int:
    """Hashing is multiplicative (Knuth): neighbouring ids hardly ever meet."""
    fused = code + first
    return int32(uint32(uint32(fused) * uint32(2654435769)) >> uint32(32 - bits)) if bits else int32(fused)


@compiled
def all_ids(size: int, first: int, bits: int) -> Any:
    """The ids of the codes 0 to size - 1."""
    found = np.empty(size, np.int32)
    for code in range(size):
        found[code] = _id(code, first, bits)
    return found


@compiled
def put_starts(fields: int, several: Any, lengths: Any, starts: Any) -> None:
    """Where the values of each field of each item start (n * fields + 1,), if it has one, but for some fields.

    several: (m,) these fields, from the first to the last. lengths: (m, n) how many values each item has there.
    """
    starts[0] = 0
    for i in range(lengths.shape[1]):
        at, following = i * fields, 0
        for j in range(fields):
            count = 1
            if following < len(several) and several[following] == j:
                count = lengths[following, i]
                following += 1
            starts[at + j + 1] = starts[at + j] + count


@compiled
def put_codes(
    starts: Any, which: Any, fields: int, first: Any, bits: Any, codes: Any, ids: Any, values: Any
) -> None:  # fmt: skip
    """One id an item with x = 1, of several fields at once, so that what is written lies together.

    which, first, bits: (m,) of each of these fields. codes: (m, n).
    """
    for begin in range(0, codes.shape[1], _TILE):
        end = min(begin + _TILE, codes.shape[1])
        for j in range(len(which)):
            for i in range(begin, end):
                at = starts[i * fields + which[j]]
                ids[at] = _id(codes[j, i], first[j], bits[j])
                values[at] = 1


@compiled
def put_lists(
    starts: Any, field: int, fields: int, first: int, bits: int, offsets: Any, codes: Any, weights: Any, ids: Any,
    values: Any,
) -> None:  # fmt: skip
    """Item i has the codes and weights offsets[i]:offsets[i + 1]."""
    for i in range(len(offsets) - 1):
        at = starts[i * fields + field]
        for v in range(offsets[i], offsets[i + 1]):
            ids[at] = _id(codes[v], first, bits)
            values[at] = weights[v]
            at += 1


@compiled
def cross_offsets(item_a: Any, offsets_a: Any, item_b: Any, offsets_b: Any, offsets: Any) -> None:
    """Where the pairs of each item begin (n + 1,), and how many there are. item_a, item_b, ...: as of `cross`."""
    offsets[0] = 0
    for i in range(len(item_a)):
        u, v = item_a[i], item_b[i]
        offsets[i + 1] = offsets[i] + (offsets_a[u + 1] - offsets_a[u]) * (offsets_b[v + 1] - offsets_b[v])


@compiled
def cross(a: Any, b: Any, salt: int, bits: int, codes: Any, weights: Any) -> None:
    """All pairs of the values of two lists for each item: hashed codes, products of the weights.

    a, b: the list of each item (n,), and the lists' offsets, codes and weights.
    """
    item_a, offsets_a, codes_a, weights_a = a
    item_b, offsets_b, codes_b, weights_b = b
    at = 0
    for i in range(len(item_a)):
        for u in range(offsets_a[item_a[i]], offsets_a[item_a[i] + 1]):
            for v in range(offsets_b[item_b[i]], offsets_b[item_b[i] + 1]):
                codes[at] = _mixed(codes_a[u], codes_b[v], salt) >> uint64(64 - bits)
                weights[at] = weights_a[u] * weights_b[v]
                at += 1


@compiled
def _mixed(a: int, b: int, salt: int) -> int:
    """splitmix64 of both codes."""
    x = ((uint64(a) << uint64(32)) | uint64(b)) + uint64(salt) * uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> uint64(27))) * uint64(0x94D049BB133111EB)
    return x ^ (x >> uint64(31))
