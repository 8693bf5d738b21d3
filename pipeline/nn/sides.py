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


# --- the part of logistic regression ------------------------------------------------------------------------------


@compiled
def linear(
    shared: Array,
    own: Array,
    numbers: Array,
    own_numbers: Array,
    of_numbers: Array,
    of_own_numbers: Array,
    starts: Array,
    bias: Array,
    out: Array,
) -> None:
    """out (B,) += the bias (1,), a row's weights, (D, Gd) and (B, Gi), and its numbers, (D, Kd) and (B, Ki), times
    theirs.
    """
    for d in range(len(starts) - 1):
        base = bias[0]
        for f in range(shared.shape[1]):
            base += shared[d, f]
        for k in range(len(of_numbers)):
            base += numbers[d, k] * of_numbers[k]
        for r in range(starts[d], starts[d + 1]):
            total = base
            for f in range(own.shape[1]):
                total += own[r, f]
            for k in range(len(of_own_numbers)):
                total += own_numbers[r, k] * of_own_numbers[k]
            out[r] += total


@compiled
def add_products(gradient: Array, numbers: Array, out: Array) -> None:
    """out (K,) += gradient (n,) times numbers (n, K)."""
    for i in range(len(gradient)):
        for k in range(len(out)):
            out[k] += gradient[i] * numbers[i, k]


# --- all pairs of fields (Rendle 2010, lemma 3.1) -----------------------------------------------------------------


@compiled
def fm(shared: Array, own: Array, starts: Array, lanes: Any, totals: Array, out: Array) -> None:
    """out (B,) += the sum over pairs of <e_i, e_j>, the fields of displays (D, Gd, E) and of rows (B, Gr, E) together.

    totals (B, E) get the sums of all embeddings of a row; the sum is (|total|^2 - sum |e_i|^2) / 2.
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
            out[r] += simd.total(total * total - squares) / two


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
    """Added to that of each embedding: the sum of all others, times the gradient (B,); of a display's over its rows."""
    size, zero = len(lanes), own.dtype.type(0)
    for d in range(shared.shape[0]):
        total, scale = splat(zero, lanes), zero
        for r in range(starts[d], starts[d + 1]):
            g, total_r = splat(gradient[r], lanes), load(totals, r * size, lanes)
            scale += gradient[r]
            total = total + g * total_r
            for f in range(own.shape[1]):
                at = (r * own.shape[1] + f) * size
                store(of_own, at, load(of_own, at, lanes) + g * (total_r - load(own, at, lanes)))
        for f in range(shared.shape[1]):
            at = (d * shared.shape[1] + f) * size
            store(of_shared, at, load(of_shared, at, lanes) + total - splat(scale, lanes) * load(shared, at, lanes))


# --- losses -------------------------------------------------------------------------------------------------------


@compiled
def pointwise(logits: Array, clicked: Array, starts: Array, gradient: Array) -> float:  # noqa: ARG001  # as listwise
    """The sum over rows of their binary cross-entropy, and its gradient (B,)."""
    one, loss = logits.dtype.type(1), 0.0
    for r in range(len(logits)):
        gradient[r] = np.exp(-abs(logits[r]))  # below 1, so that nothing overflows
    for r in range(len(logits)):
        loss += max(logits[r], 0) - logits[r] * clicked[r] + np.log1p(gradient[r])
    for r in range(len(logits)):
        odds = gradient[r]
        gradient[r] = (one if logits[r] > 0 else odds) / (one + odds) - clicked[r]
    return loss


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
