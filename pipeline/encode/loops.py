"""The loops over single values that numpy has no quick word for, compiled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.core.compiled import compiled


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
def largest(values: NDArray[np.float32]) -> float:
    """The largest number without its sign; 0 if there is none but NaN. (n,)"""
    found = np.float32(0)
    for i in range(len(values)):
        size = abs(values[i])
        found = size if size > found else found  # NaN is not above anything
    return float(found)


@compiled
def halve(numbers: NDArray[np.float32], halves: NDArray[np.uint16]) -> None:
    """float32 into the bits of the nearest float16, ties to even, as NumPy does in three times the time. (n,) -> (n,)

    No number may be too large for float16: it would become another one.
    """
    for i, bits in enumerate(numbers.view(np.uint32)):
        sign, size = (bits >> np.uint32(16)) & np.uint32(0x8000), bits & np.uint32(0x7FFFFFFF)
        odd = (size >> np.uint32(13)) & np.uint32(1)
        half = (size - np.uint32(112 << 23) + np.uint32(0xFFF) + odd) >> np.uint32(13)
        if size < np.uint32(113 << 23):  # subnormal in float16: multiples of 2 ** -24
            half = np.uint32(np.rint(abs(numbers[i]) * np.float32(2.0**24)))
        if size > np.uint32(0x7F800000):
            half = np.uint32(0x7E00)  # NaN
        halves[i] = sign | half
