"""The loops over single values that numpy has no quick word for, compiled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.core.compiled import compiled

_BLOCK = 512


@compiled
def scale_bags(lengths: NDArray[np.int32], weights: NDArray[np.float32], scaled: NDArray[np.float32]) -> None:
    """Divide the weights of each bag by their sum; they are all 0 where that is not positive.

    lengths: (bags,), of bags that follow each other in weights: (values,) -> scaled: (values,)
    """
    start = 0
    for length in lengths:
        total = 0.0
        for at in range(start, start + length):
            total += weights[at]
        for at in range(start, start + length):
            scaled[at] = weights[at] / total if total > 0 else 0.0
        start += length


@compiled
def find_buckets(values: NDArray[np.float32], edges: NDArray[np.float32], codes: NDArray[np.unsignedinteger]) -> None:
    """1 + the number of edges that are not above a value, 0 for NaN.

    All edges are compared, many values at once, a block after the other that stays in the cache: for some dozens of
    edges that takes a fraction of a search's time. values, codes: (n,). edges: (any number,)
    """
    for start in range(0, len(values), _BLOCK):
        block, found = values[start : start + _BLOCK], codes[start : start + _BLOCK]
        for i in range(len(block)):
            found[i] = not np.isnan(block[i])
        for edge in edges:
            for i in range(len(block)):
                found[i] += block[i] >= edge
