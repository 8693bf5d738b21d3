"""All terms of a logit that have compiled loops, forward and backward, and from a table's rows to their gradients.

Everything here works on NumPy arrays: the loops are long, what lies between them is short, and autograd is not asked;
so threads that compute pieces of a batch seldom wait for Python's lock. (One compiled call for all of it is hardly
faster, and takes a minute to compile.)

D displays with B rows: display d has the rows starts[d] : starts[d + 1]. G fields with embeddings of E numbers, K
numbers. lanes: E zeros (see core.simd).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.compiled import compiled
from pipeline.nn import kernels, passes, sides
from pipeline.nn.activations import normalize_rows, normalize_rows_gradient

Array = NDArray[Any]


class Side(NamedTuple):
    """What displays, or impressions, are read as.

    weights (n, G), linear_numbers (n, K): of the linear term. embeddings (n, G, E): of pairs and the MLP. numbers
    (n, K): of the MLP.
    """

    weights: NDArray[Any]
    linear_numbers: NDArray[Any]
    embeddings: NDArray[Any]
    numbers: NDArray[Any]


class Linear(NamedTuple):
    """used: whether there is this term. bias: (1,). display, impression: weights of numbers, (K,)."""

    used: bool
    bias: NDArray[Any]
    display: NDArray[Any]
    impression: NDArray[Any]


class Norm(NamedTuple):
    """Of embeddings, each by itself."""

    used: bool
    centred: bool
    epsilon: float


class Deep(NamedTuple):
    """An MLP (see passes), if there is one. norm: of the embeddings that it reads."""

    used: bool
    weights: NDArray[Any]
    sizes: NDArray[np.int64]
    between: passes.Between
    norm: Norm


class Terms(NamedTuple):
    """pairs: whether there is the sum over pairs of embeddings."""

    linear: Linear
    pairs: bool
    deep: Deep


class Normed(NamedTuple):
    """Embeddings after a norm (n, G, E), and what they were multiplied with (n * G,)."""

    embeddings: NDArray[Any]
    scales: NDArray[Any]


class Kept(NamedTuple):
    """What the backward pass needs. totals (B, E): of pairs."""

    display: Normed
    impression: Normed
    deep: passes.Kept
    totals: NDArray[Any]


class Gradients(NamedTuple):
    """Of a side's embeddings (n, G, E), and of each of its weights (n,): it is the same for all of an item."""

    weights: NDArray[Any]
    embeddings: NDArray[Any]


class OfTerms(NamedTuple):
    """Gradients of the parameters of terms: as in Linear, and of the weights in Deep."""

    bias: NDArray[Any]
    display: NDArray[Any]
    impression: NDArray[Any]
    deep: NDArray[Any]


def _normed(embeddings: Array, lanes: Any, norm: Norm) -> Normed:
    if not norm.used:
        return Normed(embeddings, np.empty(0, embeddings.dtype))
    n, fields, size = embeddings.shape
    normed, scales = embeddings.copy(), np.empty(n * fields, embeddings.dtype)
    normalize_rows(normed.reshape(n * fields, size), lanes, norm.centred, norm.epsilon, scales)
    return Normed(normed, scales)


def _inputs(normed: Normed, side: Side) -> passes.Side:
    n, fields, size = normed.embeddings.shape
    return passes.Side(normed.embeddings.reshape(n, fields * size), side.numbers)


def forward(display: Side, impression: Side, starts: Array, terms: Terms, lanes: Any, keep: bool) -> tuple[Array, Kept]:
    """The logits (B,); keep: what the backward pass will need."""
    linear, pairs, deep = terms
    rows, dtype = len(impression.weights), impression.weights.dtype
    normed = _normed(display.embeddings, lanes, deep.norm), _normed(impression.embeddings, lanes, deep.norm)
    totals = np.empty((rows if pairs else 0, len(lanes)), dtype)
    if deep.used:
        given = _inputs(normed[0], display), _inputs(normed[1], impression)
        logits, kept = passes.forward(given[0], given[1], starts, deep.weights, deep.sizes, deep.between, keep)
    else:
        nothing = np.empty(0, dtype)
        logits, kept = np.zeros(rows, dtype), passes.Kept(nothing, nothing, np.empty((0, 0), dtype))
    if linear.used:
        numbers = display.linear_numbers, impression.linear_numbers, linear.display, linear.impression
        sides.linear(display.weights, impression.weights, *numbers, starts, linear.bias, logits)
    if pairs:
        sides.fm(display.embeddings, impression.embeddings, starts, lanes, totals, logits)
    return logits, Kept(normed[0], normed[1], kept, totals)


def _normed_gradient(gradient: Array, normed: Normed, lanes: Any, norm: Norm) -> None:
    n, fields, size = normed.embeddings.shape
    of, y = gradient.reshape(n * fields, size), normed.embeddings.reshape(n * fields, size)
    normalize_rows_gradient(of, y, lanes, norm.centred, normed.scales)


def backward(
    of_logits: Array,
    display: Side,
    impression: Side,
    starts: Array,
    terms: Terms,
    lanes: Any,
    kept: Kept,
    of_display: Gradients,
    of_impression: Gradients,
) -> OfTerms:
    """From the gradient of the logits (B,); those of both sides are filled in."""
    linear, pairs, deep = terms
    of, of_own, dtype = of_display.embeddings, of_impression.embeddings, of_logits.dtype
    of_deep = np.empty(0, dtype)
    if deep.used:
        given = _inputs(kept.display, display), _inputs(kept.impression, impression)
        flat = deep.weights, deep.sizes, deep.between, kept.deep
        out = of.reshape(len(of), -1), of_own.reshape(len(of_own), -1)
        of_deep = passes.backward(of_logits, given[0], given[1], starts, *flat, out[0], out[1])
        if deep.norm.used:
            _normed_gradient(of, kept.display, lanes, deep.norm)
            _normed_gradient(of_own, kept.impression, lanes, deep.norm)
    else:
        of[:] = 0
        of_own[:] = 0
    if pairs:
        embeddings = display.embeddings, impression.embeddings
        sides.fm_gradient(of_logits, embeddings[0], embeddings[1], starts, lanes, kept.totals, of, of_own)
    sides.sum_rows(of_logits.reshape(-1, 1), starts, of_display.weights.reshape(-1, 1))
    of_impression.weights[:] = of_logits
    of_terms = OfTerms(np.zeros(1, dtype), np.zeros_like(linear.display), np.zeros_like(linear.impression), of_deep)
    if linear.used:
        of_terms.bias[0] = of_logits.sum()
        sides.add_products(of_display.weights, display.linear_numbers, of_terms.display)
        sides.add_products(of_logits, impression.linear_numbers, of_terms.impression)
    return of_terms


# --- from the table to gradients ----------------------------------------------------------------------------------


class Values(NamedTuple):
    """One side of a batch (see batches.Values)."""

    codes: NDArray[np.int32]
    bag_ids: NDArray[np.int32]
    bag_weights: NDArray[np.float32]
    bag_offsets: NDArray[np.int64]
    numbers: NDArray[Any]


class Read(NamedTuple):
    """What was looked up of one side: weights (n, G) and embeddings (n, G, E)."""

    weights: NDArray[Any]
    embeddings: NDArray[Any]


@compiled
def look_up(table: Array, values: Values, first: int, last: int, lanes: Any, read: Read) -> None:
    """Some neighbouring items of one side."""
    weights, embeddings, codes = read.weights[first:last], read.embeddings[first:last], values.codes[first:last]
    kernels.look_up(table, codes, lanes, weights, embeddings)
    offsets, ids, shares = values.bag_offsets[:, first : last + 1], values.bag_ids, values.bag_weights
    kernels.sum_bags(table, ids, shares, offsets, codes.shape[1], lanes, weights, embeddings)


def _read(table: Array, values: Values, first: int, last: int, lanes: Any, read: Read) -> Side:
    look_up(table, values, first, last, lanes, read)
    numbers = values.numbers[first:last]
    return Side(read.weights[first:last], numbers, read.embeddings[first:last], numbers)


def _part(of: Gradients, first: int, last: int) -> Gradients:
    return Gradients(of.weights[first:last], of.embeddings[first:last])


def learn(
    table: Array,
    values: tuple[Values, Values],
    starts: Array,
    clicked: Array,
    first: int,
    last: int,
    terms: Terms,
    lanes: Any,
    listwise: bool,
    weight: float,
    read: tuple[Read, Read],
    of: tuple[Gradients, Gradients],
) -> tuple[float, OfTerms]:
    """Some neighbouring displays of a batch: the loss, summed over rows, or over displays if it is listwise, times
    `weight`, and its gradients. values, read, of: of the batch's displays and of its impressions; the last two are
    filled in.
    """
    low, high = starts[first], starts[last]
    display = _read(table, values[0], first, last, lanes, read[0])
    impression = _read(table, values[1], low, high, lanes, read[1])
    own = starts[first : last + 1] - low
    logits, kept = forward(display, impression, own, terms, lanes, True)
    of_logits = np.empty_like(logits)
    if listwise:
        loss = sides.listwise(logits, clicked[low:high], own, of_logits)
    else:
        loss = sides.pointwise(logits, clicked[low:high], own, of_logits)
    of_logits *= of_logits.dtype.type(weight)
    out = _part(of[0], first, last), _part(of[1], low, high)
    return weight * loss, backward(of_logits, display, impression, own, terms, lanes, kept, out[0], out[1])


def score(
    table: Array, values: tuple[Values, Values], starts: Array, terms: Terms, lanes: Any, read: tuple[Read, Read]
) -> Array:
    """The logits (B,) of a batch."""
    display = _read(table, values[0], 0, len(starts) - 1, lanes, read[0])
    impression = _read(table, values[1], 0, starts[-1], lanes, read[1])
    return forward(display, impression, starts, terms, lanes, False)[0]
