"""The loops of nn.sparse: TILE displays, or rows, side by side.

A matrix of which few entries are left is multiplied with a tile entry by entry, each for all items at once, in vector
registers. So a tile stands the other way round: one input (or output) of all its items, then the
next; what is read for an item, or has been computed for its display, is turned by squares of SQUARE numbers.

x (I, TILE): inputs, the embeddings of all fields and then the numbers, each embedding filled up with zeros to a block.
y (O, TILE): what a Matrix makes of them. logits (TILE,).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import float32, int64
from numpy.typing import NDArray

from pipeline.core import simd
from pipeline.core.compiled import compiled, inlined
from pipeline.core.simd import LINE, load, prefetch, splat, store, transpose
from pipeline.nn.records import SQUARE, Table

Array = NDArray[Any]
TILE = 64
GROUP = 4 * TILE  # displays whose outputs are kept until their rows have been scored
_TILE = (0,) * TILE
_SQUARE = (0,) * SQUARE


class Matrix(NamedTuple):
    """(O, I): row h has values[starts[h] : starts[h + 1]] in these columns."""

    starts: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[np.float32]


class Side(NamedTuple):
    """Of displays, or of impressions. numbers (K,): their weights in lr. matrix (O, I): of its inputs' outputs.

    inputs: I. paired: how many of the outputs, the last ones, are what its embeddings are multiplied with.
    """

    numbers: NDArray[np.float32]
    inputs: int
    matrix: Matrix
    paired: int


class Deep(NamedTuple):
    """Behind the first hidden layer, of size `hidden`: matrices and biases of all others, one behind the other.

    borders (L + 1,): where each begins. widest: the largest size of them. last: weights of the logit.
    """

    hidden: int
    borders: NDArray[np.int64]
    matrix: Matrix
    bias: NDArray[np.float32]
    widest: int
    last: NDArray[np.float32]


@inlined
def _turn(source: Array, at: Array, first: int, scale: int, offset: int, out: Array, to: int, step: int) -> None:
    """Turn a square whose rows begin at scale * at[first + i] + offset."""
    transpose(
        source,
        (
            int64(at[first]) * scale + offset,
            int64(at[first + 1]) * scale + offset,
            int64(at[first + 2]) * scale + offset,
            int64(at[first + 3]) * scale + offset,
            int64(at[first + 4]) * scale + offset,
            int64(at[first + 5]) * scale + offset,
            int64(at[first + 6]) * scale + offset,
            int64(at[first + 7]) * scale + offset,
        ),
        out,
        to,
        step,
    )


@inlined
def _turn_field(source: Array, at: Array, first: int, block: int, count: int, x: Array, field: int) -> None:
    """A tile's embeddings of one field, the blocks at[first], at[first + 1], ... of source."""
    for c in range(0, block, SQUARE):
        for r in range(0, count, SQUARE):
            _turn(source, at, first + r, block, c, x, (field * block + c) * TILE + r, TILE)


@compiled
def _read_codes(table: Table, codes: Array, item: int, count: int, s: Any) -> None:
    """Embeddings of categorical fields into s.x; s.logits become the sums of their weights."""
    records, blocks, block = table
    fields, places, x, logits = codes.shape[1], s.blocks, s.x, s.logits
    for r in range(count):
        weight, following = float32(0), item + r + TILE
        for f in range(fields):
            record = records[codes[item + r, f]]
            weight += record.weight
            places[f * TILE + r] = record.block
            prefetch(blocks, int64(record.block) * block)
            if following < codes.shape[0]:
                prefetch(records, int64(codes[following, f]))
        logits[r] = weight
    for f in range(fields):
        _turn_field(blocks, places, f * TILE, block, count, x, f)


@compiled
def _read_bags(table: Table, values: Any, item: int, count: int, s: Any) -> None:
    """Multi-valued fields, behind the categorical ones."""
    records, blocks, block = table
    codes, ids, shares, offsets, _ = values
    sums, counting, x, logits = s.sums, s.counting, s.x, s.logits
    for j in range(offsets.shape[0]):
        for r in range(count):
            first, last = offsets[j, item + r], offsets[j, item + r + 1]
            for v in range(first, last):
                logits[r] += shares[v] * records[ids[v]].weight
            for c in range(0, block, SQUARE):
                e = splat(float32(0), _SQUARE)
                for v in range(first, last):
                    at = int64(records[ids[v]].block) * block + c
                    e = e + splat(shares[v], _SQUARE) * load(blocks, at, _SQUARE)
                store(sums, r * block + c, e)
        _turn_field(sums, counting, 0, block, count, x, codes.shape[1] + j)


@compiled
def _read(table: Table, side: Side, values: Any, item: int, count: int, s: Any) -> None:
    """Inputs of some neighbouring items into s.x, and their part of lr, but for the bias, into s.logits."""
    codes, _, _, offsets, numbers = values
    _read_codes(table, codes, item, count, s)
    _read_bags(table, values, item, count, s)
    begin, x, logits, weights = (codes.shape[1] + offsets.shape[0]) * table.block, s.x, s.logits, side.numbers
    for r in range(count):
        for m in range(numbers.shape[1]):
            x[(begin + m) * TILE + r] = numbers[item + r, m]
            logits[r] += weights[m] * numbers[item + r, m]


@compiled
def _begin(bias: Array, first: int, last: int, y: Array) -> None:
    for h in range(first, last):
        store(y, (h - first) * TILE, splat(bias[h], _TILE))


@compiled
def _multiply(matrix: Matrix, first: int, last: int, positive: int, x: Array, y: Array) -> None:
    """y += what some rows of a matrix make of x; then its first `positive` rows are rectified."""
    starts, columns, values = matrix
    for h in range(first, last):
        at = (h - first) * TILE
        total = load(y, at, _TILE)
        for k in range(starts[h], starts[h + 1]):
            total = total + splat(values[k], _TILE) * load(x, columns[k] * TILE, _TILE)
        store(y, at, simd.positive(total) if h - first < positive else total)


@compiled
def _add_pairs(side: Side, x: Array, y: Array, logits: Array) -> None:
    """logits += <embeddings, the last outputs>"""
    total, first = load(logits, 0, _TILE), len(side.matrix.starts) - 1 - side.paired
    for i in range(side.paired):
        total = total + load(x, i * TILE, _TILE) * load(y, (first + i) * TILE, _TILE)
    store(logits, 0, total)


@compiled
def _add_deep(deep: Deep, s: Any) -> None:
    """s.logits += the MLP behind its first layer, with which s.y begins."""
    source, now, then, borders = s.y, s.now, s.then, deep.borders
    for layer in range(len(borders) - 1):
        first, last = borders[layer], borders[layer + 1]
        _begin(deep.bias, first, last, now)
        _multiply(deep.matrix, first, last, last - first, source, now)
        source = now
        now, then = then, now
    total, last = load(s.logits, 0, _TILE), deep.last
    for h in range(len(last)):
        total = total + splat(last[h], _TILE) * load(source, h * TILE, _TILE)
    store(s.logits, 0, total)


class Room(NamedTuple):
    """What is known of one tile and, of a group of displays, what their rows begin with.

    blocks: (F, TILE) numbers of blocks. sums: (TILE, block) of bags. x, y, logits: see above. now, then: outputs of
    hidden layers. counting: 0, 1, 2 ... shared: (GROUP, O) outputs. of_display: (GROUP,) parts of the logit.
    """

    blocks: NDArray[np.int64]
    sums: NDArray[np.float32]
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    logits: NDArray[np.float32]
    now: NDArray[np.float32]
    then: NDArray[np.float32]
    counting: NDArray[np.int64]
    shared: NDArray[np.float32]
    of_display: NDArray[np.float32]


@compiled
def _of_displays(network: Any, values: Any, d: int, count: int, at: int, s: Room) -> None:
    """Outputs and parts of the logit of some displays, from `at` on in the group."""
    table, bias, begin, side, of_rows, _ = network
    _read(table, side, values, d, count, s)
    _begin(begin, 0, len(begin), s.y)
    _multiply(side.matrix, 0, len(begin), 0, s.x, s.y)
    _add_pairs(side, s.x, s.y, s.logits)
    width, y, counting, shared = len(of_rows.matrix.starts) - 1, s.y, s.counting, s.shared
    s.of_display[at : at + count] = bias + s.logits[:count]
    for h in range(0, width, SQUARE):
        for r in range(0, count, SQUARE):
            _turn(y, counting, 0, TILE, h * TILE + r, shared, (at + r) * width + h, width)


@compiled
def _of_rows(network: Any, values: Any, row: int, owner: Array, out: Array, s: Room) -> None:
    """The logits of some rows; owner: the place of each one's display in the group."""
    table, _, _, _, side, deep = network
    count, width = len(out), len(side.matrix.starts) - 1
    _read(table, side, values, row, count, s)
    logits, of_display, shared, y = s.logits, s.of_display, s.shared, s.y
    for r in range(count):
        logits[r] += of_display[owner[r]]
    for h in range(0, width, SQUARE):
        for r in range(0, count, SQUARE):
            _turn(shared, owner, r, width, h, y, h * TILE + r, TILE)
    _multiply(side.matrix, 0, width, deep.hidden, s.x, s.y)
    _add_pairs(side, s.x, s.y, s.logits)
    _add_deep(deep, s)
    out[:] = s.logits[:count]


@compiled
def _aligned(size: int) -> Array:
    """As simd.aligned."""
    raw = np.zeros(size + len(LINE), np.float32)
    first = -raw.ctypes.data % (4 * len(LINE)) // 4
    return raw[first : first + size]


@compiled
def score(network: Any, display: Any, impression: Any, starts: Array, out: Array) -> None:
    """The logits (B,) of a batch's rows. network: of sparse.SparseNetwork. display, impression: of batches.Values."""
    table, _, begin, of_displays, of_rows, deep = network
    displays, owner = len(starts) - 1, np.zeros(TILE, np.int64)
    s = Room(
        np.zeros(max(display[0].shape[1], impression[0].shape[1]) * TILE, np.int64),
        _aligned(TILE * table.block),
        _aligned(max(of_displays.inputs, of_rows.inputs) * TILE),
        _aligned(max(len(begin), len(of_rows.matrix.starts) - 1) * TILE),
        _aligned(TILE),
        _aligned(deep.widest * TILE),
        _aligned(deep.widest * TILE),
        np.arange(TILE),
        _aligned(GROUP * (len(of_rows.matrix.starts) - 1)),
        _aligned(GROUP),
    )
    for group in range(0, displays, GROUP):
        last = min(group + GROUP, displays)
        for d in range(group, last, TILE):
            _of_displays(network, display, d, min(TILE, last - d), d - group, s)
        d = group
        for row in range(starts[group], starts[last], TILE):
            count = min(TILE, starts[last] - row)
            for r in range(count):
                while starts[d + 1] <= row + r:
                    d += 1
                owner[r] = d - group
            _of_rows(network, impression, row, owner, out[row : row + count], s)
