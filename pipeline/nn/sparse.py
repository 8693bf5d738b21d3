"""Inference by what pruning has left of a network: matrices of the weights that are not 0, and short tables.

Let x be the inputs of a row, its embeddings and numbers: x_d of its display, x_i of its impression. The first hidden
layer is W x, and the pairs of fields are x^T R x, where R has r_ij in the place of each pair of equal coordinates. Both
are matrices of which few entries are left, and the displays' part of either is computed once for each display:

    y_d   = [b + W_d x_d, R_di x_d, R_dd x_d]
    y     = [y_d's first part + W_i x_i, y_d's second part + R_ii x_i]
    logit = lr + <x_d, y_d's third part> + <x_i, y's second part> + MLP of y's first part

Most ids have lost their whole embedding: they need only a weight, and all of them read the same zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.nn import tiles
from pipeline.nn.batches import Batch, Values
from pipeline.nn.functions import array
from pipeline.nn.layers import MLP, FieldEmbedding, Linear, Shared, WeightedPairs
from pipeline.nn.records import short_table, whole
from pipeline.nn.tiles import Deep, Matrix, Side

Array = NDArray[Any]


class SparseNetwork:
    """Logits of lr + weighted pairs + MLP as the network itself gives them, but for the order of sums. On a CPU."""

    batch_displays = 4096  # it walks through a batch by tiles, so that only what is read at once grows with it

    def __init__(self, embed: FieldEmbedding, linear: Linear, pairs: WeightedPairs, mlp: MLP) -> None:
        weights, biases, last = _layers(mlp)
        numbers, r, own = (array(linear.display), array(linear.impression)), array(pairs.matrix()), pairs.displays
        inputs = own * embed.size + len(numbers[0]), (len(r) - own) * embed.size + len(numbers[1])
        of_first = np.split(weights[0] if weights else np.empty((0, sum(inputs)), np.float32), [inputs[0]], axis=1)
        r_dd, r_di, r_ii = np.triu(r[:own, :own]), r[own:, :own], np.triu(r[own:, own:])  # each pair once
        display = _side(numbers[0], of_first[0], np.vstack([r_di, r_dd]), embed.size)
        impression = _side(numbers[1], of_first[1], r_ii, embed.size)
        begin = np.zeros(len(display.matrix.starts) - 1, np.float32)
        bias = biases[0] if biases else begin[:0]
        begin[: len(bias)] = bias
        deep = Deep(
            hidden=len(bias),
            borders=np.cumsum([0, *(len(b) for b in biases[1:])]),
            matrix=_matrix(weights[1:]),
            bias=np.concatenate([begin[:0], *biases[1:]]),
            widest=max([0, *(len(b) for b in biases[1:])]),
            last=last,
        )
        self.network = (
            short_table(array(embed.weight)),
            np.float32(linear.bias.item()),
            begin,
            display,
            impression,
            deep,
        )

    def __call__(self, batch: Batch) -> Tensor:
        out = np.empty(batch.rows, np.float32)
        tiles.score(self.network, _arrays(batch.display), _arrays(batch.impression), array(batch.starts), out)
        return torch.from_numpy(out)


def _arrays(values: Values) -> tuple[Array, ...]:
    return tuple(
        array(x) for x in (values.codes, values.bag_ids, values.bag_weights, values.bag_offsets, values.numbers)
    )


def _layers(mlp: MLP) -> tuple[list[Array], list[Array], Array]:
    """Weights (H, I) and biases (H,) of the hidden layers, and the weights of the logit."""
    layers = [] if mlp.layers is None else [m for m in mlp.layers if isinstance(m, (nn.Linear, Shared))]
    weights = [array(layer.weight) for layer in layers]  # type: ignore[arg-type]
    biases = [array(layer.bias) for layer in layers[:-1]]  # type: ignore[arg-type]
    for i in reversed(range(len(biases))):
        used = weights[i + 1].any(0)  # a unit that no other one reads is not computed
        weights[i], biases[i], weights[i + 1] = weights[i][used], biases[i][used], weights[i + 1][:, used]
    return weights[:-1], biases, weights[-1][0] if weights else np.empty(0, np.float32)


def _side(numbers: Array, first: Array, pairs: Array, size: int) -> Side:
    """first (H, F * size + K): its part of the first layer. pairs (P, F): what each field is multiplied with."""
    fields, block, hidden = pairs.shape[1], whole(size), whole(len(first))
    dense = np.zeros((hidden + len(pairs) * block, fields * block + len(numbers)), np.float32)
    embedded = dense[:, : fields * block].reshape(len(dense), fields, block)  # a view
    embedded[: len(first), :, :size] = first[:, : fields * size].reshape(len(first), fields, size)
    dense[: len(first), fields * block :] = first[:, fields * size :]
    for k in range(size):
        embedded[hidden + k :: block, :, k] = pairs
    return Side(numbers, dense.shape[1], _matrix([dense]), fields * block)


def _matrix(dense: list[Array]) -> Matrix:
    """The entries that are not 0 of some matrices, their rows one behind the other."""
    counts = [(rows != 0).sum(1) for rows in dense]
    columns = [rows.nonzero()[1] for rows in dense]
    values = [rows[rows != 0] for rows in dense]
    return Matrix(
        np.cumsum(np.concatenate([np.zeros(1, np.int64), *counts])),
        np.concatenate([np.empty(0, np.int64), *columns]),
        np.concatenate([np.empty(0, np.float32), *values]),
    )
