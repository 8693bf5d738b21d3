"""The loops between displays and their rows on a CPU, on NumPy arrays: what torch has no fast operation for.

D displays with B rows: display d has the rows starts[d] : starts[d + 1]. Gd, Gr: their fields, E: embedding size.
Every sum is taken in the order of the rows. Scalars must have the type of the arrays. lanes: E zeros (see core.simd).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core import simd
from pipeline.core.compiled import compiled
from pipeline.core.simd import load, splat, store

Array = NDArray[Any]


# --- between displays and their rows ------------------------------------------------------------------------------


@compiled
def spread(values: Array, starts: Array, out: Array) -> None:
    """Give each row what its display has. (D, H) -> (B, H)"""
    for d in range(values.shape[0]):
        for r in range(starts[d], starts[d + 1]):
            for k in range(values.shape[1]):
                out[r, k] = values[d, k]


@compiled
def sum_rows(values: Array, starts: Array, out: Array) -> None:
    """Sum over the rows of each display. (B, H) -> (D, H)"""
    for d in range(out.shape[0]):
        for k in range(out.shape[1]):
            out[d, k] = 0
        for r in range(starts[d], starts[d + 1]):
            for k in range(out.shape[1]):
                out[d, k] += values[r, k]


# --- sums of weights ----------------------------------------------------------------------------------------------


@compiled
def sum_weights(shared: Array, own: Array, starts: Array, out: Array) -> None:
    """The sum of all weights of a row: (D, Gd), (B, Gi) -> (B,)"""
    for d in range(shared.shape[0]):
        base = own.dtype.type(0)
        for f in range(shared.shape[1]):
            base += shared[d, f]
        for r in range(starts[d], starts[d + 1]):
            total = base
            for f in range(own.shape[1]):
                total += own[r, f]
            out[r] = total


# --- all pairs of fields (Rendle 2010, lemma 3.1) -----------------------------------------------------------------


@compiled
def fm(shared: Array, own: Array, starts: Array, lanes: Any, totals: Array, out: Array) -> None:
    """Sum over pairs of <e_i, e_j>, the fields of displays (D, Gd, E) and of rows (B, Gr, E) taken together.

    totals (B, E) get the sums of all embeddings of a row, out (B,) = (|total|^2 - sum |e_i|^2) / 2.
    """
    size, zero, two = len(lanes), own.dtype.type(0), own.dtype.type(2)
    for d in range(shared.shape[0]):
        total_d, squares_d = splat(zero, lanes), splat(zero, lanes)
        for f in range(shared.shape[1]):
            e = load(shared, (d * shared.shape[1] + f) * size, lanes)
            total_d, squares_d = total_d + e, squares_d + e * e
        for r in range(starts[d], starts[d + 1]):
            total, squares = total_d, squares_d
            for f in range(own.shape[1]):
                e = load(own, (r * own.shape[1] + f) * size, lanes)
                total, squares = total + e, squares + e * e
            store(totals, r * size, total)
            out[r] = simd.total(total * total - squares) / two


@compiled
def fm_gradient(
    gradient: Array,
    shared: Array,
    own: Array,
    starts: Array,
    lanes: Any,
    totals: Array,
    of_shared: Array,
    of_own: Array,
) -> None:
    """Of each embedding: the sum of all others, times the gradient (B,); of a display's also summed over its rows."""
    size, zero = len(lanes), own.dtype.type(0)
    for d in range(shared.shape[0]):
        total, scale = splat(zero, lanes), zero
        for r in range(starts[d], starts[d + 1]):
            g, total_r = splat(gradient[r], lanes), load(totals, r * size, lanes)
            scale += gradient[r]
            total = total + g * total_r
            for f in range(own.shape[1]):
                at = (r * own.shape[1] + f) * size
                store(of_own, at, g * (total_r - load(own, at, lanes)))
        for f in range(shared.shape[1]):
            at = (d * shared.shape[1] + f) * size
            store(of_shared, at, total - splat(scale, lanes) * load(shared, at, lanes))


# --- the likelihood of a display's click --------------------------------------------------------------------------


@compiled
def listwise(logits: Array, clicked: Array, starts: Array, gradient: Array) -> float:
    """The sum over displays of -log softmax of the click among the display's rows, and its gradient (B,)."""
    loss = 0.0
    for d in range(len(starts) - 1):
        first, last = starts[d], starts[d + 1]
        top = logits[first]
        for r in range(first + 1, last):
            top = max(top, logits[r])
        partition = 0.0
        for r in range(first, last):
            gradient[r] = np.exp(logits[r] - top)
        for r in range(first, last):
            partition += gradient[r]
        for r in range(first, last):
            loss -= clicked[r] * (logits[r] - top)
        for r in range(first, last):
            gradient[r] = gradient[r] / partition - clicked[r]
        loss += np.log(partition)
    return loss
