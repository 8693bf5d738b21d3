"""Inference by what pruning has left of a network: lists of the weights that are not 0, and compiled loops over them.

Rows are scored TILE at a time, side by side: a matrix of which few entries are left is multiplied with a tile by taking
entry after entry, each for all rows at once, which a processor does in its vector registers and without a branch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.core import simd
from pipeline.core.compiled import compiled
from pipeline.nn.batches import Batch, Values
from pipeline.nn.functions import array
from pipeline.nn.layers import MLP, FieldEmbedding, Linear, Shared, WeightedPairs

Array = NDArray[Any]
TILE = 32
AHEAD = 2  # displays whose rows of the table are asked for in advance
_LANES = (0,) * TILE


class SparseNetwork:
    """Logits of lr + weighted pairs + MLP as the network itself gives them, but for the order of sums. On a CPU.

    A tile's inputs X (I, TILE): embeddings and numbers of displays, then of impressions.
    """

    def __init__(self, embed: FieldEmbedding, linear: Linear, pairs: WeightedPairs, mlp: MLP) -> None:
        size = embed.size
        self.table = array(embed.weight)
        self.bias = np.float32(linear.bias.item())
        self.numbers = array(linear.display), array(linear.impression)
        matrix, own = array(pairs.matrix()), pairs.displays
        self.border = own * size + len(self.numbers[0])  # where the inputs of impressions begin
        inputs = self.border + (len(matrix) - own) * size + len(self.numbers[1])
        i, j = np.nonzero(np.triu(matrix, 1))
        begin = np.arange(len(matrix)) * size
        begin[own:] += len(self.numbers[0])
        self.pairs = begin[i], begin[j], matrix[i, j].astype(np.float32)
        self.layers = _layers(mlp)
        self.widths = inputs, max([1, *(len(bias) for bias in mlp_biases(mlp))])

    def __call__(self, batch: Batch) -> Tensor:
        out = np.empty(batch.rows, np.float32)
        display, impression = _arrays(batch.display), _arrays(batch.impression)
        model = self.table, self.bias, self.numbers, self.border, self.pairs, self.layers, self.widths
        _score(model, display, impression, array(batch.starts), out)
        return torch.from_numpy(out)


def mlp_biases(mlp: MLP) -> list[Tensor]:
    return [parameter for parameter in mlp.parameters() if parameter.dim() == 1]


def _layers(mlp: MLP) -> tuple[Array, ...]:
    """Hidden layers one behind the other: their sizes (H,); where the entries of each row of each layer begin, their
    columns and values; biases; and the weights of the logit.
    """
    layers = [] if mlp.layers is None else [m for m in mlp.layers if isinstance(m, (nn.Linear, Shared))]
    matrices = [array(layer.weight) for layer in layers[:-1]]  # type: ignore[arg-type]
    biases = [array(layer.bias) for layer in layers[:-1]]  # type: ignore[arg-type]
    kept = [matrix != 0 for matrix in matrices]
    sizes = np.array([len(bias) for bias in biases], np.int64)
    starts = np.cumsum([0, *(count for rows in kept for count in rows.sum(1))])
    columns = [rows.nonzero()[1] for rows in kept]
    values = [matrix[rows] for matrix, rows in zip(matrices, kept, strict=True)]
    last = array(layers[-1].weight)[0] if layers else np.empty(0, np.float32)  # type: ignore[arg-type]
    return sizes, starts, _joined(columns, np.int64), _joined(values, np.float32), _joined(biases, np.float32), last


def _joined(pieces: list[Array], dtype: Any) -> Array:
    return np.concatenate([np.empty(0, dtype), *pieces]).astype(dtype)


def _arrays(values: Values) -> tuple[Array, ...]:
    return tuple(
        array(x) for x in (values.codes, values.bag_ids, values.bag_weights, values.bag_offsets, values.numbers)
    )


@compiled
def _gather(table: Array, of_numbers: Array, values: Any, item: int, out: Array, at: int, step: int) -> Any:
    """Write an item's inputs, embeddings and then numbers, to out[at], out[at + step], ...; return its part of lr."""
    codes, bag_ids, bag_weights, bag_offsets, numbers = values
    total, size = np.float32(0), table.shape[1] - 1
    for f in range(codes.shape[1]):
        row = table[codes[item, f]]
        total += row[0]
        for k in range(size):
            out[at + k * step] = row[1 + k]
        at += size * step
    for j in range(bag_offsets.shape[0]):
        for k in range(size):
            out[at + k * step] = 0
        for v in range(bag_offsets[j, item], bag_offsets[j, item + 1]):
            row, share = table[bag_ids[v]], bag_weights[v]
            total += share * row[0]
            for k in range(size):
                out[at + k * step] += share * row[1 + k]
        at += size * step
    for m in range(numbers.shape[1]):
        total += of_numbers[m] * numbers[item, m]
        out[at + m * step] = numbers[item, m]
    return total


@compiled
def _repeat(values: Array, x: Array, first: int, count: int) -> None:
    """Write the same inputs to some neighbouring rows of a tile."""
    for n in range(values.shape[0]):
        for r in range(n * TILE + first, n * TILE + first + count):
            x[r] = values[n]


@compiled
def _fetch(table: Array, codes: Array, first: int, last: int) -> None:
    """Ask memory for the rows of the table that some items will read."""
    width = table.shape[1]
    for item in range(first, last):
        for f in range(codes.shape[1]):
            at = np.int64(codes[item, f]) * width
            simd.prefetch(table, at)
            simd.prefetch(table, at + width - 1)


@compiled
def _add_pairs(pairs: Any, size: int, x: Array, logits: Array) -> None:
    """logits (TILE,) += sum over the pairs that are left of r_ij <e_i, e_j>."""
    left, right, weights = pairs
    total = simd.load(logits, 0, _LANES)
    for p in range(left.shape[0]):
        product = simd.splat(np.float32(0), _LANES)
        for k in range(size):
            product = product + simd.load(x, (left[p] + k) * TILE, _LANES) * simd.load(x, (right[p] + k) * TILE, _LANES)
        total = total + simd.splat(weights[p], _LANES) * product
    simd.store(logits, 0, total)


@compiled
def _add_deep(layers: Any, x: Array, now: Array, then: Array, logits: Array) -> None:
    """logits (TILE,) += MLP(x); now, then: room for two hidden layers."""
    sizes, starts, columns, values, biases, last = layers
    row, source = 0, x
    for layer in range(sizes.shape[0]):
        for h in range(sizes[layer]):
            out = simd.splat(biases[row], _LANES)
            for k in range(starts[row], starts[row + 1]):
                out = out + simd.splat(values[k], _LANES) * simd.load(source, columns[k] * TILE, _LANES)
            simd.store(now, h * TILE, simd.positive(out))
            row += 1
        source = now
        now, then = then, now
    total = simd.load(logits, 0, _LANES)
    for h in range(last.shape[0]):
        total = total + simd.splat(last[h], _LANES) * simd.load(source, h * TILE, _LANES)
    simd.store(logits, 0, total)


@compiled
def _score(model: Any, display: Any, impression: Any, starts: Array, out: Array) -> None:
    table, bias, numbers, border, pairs, layers, widths = model
    inputs, width = widths
    x, logits = np.zeros(inputs * TILE, np.float32), np.zeros(TILE, np.float32)
    now, then = np.empty(width * TILE, np.float32), np.empty(width * TILE, np.float32)
    of_display = np.empty(border, np.float32)
    filled, rows, displays = 0, out.shape[0], starts.shape[0] - 1
    for d in range(displays):
        if d + AHEAD < displays:
            _fetch(table, display[0], d + AHEAD, d + AHEAD + 1)
            _fetch(table, impression[0], starts[d + AHEAD], starts[d + AHEAD + 1])
        shared = bias + _gather(table, numbers[0], display, d, of_display, 0, 1)
        row = starts[d]
        while row < starts[d + 1]:
            count = min(starts[d + 1] - row, TILE - filled)
            _repeat(of_display, x, filled, count)
            for r in range(count):
                at = border * TILE + filled + r
                logits[filled + r] = shared + _gather(table, numbers[1], impression, row + r, x, at, TILE)
            row += count
            filled += count
            if filled == TILE or row == rows:
                _add_pairs(pairs, table.shape[1] - 1, x, logits)
                _add_deep(layers, x, now, then, logits)
                out[row - filled : row] = logits[:filled]
                filled = 0
