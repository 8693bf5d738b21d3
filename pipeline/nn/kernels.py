"""The loops over the rows of embedding tables on a CPU, on NumPy arrays: reading, gradients and steps.

Shapes: n displays or rows of one side of a batch, F categorical and M multi-valued fields of it, G = F + M, E embedding
size. `codes` (n, F) and `ids` (L,) are rows of the table (N, 1 + E): a weight, then an embedding. Bag j of item i holds
ids[offsets[j, i] : offsets[j, i + 1]].

Every sum is taken in the order of the rows, so results do not depend on the number of threads. Scalars must have the
type of the arrays. lanes: E zeros, or as many as said (see core.simd).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int64
from numpy.typing import NDArray

from pipeline.core.compiled import compiled, inlined
from pipeline.core.simd import load, prefetch, root, splat, store

Array = NDArray[Any]
AHEAD = 4  # items whose rows of the table are asked for in advance
FAR = 16  # single rows that are asked for in advance


@inlined
def fetch(array: Array, at: int, count: int) -> None:
    """Ask memory for some numbers that will be read soon, at most two cache lines of them."""
    prefetch(array, at)
    prefetch(array, at + count - 1)


# --- reading the table --------------------------------------------------------------------------------------------


@compiled
def look_up(table: Array, codes: Array, lanes: Any, weights: Array, embeddings: Array) -> None:
    """Fill the first F columns of weights (n, G) and embeddings (n, G, E)."""
    width, fields = table.shape[1], weights.shape[1]
    for i in range(codes.shape[0]):
        if i + AHEAD < codes.shape[0]:
            for f in range(codes.shape[1]):
                fetch(table, int64(codes[i + AHEAD, f]) * width, width)
        for f in range(codes.shape[1]):
            at = int64(codes[i, f]) * width
            weights[i, f] = table[codes[i, f], 0]
            store(embeddings, (i * fields + f) * len(lanes), load(table, at + 1, lanes))


@compiled
def sum_bags(
    table: Array, ids: Array, shares: Array, offsets: Array, first: int, lanes: Any, weights: Array, embeddings: Array
) -> None:
    """Fill the columns from `first` of weights (n, G) and embeddings (n, G, E) with the weighted sums of the bags."""
    width, fields, zero = table.shape[1], weights.shape[1], table.dtype.type(0)
    for j in range(offsets.shape[0]):
        for i in range(weights.shape[0]):
            weight, embedding = zero, splat(zero, lanes)
            for v in range(offsets[j, i], offsets[j, i + 1]):
                weight += shares[v] * table[ids[v], 0]
                embedding = embedding + splat(shares[v], lanes) * load(table, int64(ids[v]) * width + 1, lanes)
            weights[i, first + j] = weight
            store(embeddings, (i * fields + first + j) * len(lanes), embedding)


# --- gradients of the table's rows --------------------------------------------------------------------------------
# slot (N,): where an id stands among those that the batch has read so far, or -1. touched (S,): these ids.
# sums (S, 1 + E): their gradients; zeros behind them. The number of them is passed on from call to call.


@inlined
def _place(row: int, slot: Array, touched: Array, count: int) -> tuple[int, int]:
    """Where the sums of a row of the table stand, and the number of them, which grows by one that is new.

    Without a branch: which row is new cannot be guessed.
    """
    at = int64(slot[row])
    new = at < 0
    at = count if new else at
    slot[row] = at
    touched[at] = row
    return at, count + new


@compiled
def add_codes(
    columns: Array,
    codes: Array,
    repeats: Array,
    decay: float,
    lanes: Any,
    weights: Array,
    embeddings: Array,
    of_weights: Array,
    of_embeddings: Array,
    slot: Array,
    touched: Array,
    sums: Array,
    count: int,
) -> int:
    """Add up, by id, the gradients of what `look_up` read into some columns.

    The gradient of decay / 2 times the square of every value read is added to them; repeats (n,) says how many rows
    read it. weights, of_weights: (n, G). embeddings, of_embeddings: (n, G, E). Returns the new number of ids.
    """
    fields, size = weights.shape[1], len(lanes)
    for f in columns:
        for i in range(codes.shape[0]):
            if i + FAR < codes.shape[0]:
                prefetch(slot, int64(codes[i + FAR, f]))
            e, shrink = (i * fields + f) * size, decay * repeats[i]
            found, count = _place(codes[i, f], slot, touched, count)
            at = found * (1 + size)
            sums[found, 0] += of_weights[i, f] + shrink * weights[i, f]
            row = load(of_embeddings, e, lanes) + splat(shrink, lanes) * load(embeddings, e, lanes)
            store(sums, at + 1, load(sums, at + 1, lanes) + row)
    return count


@compiled
def add_bags(
    bags: Array,
    ids: Array,
    shares: Array,
    offsets: Array,
    first: int,
    repeats: Array,
    decay: float,
    lanes: Any,
    weights: Array,
    embeddings: Array,
    of_weights: Array,
    of_embeddings: Array,
    slot: Array,
    touched: Array,
    sums: Array,
    count: int,
) -> int:
    """The same for what `sum_bags` read, some of the M bags, into the columns from `first`."""
    fields, size = weights.shape[1], len(lanes)
    for j in bags:
        for i in range(weights.shape[0]):
            shrink, e = decay * repeats[i], (i * fields + first + j) * size
            weight = of_weights[i, first + j] + shrink * weights[i, first + j]
            row = load(of_embeddings, e, lanes) + splat(shrink, lanes) * load(embeddings, e, lanes)
            for v in range(offsets[j, i], offsets[j, i + 1]):
                found, count = _place(ids[v], slot, touched, count)
                sums[found, 0] += shares[v] * weight
                at = found * (1 + size) + 1
                store(sums, at, load(sums, at, lanes) + splat(shares[v], lanes) * row)
    return count


@compiled
def adam(
    touched: Array,
    sums: Array,
    table: Array,
    state: Array,
    slot: Array,
    lanes: Any,
    rate: float,
    last: Array,
    now: int,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> None:
    """One step of Adam on the rows that were read (see `rows`); state (N, 2, 1 + E): the moments.

    Forgets their slots and sums. lanes: of a whole row, 1 + E. rate: the learning rate with the correction of both
    moments for the number of steps. last (N,): the step at which each row was last read; now: this one.
    """
    width, number, one = len(lanes), table.dtype.type, table.dtype.type(1)
    ratio = beta1 / np.sqrt(beta2)
    fall1, fall2, fall = np.log(beta1), np.log(beta2), np.log(ratio)
    for i in range(len(touched)):
        if i + FAR < len(touched):
            following = int64(touched[i + FAR])
            prefetch(last, following)
            fetch(table, following * width, width)
            fetch(state, following * 2 * width, 2 * width)
        slot[touched[i]] = -1
        gap = number(now - last[touched[i]])
        last[touched[i]] = now
        keep1, keep2 = splat(number(np.exp(gap * fall1)), lanes), splat(number(np.exp(gap * fall2)), lanes)
        reach = splat(rate * number((one - np.exp(gap * fall)) / (one - ratio)), lanes)
        at, g = int64(touched[i]) * width, load(sums, i * width, lanes)
        store(sums, i * width, splat(number(0), lanes))
        first = keep1 * load(state, 2 * at, lanes) + splat(one - beta1, lanes) * g
        second = keep2 * load(state, 2 * at + width, lanes) + splat(one - beta2, lanes) * g * g
        store(state, 2 * at, first)
        store(state, 2 * at + width, second)
        store(table, at, load(table, at, lanes) - reach * first / (root(second) + splat(epsilon, lanes)))


@compiled
def adagrad(
    touched: Array, sums: Array, table: Array, state: Array, slot: Array, lanes: Any, rate: float, epsilon: float
) -> None:
    """One step of AdaGrad on the rows that were read; state (N, 1, 1 + E): sums of squares.

    Forgets their slots and sums.
    """
    width, number = len(lanes), table.dtype.type
    for i in range(len(touched)):
        if i + FAR < len(touched):
            fetch(table, int64(touched[i + FAR]) * width, width)
            fetch(state, int64(touched[i + FAR]) * width, width)
        slot[touched[i]] = -1
        at, g = int64(touched[i]) * width, load(sums, i * width, lanes)
        store(sums, i * width, splat(number(0), lanes))
        squares = load(state, at, lanes) + g * g
        store(state, at, squares)
        store(table, at, load(table, at, lanes) - splat(rate, lanes) * g / (root(squares) + splat(epsilon, lanes)))
