"""The forward and backward pass of an MLP on a CPU, a tile of rows at a time: a tile goes through all layers in cache.

D displays with B rows: display d has the rows starts[d] : starts[d + 1]. The first layer's product with what the rows
of a display share is made once for each display. Tiles follow each other, and every sum is taken in their order.

sizes: P, Q, H_1, ..., H_L; P and Q are the inputs of a display and of an impression. weights, flat: (H_1, P) of
displays, (H_1, Q) of impressions, (H_1,) the bias, for each further layer (H_l, H_{l-1}) and (H_l,), and (H_L,) of the
logit. So there are 1 + L matrices; the first two have one bias in common. Outputs of a layer are as wide as whole
panels (see products).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.compiled import compiled, inlined
from pipeline.nn.activations import normalize, normalize_gradient, rectify, rectify_gradient
from pipeline.nn.products import COLUMNS, ROWS, add_outer, add_rows, clear, fill, move, multiply, pack, padded, room

Array = NDArray[Any]
TILE = 8 * ROWS  # rows: with 128 outputs, a tile and a panel fit into a first cache of 32 KiB


class Side(NamedTuple):
    """Inputs of displays, or of impressions: embeddings (n, p), flat, and behind them numbers (n, k)."""

    embeddings: NDArray[Any]
    numbers: NDArray[Any]


class Between(NamedTuple):
    """What follows a hidden layer. norm: whether there is one. centred: it takes the mean away.

    epsilon: of the norm. drop: the share that dropout drops. seeds: (L,) of what is dropped.
    """

    norm: bool
    centred: bool
    epsilon: float
    drop: float
    seeds: NDArray[np.int64]


class Kept(NamedTuple):
    """What the backward pass needs of the forward one.

    hidden: outputs of the layers, one layer behind the other. normed: before ReLU. scales: (L, B) of the norm. The last
    two only with a norm.
    """

    hidden: NDArray[Any]
    normed: NDArray[Any]
    scales: NDArray[Any]


@inlined
def _outputs(sizes: Array, matrix: int) -> int:
    return sizes[max(2, matrix + 1)]


@inlined
def _layers_at(sizes: Array, rows: int) -> tuple[Array, int]:
    """Where the outputs of each layer begin, and where they end."""
    at, end = np.zeros(len(sizes) - 2, np.int64), 0
    for layer in range(len(at)):
        at[layer] = end
        end += padded(sizes[layer + 2]) * rows
    return at, end


@inlined
def _biases_at(sizes: Array) -> Array:
    """Where the bias of each matrix is among the weights."""
    at, end = np.zeros(len(sizes) - 1, np.int64), 0
    for m in range(len(at)):
        end += _outputs(sizes, m) * sizes[m]
        at[m] = end
        if m:
            end += _outputs(sizes, m)
    at[0] = at[1]
    return at


@inlined
def _packed(weights: Array, sizes: Array, turned: bool) -> tuple[Array, Array]:
    """All matrices as panels, and where those of each begin."""
    first, size, at, to = np.zeros(len(sizes) - 1, np.int64), 0, 0, 0
    for m in range(len(first)):
        size += padded(_outputs(sizes, m)) * sizes[m] if turned else padded(sizes[m]) * _outputs(sizes, m)
    panels = room(size, weights)
    for m in range(len(first)):
        first[m] = to
        to = pack(weights, at, _outputs(sizes, m), sizes[m], turned, panels, to)
        at += _outputs(sizes, m) * (sizes[m] + (m > 0))
    return panels, first


# --- forward ------------------------------------------------------------------------------------------------------


@inlined
def _add_inputs(side: Side, item: int, count: int, panels: Array, first: int, y: Array, to: int, wide: int) -> None:
    """y += what the first layer makes of some items."""
    p, k = side.embeddings.shape[1], side.numbers.shape[1]
    embeddings, numbers = side.embeddings.reshape(-1), side.numbers.reshape(-1)
    multiply(embeddings, item * p, p, count, p, panels, first, p + k, y, to, wide)
    multiply(numbers, item * k, k, count, k, panels, first + p * COLUMNS, p + k, y, to, wide)


@compiled
def forward(
    display: Side, impression: Side, starts: Array, weights: Array, sizes: Array, between: Between, keep: bool
) -> tuple[Array, Kept]:
    """The logits (B,); keep: what the backward pass will need."""
    norm, centred, epsilon, drop, seeds = between
    displays, rows, layers = len(display.embeddings), len(impression.embeddings), len(sizes) - 2
    panels, first = _packed(weights, sizes, True)
    bias, last, zero = _biases_at(sizes), weights[len(weights) - sizes[-1] :], weights.dtype.type(0)
    layer_at, size = _layers_at(sizes, rows if keep else TILE)
    hidden, normed = room(size, weights), room(size if keep and norm else 0, weights)
    scales = np.empty((layers, rows if keep and norm else 0), weights.dtype)
    logits = np.empty(rows, weights.dtype)

    wide, d = padded(sizes[2]), 0
    shared = room(displays * wide, weights)
    fill(weights[bias[0] : bias[0] + sizes[2]], shared, 0, wide, displays)
    _add_inputs(display, 0, displays, panels, first[0], shared, 0, wide)
    for row in range(0, rows, TILE):
        count, base = min(TILE, rows - row), row if keep else 0
        for layer in range(layers):
            size = sizes[layer + 2]
            wide = padded(size)
            to = layer_at[layer] + base * wide
            if layer:
                before, m = sizes[layer + 1], layer + 1
                at = layer_at[layer - 1] + base * padded(before)
                fill(weights[bias[m] : bias[m] + size], hidden, to, wide, count)
                multiply(hidden, at, padded(before), count, before, panels, first[m], before, hidden, to, wide)
            else:
                for r in range(count):
                    while starts[d + 1] <= row + r:
                        d += 1
                    move(shared, d * wide, 0, 1, wide, hidden, to + r * wide, 0)
                _add_inputs(impression, row, count, panels, first[1], hidden, to, wide)
            for r in range(count):
                at = to + r * wide
                h = hidden[at : at + size]
                if norm:
                    scale = normalize(h, centred, epsilon)
                    if keep:
                        scales[layer, row + r] = scale
                        move(hidden, at, 0, 1, size, normed, at, 0)
                rectify(h, drop, seeds[layer], (row + r) * size)
        for r in range(count):
            h, logit = hidden[to + r * wide : to + r * wide + size], zero
            for k in range(size):
                logit += h[k] * last[k]
            logits[row + r] = logit
    return logits, Kept(hidden, normed, scales)


# --- backward -----------------------------------------------------------------------------------------------------


class Sums(NamedTuple):
    """The gradients of the weights while they add up: of each matrix, as wide as whole panels, and of its bias."""

    sums: NDArray[Any]
    of_matrix: NDArray[np.int64]
    of_bias: NDArray[np.int64]


@inlined
def _no_sums(weights: Array, sizes: Array) -> Sums:
    of_matrix, of_bias, end = np.zeros(len(sizes) - 1, np.int64), np.zeros(len(sizes) - 1, np.int64), 0
    for m in range(len(of_matrix)):
        of_matrix[m] = end
        of_bias[m] = end + _outputs(sizes, m) * padded(sizes[m])
        end = of_bias[m] + padded(_outputs(sizes, m))
    sums = room(end, weights)
    sums[:] = 0
    return Sums(sums, of_matrix, of_bias)


@inlined
def _activate_gradient(
    g: Array, row: int, count: int, size: int, layer: int, at: int, kept: Kept, between: Between
) -> None:
    """Of what goes into the norm of a layer, from the gradient of what comes out of dropout, for a tile at g[0]."""
    wide = padded(size)
    for r in range(count):
        begin, of = at + (row + r) * wide, g[r * wide : r * wide + size]
        rectify_gradient(of, kept.hidden[begin : begin + size], between.drop)
        if between.norm:
            normalize_gradient(of, kept.normed[begin : begin + size], between.centred, kept.scales[layer, row + r])


@inlined
def _logit_gradient(
    of_logit: Array, row: int, count: int, last: Array, hidden: Array, at: int, of_last: Array, g: Array
) -> None:
    """Of the weights of the logit, and of what they weigh: a tile of the last layer's outputs, which begin at `at`."""
    size, wide = len(last), padded(len(last))
    clear(g, 0, count * wide)
    for r in range(count):
        begin, error = at + (row + r) * wide, of_logit[row + r]
        h, of = hidden[begin : begin + size], g[r * wide : r * wide + size]
        for k in range(size):
            of_last[k] += error * h[k]
        for k in range(size):
            of[k] = error * last[k]


@inlined
def _close(sums: Sums, sizes: Array, of_weights: Array) -> None:
    """Put the sums where the weights are, without the panels' margins."""
    to = 0
    for m in range(len(sums.of_matrix)):
        size, inputs = _outputs(sizes, m), sizes[m]
        move(sums.sums, sums.of_matrix[m], padded(inputs), size, inputs, of_weights, to, inputs)
        to += size * inputs
        if m:
            move(sums.sums, sums.of_bias[m], 0, 1, size, of_weights, to, 0)
            to += size


@compiled
def _inputs_gradient(
    side: Side, item: int, count: int, g: Array, at: int, size: int, panels: Array, first: int, room_: Any, out: Any
) -> None:
    """Of the first layer's matrix and of the embeddings of some items, from that of its outputs at g[at].

    room_: two tiles. out: sums of gradients, where the matrix's are among them, and those of embeddings (n, p).
    """
    x, then = room_
    sums, to, of = out
    p, k, wide = side.embeddings.shape[1], side.numbers.shape[1], padded(size)
    inputs = padded(p + k)
    move(side.embeddings.reshape(-1), item * p, p, count, p, x, 0, inputs)
    move(side.numbers.reshape(-1), item * k, k, count, k, x, p, inputs)
    add_outer(g, at, wide, size, x, 0, inputs, count, sums, to)
    clear(then, 0, count * padded(p))
    multiply(g, at, wide, count, size, panels, first, size, then, 0, padded(p))
    move(then, 0, padded(p), count, p, of.reshape(-1), item * p, p)


@compiled
def backward(
    of_logit: Array,
    display: Side,
    impression: Side,
    starts: Array,
    weights: Array,
    sizes: Array,
    between: Between,
    kept: Kept,
    of_display: Array,
    of_impression: Array,
) -> Array:
    """The gradient of the weights; those of embeddings are put into of_display (D, p) and of_impression (B, q)."""
    displays, rows, layers, hidden = len(display.embeddings), len(impression.embeddings), len(sizes) - 2, kept.hidden
    panels, first = _packed(weights, sizes, False)
    layer_at, _ = _layers_at(sizes, rows)
    added = _no_sums(weights, sizes)
    sums, of_matrix, of_bias = added
    of_weights, wide, top = np.zeros_like(weights), padded(sizes[2]), len(weights) - sizes[-1]
    shared = room(displays * wide, weights)
    shared[:] = 0
    widest = 0
    for size in sizes:
        widest = max(widest, TILE * padded(size))
    x, g, then = room(widest, weights), room(widest, weights), room(widest, weights)
    x[:] = 0

    d = 0
    for row in range(0, rows, TILE):
        count, size = min(TILE, rows - row), sizes[-1]
        _logit_gradient(of_logit, row, count, weights[top:], hidden, layer_at[-1], of_weights[top:], g)
        _activate_gradient(g, row, count, size, layers - 1, layer_at[-1], kept, between)
        for m in range(layers, 1, -1):
            size, before, at = sizes[m + 1], sizes[m], layer_at[m - 2]
            wide, narrow = padded(size), padded(before)
            add_rows(g, 0, wide, count, sums, of_bias[m])
            add_outer(g, 0, wide, size, hidden, at + row * narrow, narrow, count, sums, of_matrix[m])
            clear(then, 0, count * narrow)
            multiply(g, 0, wide, count, size, panels, first[m], size, then, 0, narrow)
            g, then = then, g
            _activate_gradient(g, row, count, before, m - 2, at, kept, between)
        size, wide = sizes[2], padded(sizes[2])
        for r in range(count):
            while starts[d + 1] <= row + r:
                d += 1
            add_rows(g, r * wide, wide, 1, shared, d * wide)
        out = sums, of_matrix[1], of_impression
        _inputs_gradient(impression, row, count, g, 0, size, panels, first[1], (x, then), out)
    add_rows(shared, 0, wide, displays, sums, of_bias[1])
    for d in range(0, displays, TILE):
        count, out = min(TILE, displays - d), (sums, of_matrix[0], of_display)
        _inputs_gradient(display, d, count, shared, d * wide, size, panels, first[0], (x, then), out)
    _close(added, sizes, of_weights)
    return of_weights
