"""All terms of a logit that have compiled loops, forward and backward in one call each: threads that compute pieces of
a batch hold Python's lock as shortly as can be.

D displays with B rows: display d has the rows starts[d] : starts[d + 1]. G fields with embeddings of E numbers, K
numbers. lanes: E zeros (see core.simd).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.compiled import compiled, inlined
from pipeline.nn import passes, sides
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
    """display (D,), impression (B,): of each of their weights. embeddings: (n, G, E) of either side. The others: of the
    parameters of the same names.
    """

    display: NDArray[Any]
    impression: NDArray[Any]
    display_embeddings: NDArray[Any]
    impression_embeddings: NDArray[Any]
    bias: NDArray[Any]
    display_numbers: NDArray[Any]
    impression_numbers: NDArray[Any]
    deep: NDArray[Any]


@inlined
def _normed(embeddings: Array, norm: Norm) -> Normed:
    if not norm.used:
        return Normed(embeddings, np.empty(0, embeddings.dtype))
    n, fields, size = embeddings.shape
    normed, scales = embeddings.copy(), np.empty(n * fields, embeddings.dtype)
    normalize_rows(normed.reshape(n * fields, size), norm.centred, norm.epsilon, scales)
    return Normed(normed, scales)


@inlined
def _inputs(normed: Normed, side: Side) -> passes.Side:
    n, fields, size = normed.embeddings.shape
    return passes.Side(normed.embeddings.reshape(n, fields * size), side.numbers)


@compiled
def forward(
    display: Side, impression: Side, starts: Array, terms: Terms, lanes: Any, keep: bool
) -> tuple[Array, Kept]:
    """The logits (B,); keep: what the backward pass will need."""
    linear, pairs, deep = terms
    rows, dtype = len(impression.weights), impression.weights.dtype
    normed = _normed(display.embeddings, deep.norm), _normed(impression.embeddings, deep.norm)
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


@inlined
def _normed_gradient(gradient: Array, normed: Normed, norm: Norm) -> None:
    n, fields, size = normed.embeddings.shape
    of, y = gradient.reshape(n * fields, size), normed.embeddings.reshape(n * fields, size)
    normalize_rows_gradient(of, y, norm.centred, normed.scales)


@compiled
def backward(
    of_logits: Array, display: Side, impression: Side, starts: Array, terms: Terms, lanes: Any, kept: Kept
) -> Gradients:
    """From the gradient of the logits (B,)."""
    linear, pairs, deep = terms
    shapes, dtype = (display.embeddings.shape, impression.embeddings.shape), of_logits.dtype
    if deep.used:
        given = _inputs(kept.display, display), _inputs(kept.impression, impression)
        flat = deep.weights, deep.sizes, deep.between, kept.deep
        of_display, of_impression, of_deep = passes.backward(of_logits, given[0], given[1], starts, *flat)
        if deep.norm.used:
            _normed_gradient(of_display, kept.display, deep.norm)
            _normed_gradient(of_impression, kept.impression, deep.norm)
        of = of_display.reshape(shapes[0]), of_impression.reshape(shapes[1])
    else:
        of, of_deep = (np.zeros(shapes[0], dtype), np.zeros(shapes[1], dtype)), np.empty(0, dtype)
    if pairs:
        embeddings = display.embeddings, impression.embeddings
        sides.fm_gradient(of_logits, embeddings[0], embeddings[1], starts, lanes, kept.totals, of[0], of[1])
    shared = np.empty((len(starts) - 1, 1), dtype)
    sides.sum_rows(of_logits.reshape(-1, 1), starts, shared)
    bias, of_numbers = np.zeros(1, dtype), np.zeros_like(linear.display)
    of_own_numbers = np.zeros_like(linear.impression)
    if linear.used:
        bias[0] = of_logits.sum()
        sides.add_products(shared[:, 0], display.linear_numbers, of_numbers)
        sides.add_products(of_logits, impression.linear_numbers, of_own_numbers)
    return Gradients(shared[:, 0].copy(), of_logits, of[0], of[1], bias, of_numbers, of_own_numbers, of_deep)


@compiled
def learn(
    display: Side,
    impression: Side,
    starts: Array,
    clicked: Array,
    terms: Terms,
    lanes: Any,
    listwise: bool,
    weight: float,
) -> tuple[float, Gradients]:
    """The sum of the loss over rows, or over displays if it is listwise, times `weight`, and its gradients."""
    logits, kept = forward(display, impression, starts, terms, lanes, True)
    of_logits = np.empty_like(logits)
    if listwise:
        loss = sides.listwise(logits, clicked, starts, of_logits)
    else:
        loss = sides.pointwise(logits, clicked, starts, of_logits)
    of_logits *= of_logits.dtype.type(weight)
    return weight * loss, backward(of_logits, display, impression, starts, terms, lanes, kept)
