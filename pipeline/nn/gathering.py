"""The loops that put batches together, on NumPy arrays; they run in a background thread beside the training."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.compiled import compiled

Array = NDArray[Any]


@compiled
def put_codes(values: Array, first: int, out: Array, column: int) -> None:
    """One categorical field into its column of a matrix (n, F), as rows of the table."""
    for i in range(len(values)):
        out[i, column] = first + values[i]


@compiled
def put_numbers(values: Array, mean: float, scale: float, out: Array, column: int) -> None:
    """One numeric field into its column of a matrix (n, K), standardised; what is unknown becomes 0, the mean."""
    for i in range(len(values)):
        out[i, column] = 0.0 if np.isnan(values[i]) else (values[i] - mean) / scale


@compiled
def rows_of(offsets: Array, chosen: Array, starts: Array) -> Array:
    """The elements (L,) of some ranges, one range behind the other; starts (len(chosen) + 1,) get their new borders."""
    starts[0] = 0
    for i in range(len(chosen)):
        starts[i + 1] = starts[i] + offsets[chosen[i] + 1] - offsets[chosen[i]]
    elements = np.empty(starts[len(chosen)], np.int64)
    for i in range(len(chosen)):
        first = offsets[chosen[i]]
        for k in range(starts[i], starts[i + 1]):
            elements[k] = first + k - starts[i]
    return elements


@compiled
def take(matrix: Array, rows: Array, out: Array) -> None:
    """Some rows of a matrix (n, F) in a given order."""
    for i in range(len(rows)):
        for f in range(matrix.shape[1]):
            out[i, f] = matrix[rows[i], f]


@compiled
def take_bags(
    offsets: Array, ids: Array, shares: Array, items: Array, begin: int, starts: Array, out_ids: Array, out: Array
) -> None:
    """The bags of some items of one field behind the first `begin` values; starts (len(items) + 1,) get their borders.

    The outputs must have room; starts[-1] tells how far they are filled.
    """
    at = begin
    for i in range(len(items)):
        starts[i] = at
        for k in range(offsets[items[i]], offsets[items[i] + 1]):
            out_ids[at] = ids[k]
            out[at] = shares[k]
            at += 1
    starts[len(items)] = at
