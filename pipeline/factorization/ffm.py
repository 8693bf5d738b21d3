"""Kernels of field-aware factorization machines: a display at a time, what its ads share only once.

The table holds for each id a block of C numbers and, behind it, their C sums of squared gradients. A block is F chunks
of k: chunk j is the vector that the id has for field j. An id's vector for its own field means nothing in the paper:
here its first number is the id's linear weight w.

A field's block A_i is the sum of x * W[id] over its values. Let T_i hold what the other fields have for field i, so
that chunk j of T_i is chunk i of A_j, and the chunk of i itself (s, 0, ..., 0). Then the pairs and linear weights of a
row are sums of A_i * T_i, and the gradient of A_i is the residual times T_i: all of it runs through memory in order.

Fields that a display's ads share come first, so the chunks of a block split in two: shared, then own.
  F_d, F_r: shared and own fields that are paired. k: numbers in a chunk. B = F_d k. C: numbers in a block, filled up to
  whole lines.
Fields that are not paired come behind those that are, on either side: of an id's block they read the first number, w.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import float32, int64
from numpy.typing import NDArray

from pipeline.core.compiled import compiled, inlined
from pipeline.core.simd import LINE, aligned, load, prefetch, root, splat, store, total
from pipeline.factorization.displays import Displays
from pipeline.factorization.losses import residuals

_LINE = len(LINE)


@compiled
def block_size(fields: int, k: int) -> int:
    """C."""
    return -(-fields * k // _LINE) * _LINE


class Scratch(NamedTuple):
    """What the fields of one display hold, each array flat.

    shared: (F_d, C) blocks A. shared_others: (F_d, C) the shared chunks of T. across: (F_r, C) the shared chunks of
    own fields' T. own, others: (ads, F_r, C) blocks A and T. half: (C,) 1 for shared chunks, 1/2 for own ones.
    gradient: (F_d, C). crossed: (F_r, C) shared chunks of A, summed over the ads with their residuals.
    norm, logit, residual: (ads,).
    """

    shared: NDArray[np.float32]
    shared_others: NDArray[np.float32]
    across: NDArray[np.float32]
    own: NDArray[np.float32]
    others: NDArray[np.float32]
    half: NDArray[np.float32]
    gradient: NDArray[np.float32]
    crossed: NDArray[np.float32]
    norm: NDArray[np.float32]
    logit: NDArray[np.float32]
    residual: NDArray[np.float32]

    @classmethod
    def make(cls, shared: int, own: int, k: int, ads: int) -> Scratch:
        """For displays of up to `ads` ads; a line more than needed, since vectors may reach beyond the last chunk."""
        block = block_size(shared + own, k)
        of_shared, of_own, of_ads = (n * block + len(LINE) for n in (shared, own, ads * own))
        half = aligned((block,))
        half[:] = np.where(np.arange(block) < shared * k, 1.0, 0.5)
        sizes = (of_shared, of_shared, of_own, of_ads, of_ads, 0, of_shared, of_own, ads, ads, ads)
        return cls(*(aligned((size,)) for size in sizes))._replace(half=half)


@inlined
def _chunks(out: Any, to: int, to_step: int, source: Any, at: int, step: int, count: int, k: Any) -> None:
    """Copy `count` chunks of k numbers, `step` apart, to where they are `to_step` apart."""
    for j in range(count):
        store(out, to + j * to_step, load(source, at + j * step, k))


@inlined
def _put(out: Any, to: int, scale: float, source: Any, at: int, size: int) -> None:
    """Write scale * source into out; size: rounded up to whole lines."""
    factor = splat(float32(scale), LINE)
    for c in range(0, size, _LINE):
        store(out, to + c, factor * load(source, at + c, LINE))


@inlined
def _add(out: Any, to: int, scale: float, source: Any, at: int, size: int) -> None:
    """Add scale * source to what is in out; size: rounded up to whole lines."""
    factor = splat(float32(scale), LINE)
    for c in range(0, size, _LINE):
        store(out, to + c, load(out, to + c, LINE) + factor * load(source, at + c, LINE))


@inlined
def _read(
    ids: Any, values: Any, start: int, stop: int, table: Any, stride: int, out: Any, to: int, block: int
) -> float:
    """A = sum of x * W[id] over a field's values, into out[to:]. Returns the sum of x^2."""
    x = values[start] if start < stop else float32(0)  # nothing is 0 times whatever
    _put(out, to, x, table, int64(ids[start]) * stride if start < stop else 0, block)
    squares = x * x
    for v in range(start + 1, stop):
        _add(out, to, values[v], table, int64(ids[v]) * stride, block)
        squares += values[v] * values[v]
    return squares


@inlined
def _weights(side: Any, item: int, table: Any, stride: int) -> float:
    """The sum of x w over the fields of an item that are not paired."""
    (starts, ids, values, fields, pairs), found = side, float32(0)
    for v in range(starts[item * fields + pairs], starts[(item + 1) * fields]):
        found += values[v] * table[int64(ids[v]) * stride]
    return found


@inlined
def _update_weights(
    side: Any, item: int, table: Any, stride: int, slope: float, rate: float, l2: Any, reads: int
) -> None:
    """AdaGrad on what `_weights` has summed. slope: the gradient by the sum."""
    starts, ids, values, fields, pairs = side
    for v in range(starts[item * fields + pairs], starts[(item + 1) * fields]):
        own = int64(ids[v])
        base = own * stride
        g = float32(slope) * values[v] + float32(reads) * l2[min(own, len(l2) - 1)] * table[base]
        table[base + stride // 2] += g * g
        table[base] -= float32(rate) * g / math.sqrt(table[base + stride // 2])


@inlined
def _read_shared(x: Displays, d: int, table: Any, stride: int, block: int, k: Any, s: Scratch) -> tuple[float, ...]:
    """Blocks of what the ads share. Returns the sum of x^2, the sum of the linear weights, the sum over pairs."""
    size, (starts, ids, values, all_fields, fields) = len(k), x.shared
    border, blocks, others, across = fields * size, s.shared, s.shared_others, s.across
    norm, linear, pairs = float32(0), _weights(x.shared, d, table, stride), splat(float32(0), LINE)
    for f in range(fields):
        at = f * block
        cell = d * all_fields + f
        norm += _read(ids, values, starts[cell], starts[cell + 1], table, stride, blocks, at, block)
        linear += blocks[at + f * size]
        _chunks(others, f * size, block, blocks, at, size, fields, k)
        _chunks(across, f * size, block, blocks, at + border, size, x.own.pairs, k)
    for f in range(fields):
        at = f * block
        store(others, at + f * size, splat(float32(0), k))
        for c in range(0, border, _LINE):  # others is 0 beyond the border
            pairs = pairs + load(blocks, at + c, LINE) * load(others, at + c, LINE)
    return norm, linear, float32(0.5) * total(pairs)


@inlined
def _read_own(x: Displays, row: int, at_row: int, table: Any, stride: int, block: int, k: Any, s: Scratch) -> Any:
    """Blocks of one ad's own fields. Returns the sum of x^2, the sum of the linear weights, the sum over pairs."""
    size, (starts, ids, values, all_fields, fields) = len(k), x.own
    border, blocks, others, across, half = x.shared.pairs * size, s.own, s.others, s.across, s.half
    norm, linear, pairs = float32(0), _weights(x.own, row, table, stride), splat(float32(0), LINE)
    for f in range(fields):
        _put(others, at_row + f * block, float32(1), across, f * block, border)
    for f in range(fields):
        at, cell = at_row + f * block, row * all_fields + f
        norm += _read(ids, values, starts[cell], starts[cell + 1], table, stride, blocks, at, block)
        linear += blocks[at + border + f * size]
        _chunks(others, at_row + border + f * size, block, blocks, at + border, size, fields, k)
    for f in range(fields):
        at = at_row + f * block
        store(others, at + border + f * size, splat(float32(0), k))
        for c in range(0, block, _LINE):  # pairs of two own fields come twice
            pairs = pairs + load(blocks, at + c, LINE) * load(others, at + c, LINE) * load(half, c, LINE)
    return norm, linear, total(pairs)


@inlined
def _logits(
    x: Displays, d: int, table: Any, stride: int, block: int, k: Any, normalize: bool, bias: float, s: Any
) -> int:
    """Logits of a display's ads into s.logit, and 1 / norm into s.norm; returns how many ads there are."""
    first, n = x.offsets[d], x.offsets[d + 1] - x.offsets[d]
    norm_d, linear_d, pairs_d = _read_shared(x, d, table, stride, block, k, s)
    for i in range(n):
        norm, linear, pairs = _read_own(x, first + i, i * x.own.pairs * block, table, stride, block, k, s)
        s.norm[i] = float32(1) / max(norm_d + norm, float32(1e-12)) if normalize else float32(1)
        s.logit[i] = bias + s.norm[i] * (pairs_d + pairs) + math.sqrt(s.norm[i]) * (linear_d + linear)
    return n


@inlined
def _update(
    ids: Any, values: Any, start: int, stop: int, table: Any, block: int, direction: Any, at: int, scale: float,
    rate: float, l2: Any, reads: int,
) -> None:  # fmt: skip
    """AdaGrad on the blocks of a field's values: g = x scale direction + l2 W, G += g^2, W -= rate g / sqrt(G)."""
    eta = splat(float32(rate), LINE)
    for v in range(start, stop):
        own = int64(ids[v])
        base, factor = own * 2 * block, splat(float32(scale * values[v]), LINE)
        decay = splat(float32(reads * l2[min(own, len(l2) - 1)]), LINE)
        for c in range(base, base + block, _LINE):
            weight = load(table, c, LINE)
            g = factor * load(direction, at + c - base, LINE) + decay * weight
            squares = load(table, c + block, LINE) + g * g
            store(table, c + block, squares)
            store(table, c, weight - eta * g / root(squares))


@inlined
def _fetch(ids: Any, start: int, stop: int, table: Any, stride: int) -> None:
    for v in range(start, stop):
        base = int64(ids[v]) * stride
        for c in range(base, base + stride, _LINE):
            prefetch(table, c)


@inlined
def _update_own(
    x: Displays, d: int, following: int, table: Any, stride: int, rate: float, l2: Any, k: Any, s: Any
) -> None:
    """Step on what each ad has by itself; meanwhile the blocks of the following display come into the cache."""
    border, block, (starts, ids, values, all_fields, fields) = x.shared.pairs * len(k), stride // 2, x.own
    others, residual, norm = s.others, s.residual, s.norm
    first, n = x.offsets[d], x.offsets[d + 1] - x.offsets[d]
    next_first, next_n = x.offsets[following], x.offsets[following + 1] - x.offsets[following]
    for i in range(max(n, next_n)):
        scale, linear = float32(0), float32(0)
        if i < n:
            scale, linear = residual[i] * norm[i], math.sqrt(float32(1) / norm[i])
            _update_weights(x.own, first + i, table, stride, scale * linear, rate, l2, 1)
        for f in range(fields):
            at = (i * fields + f) * block
            if i < n:
                others[at + border + f * len(k)] = linear
                cell = (first + i) * all_fields + f
                _update(ids, values, starts[cell], starts[cell + 1], table, block, others, at, scale, rate, l2, 1)
            if i < next_n:
                cell = (next_first + i) * all_fields + f
                _fetch(ids, starts[cell], starts[cell + 1], table, stride)


@inlined
def _update_shared(
    x: Displays, d: int, following: int, table: Any, stride: int, rate: float, l2: Any, k: Any, s: Any
) -> None:
    """One step for all ads of a display on what they share: their gradients are summed first."""
    size, block, (starts, ids, values, all_fields, fields) = len(k), stride // 2, x.shared
    gradient, crossed, others = s.gradient, s.crossed, s.shared_others
    border, n = fields * size, x.offsets[d + 1] - x.offsets[d]
    pairs, linear = float32(0), float32(0)
    for i in range(n):
        pairs += s.residual[i] * s.norm[i]
        linear += s.residual[i] * math.sqrt(s.norm[i])
    _update_weights(x.shared, d, table, stride, linear, rate, l2, n)
    for f in range(fields):
        at, cell = f * block, d * all_fields + f
        _put(gradient, at, pairs, others, at, border)
        gradient[at + f * size] = linear
        _chunks(gradient, at + border, size, crossed, f * size, block, x.own.pairs, k)
        _update(ids, values, starts[cell], starts[cell + 1], table, block, gradient, at, float32(1), rate, l2, n)
        cell = following * all_fields + f
        _fetch(ids, starts[cell], starts[cell + 1], table, stride)


@inlined
def _cross(n: int, fields: int, block: int, border: int, s: Any) -> None:
    """Sum the shared chunks of the ads' blocks, with their residuals."""
    own, crossed = s.own, s.crossed
    for f in range(fields):
        _put(crossed, f * block, s.residual[0] * s.norm[0], own, f * block, border)
    for i in range(1, n):
        scale = s.residual[i] * s.norm[i]
        for f in range(fields):
            _add(crossed, f * block, scale, own, (i * fields + f) * block, border)


@compiled
def learn(
    x: Displays,
    order: Any,
    table: Any,
    bias: Any,
    k: Any,
    listwise: bool,
    normalize: bool,
    rate: float,
    l2: Any,
    s: Any,
) -> float:
    """A step for each of some displays, in their order; returns the sum of their losses before their steps.

    table: flat. bias: (2,) the bias and its sum of squared gradients. l2: (1,), or one for each id. s: Scratch.
    """
    fields, border = x.own.pairs, x.shared.pairs * len(k)
    block, loss = block_size(x.shared.pairs + fields, len(k)), 0.0
    for at in range(len(order)):
        d, following = order[at], order[min(at + 1, len(order) - 1)]
        n = _logits(x, d, table, 2 * block, block, k, normalize, bias[0], s)
        loss += residuals(s.logit, n, x.clicked, x.offsets[d], listwise, s.residual)
        _cross(n, fields, block, border, s)
        _update_own(x, d, following, table, 2 * block, rate, l2, k, s)
        _update_shared(x, d, following, table, 2 * block, rate, l2, k, s)
        if not listwise:  # there a bias changes nothing
            g = s.residual[:n].sum()
            bias[1] += g * g
            bias[0] -= rate * g / math.sqrt(bias[1])
    return loss


@compiled
def score(
    x: Displays, which: Any, table: Any, stride: int, bias: float, k: Any, normalize: bool, s: Any, out: Any
) -> None:  # fmt: skip
    """The logits of some displays' rows into `out` (N,). stride: how far apart the blocks of two ids are."""
    block = block_size(x.shared.pairs + x.own.pairs, len(k))
    for d in which:
        n = _logits(x, d, table, stride, block, k, normalize, bias, s)
        for i in range(n):
            out[x.offsets[d] + i] = s.logit[i]
