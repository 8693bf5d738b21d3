"""The loops of networks on a CPU, on NumPy arrays: what torch has no fast operation for.

Shapes: n displays or rows of one side of a batch, F categorical and M multi-valued fields of it, G = F + M, E embedding
size. `codes` (n, F) and `ids` (L,) are rows of the table (N, 1 + E): a weight, then an embedding. Bag j of item i holds
ids[offsets[j, i] : offsets[j, i + 1]]. D displays with B rows: display d has the rows starts[d] : starts[d + 1].

Every sum is taken in the order of the rows, so results do not depend on the number of threads. Scalars must have the
type of the arrays: a loop that mixes float32 and float64 is not vectorised.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.compiled import compiled

Array = NDArray[Any]

# --- reading the table --------------------------------------------------------------------------------------------


@compiled
def look_up(table: Array, codes: Array, weights: Array, embeddings: Array) -> None:
    """Fill the first F columns of weights (n, G) and embeddings (n, G, E)."""
    for i in range(codes.shape[0]):
        for f in range(codes.shape[1]):
            row = table[codes[i, f]]
            weights[i, f] = row[0]
            for k in range(embeddings.shape[2]):
                embeddings[i, f, k] = row[1 + k]


@compiled
def sum_bags(
    table: Array, ids: Array, shares: Array, offsets: Array, first: int, weights: Array, embeddings: Array
) -> None:
    """Fill the columns from `first` of weights (n, G) and embeddings (n, G, E) with the weighted sums of the bags."""
    for j in range(offsets.shape[0]):
        for i in range(weights.shape[0]):
            weights[i, first + j] = 0
            for k in range(embeddings.shape[2]):
                embeddings[i, first + j, k] = 0
            for at in range(offsets[j, i], offsets[j, i + 1]):
                row, share = table[ids[at]], shares[at]
                weights[i, first + j] += share * row[0]
                for k in range(embeddings.shape[2]):
                    embeddings[i, first + j, k] += share * row[1 + k]


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


@compiled
def sum_weights_gradient(gradient: Array, starts: Array, of_shared: Array, of_own: Array) -> None:
    """Each weight has the gradient of its row, or of all rows of its display."""
    for d in range(of_shared.shape[0]):
        total = of_own.dtype.type(0)
        for r in range(starts[d], starts[d + 1]):
            total += gradient[r]
            for f in range(of_own.shape[1]):
                of_own[r, f] = gradient[r]
        for f in range(of_shared.shape[1]):
            of_shared[d, f] = total


# --- all pairs of fields (Rendle 2010, lemma 3.1) -----------------------------------------------------------------


@compiled
def fm(shared: Array, own: Array, starts: Array, totals: Array, out: Array) -> None:
    """Sum over pairs of <e_i, e_j>, the fields of displays (D, Gd, E) and of rows (B, Gr, E) taken together.

    totals (B, E) get the sums of all embeddings of a row, out (B,) = (|total|^2 - sum |e_i|^2) / 2.
    """
    size = own.shape[2]
    total = np.empty(size, own.dtype)
    for d in range(shared.shape[0]):
        total[:] = 0
        squares = own.dtype.type(0)
        for f in range(shared.shape[1]):
            for k in range(size):
                total[k] += shared[d, f, k]
            for k in range(size):
                squares += shared[d, f, k] * shared[d, f, k]
        for r in range(starts[d], starts[d + 1]):
            both, whole = squares, own.dtype.type(0)
            for k in range(size):
                totals[r, k] = total[k]
            for f in range(own.shape[1]):
                for k in range(size):
                    totals[r, k] += own[r, f, k]
                for k in range(size):
                    both += own[r, f, k] * own[r, f, k]
            for k in range(size):
                whole += totals[r, k] * totals[r, k]
            out[r] = (whole - both) / 2


@compiled
def fm_gradient(
    gradient: Array, shared: Array, own: Array, starts: Array, totals: Array, of_shared: Array, of_own: Array
) -> None:
    """Of each embedding: the sum of all others, times the gradient (B,); of a display's also summed over its rows."""
    size = own.shape[2]
    total = np.empty(size, own.dtype)
    for d in range(shared.shape[0]):
        total[:] = 0
        scale = own.dtype.type(0)
        for r in range(starts[d], starts[d + 1]):
            g = gradient[r]
            scale += g
            for k in range(size):
                total[k] += g * totals[r, k]
            for f in range(own.shape[1]):
                for k in range(size):
                    of_own[r, f, k] = g * (totals[r, k] - own[r, f, k])
        for f in range(shared.shape[1]):
            for k in range(size):
                of_shared[d, f, k] = total[k] - scale * shared[d, f, k]


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


# --- gradients of the table's rows --------------------------------------------------------------------------------
# slot (N,): where an id stands among those that the batch has read so far, or -1. touched (S,): these ids.
# sums (S, 1 + E): their gradients. The number of them is passed on from call to call.


@compiled
def add_codes(
    columns: Array,
    codes: Array,
    repeats: Array,
    decay: float,
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
    for f in columns:
        for i in range(codes.shape[0]):
            code = codes[i, f]
            at = slot[code]
            if at < 0:
                at = slot[code] = count
                touched[count] = code
                sums[count] = 0
                count += 1
            shrink = decay * repeats[i]
            sums[at, 0] += of_weights[i, f] + shrink * weights[i, f]
            for k in range(embeddings.shape[2]):
                sums[at, 1 + k] += of_embeddings[i, f, k] + shrink * embeddings[i, f, k]
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
    size = embeddings.shape[2]
    row = np.empty(1 + size, sums.dtype)
    for j in bags:
        for i in range(weights.shape[0]):
            shrink = decay * repeats[i]
            row[0] = of_weights[i, first + j] + shrink * weights[i, first + j]
            for k in range(size):
                row[1 + k] = of_embeddings[i, first + j, k] + shrink * embeddings[i, first + j, k]
            for k in range(offsets[j, i], offsets[j, i + 1]):
                at = slot[ids[k]]
                if at < 0:
                    at = slot[ids[k]] = count
                    touched[count] = ids[k]
                    sums[count] = 0
                    count += 1
                for m in range(1 + size):
                    sums[at, m] += shares[k] * row[m]
    return count


@compiled
def add_rows(ids: Array, rows: Array, slot: Array, touched: Array, sums: Array, count: int) -> int:
    """The same for gradients (S, 1 + E) that were added up elsewhere."""
    for i in range(len(ids)):
        at = slot[ids[i]]
        if at < 0:
            at = slot[ids[i]] = count
            touched[count] = ids[i]
            sums[count] = 0
            count += 1
        for k in range(rows.shape[1]):
            sums[at, k] += rows[i, k]
    return count


@compiled
def adam(
    touched: Array,
    sums: Array,
    table: Array,
    state: Array,
    slot: Array,
    rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> None:
    """One step of lazy Adam on the rows that were read; state (N, 2, 1 + E): the moments. Forgets their slots.

    rate: the learning rate with the correction of both moments for the number of steps.
    """
    rest1, rest2 = table.dtype.type(1) - beta1, table.dtype.type(1) - beta2
    for i in range(len(touched)):
        at = touched[i]
        slot[at] = -1
        for k in range(table.shape[1]):
            g = sums[i, k]
            first = beta1 * state[at, 0, k] + rest1 * g
            second = beta2 * state[at, 1, k] + rest2 * g * g
            state[at, 0, k] = first
            state[at, 1, k] = second
            table[at, k] -= rate * first / (np.sqrt(second) + epsilon)


@compiled
def adagrad(touched: Array, sums: Array, table: Array, state: Array, slot: Array, rate: float, epsilon: float) -> None:
    """One step of AdaGrad on the rows that were read; state (N, 1, 1 + E): sums of squares. Forgets their slots."""
    for i in range(len(touched)):
        at = touched[i]
        slot[at] = -1
        for k in range(table.shape[1]):
            g = sums[i, k]
            total = state[at, 0, k] + g * g
            state[at, 0, k] = total
            table[at, k] -= rate * g / (np.sqrt(total) + epsilon)
