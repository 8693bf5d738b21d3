"""Kernels of factorization machines: a display at a time, what its ads share only once.

The table holds for each id its vector v of k numbers, its weight w, and behind them their sums of squared gradients.
A field's vector is e = sum of x * v over its values. With S = sum of all e, the pairs of a row are (|S|^2 - sum of
|e|^2) / 2 (Rendle 2010, lemma 3.1), and their gradient by e is S - e (eq. 4). The sums over what a display's ads share
are taken once; on what they share, the gradients of all ads make one step.
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


class Scratch(NamedTuple):
    """What the fields of one display hold, each array flat. F_d, F_r: shared and own fields.

    shared: (F_d, k) e. own: (ads, F_r, k) e. sums: (ads, k) S. norm, logit, residual: (ads,).
    """

    shared: NDArray[np.float32]
    own: NDArray[np.float32]
    sums: NDArray[np.float32]
    norm: NDArray[np.float32]
    logit: NDArray[np.float32]
    residual: NDArray[np.float32]

    @classmethod
    def make(cls, shared: int, own: int, k: int, ads: int) -> Scratch:
        """For displays of up to `ads` ads."""
        return cls(*(aligned((size,)) for size in (shared * k, ads * own * k, ads * k, ads, ads, ads)))


@inlined
def _read(side: Any, item: int, table: Any, stride: int, k: Any, out: Any, to: int) -> Any:
    """e of an item's fields into out[to:]. Returns the sums of x^2, of the linear weights, of e, and of e * e."""
    starts, ids, values, fields, _ = side
    norm, linear, both, squares = float32(0), float32(0), splat(float32(0), k), splat(float32(0), k)
    for f in range(fields):
        e = splat(float32(0), k)
        for v in range(starts[item * fields + f], starts[item * fields + f + 1]):
            base, x = int64(ids[v]) * stride, values[v]
            e = e + splat(x, k) * load(table, base, k)
            linear += x * table[base + len(k)]
            norm += x * x
        store(out, to + f * len(k), e)
        both, squares = both + e, squares + e * e
    return norm, linear, both, squares


@inlined
def _logits(x: Displays, d: int, table: Any, stride: int, k: Any, normalize: bool, bias: float, s: Any) -> int:
    """Logits of a display's ads into s.logit, S into s.sums, 1 / norm into s.norm; returns how many ads there are."""
    first, n = x.offsets[d], x.offsets[d + 1] - x.offsets[d]
    norm_d, linear_d, sum_d, squares_d = _read(x.shared, d, table, stride, k, s.shared, 0)
    for i in range(n):
        at = i * x.own.fields * len(k)
        norm, linear, own, squares = _read(x.own, first + i, table, stride, k, s.own, at)
        both = sum_d + own
        store(s.sums, i * len(k), both)
        pairs = float32(0.5) * total(both * both - squares_d - squares)
        s.norm[i] = float32(1) / max(norm_d + norm, float32(1e-12)) if normalize else float32(1)
        s.logit[i] = bias + s.norm[i] * pairs + math.sqrt(s.norm[i]) * (linear_d + linear)
    return n


@inlined
def _update(
    ids: Any, values: Any, start: int, stop: int, table: Any, k: Any, pairs: Any, linear: float, rate: float, l2: Any,
    reads: int,
) -> None:  # fmt: skip
    """AdaGrad on a field's values. pairs, linear: the gradients by e and by the sum of the linear weights."""
    size = len(k)
    for v in range(start, stop):
        own, x = int64(ids[v]), values[v]
        base, decay = own * 2 * (size + 1), float32(reads * l2[min(own, len(l2) - 1)])
        vector = load(table, base, k)
        g = splat(x, k) * pairs + splat(decay, k) * vector
        squares = load(table, base + size + 1, k) + g * g
        store(table, base + size + 1, squares)
        store(table, base, vector - splat(float32(rate), k) * g / root(squares))
        g_w = x * float32(linear) + decay * table[base + size]
        table[base + 2 * size + 1] += g_w * g_w
        table[base + size] -= float32(rate) * g_w / math.sqrt(table[base + 2 * size + 1])


@inlined
def _fetch(side: Any, item: int, table: Any, stride: int) -> None:
    starts, ids, _, fields, _ = side
    for v in range(starts[item * fields], starts[(item + 1) * fields]):
        base = int64(ids[v]) * stride
        for c in range(base, base + stride, len(LINE)):
            prefetch(table, c)
        prefetch(table, base + stride - 1)


@inlined
def _step(x: Displays, d: int, n: int, table: Any, k: Any, rate: float, l2: Any, s: Any) -> None:
    size = len(k)
    starts, ids, values, fields, _ = x.own
    weighted, weight, linear_d = splat(float32(0), k), float32(0), float32(0)
    for i in range(n):
        scale, linear = s.residual[i] * s.norm[i], s.residual[i] * math.sqrt(s.norm[i])
        factor, both = splat(scale, k), load(s.sums, i * size, k)
        for f in range(fields):
            cell = (x.offsets[d] + i) * fields + f
            pairs = factor * (both - load(s.own, (i * fields + f) * size, k))
            _update(ids, values, starts[cell], starts[cell + 1], table, k, pairs, linear, rate, l2, 1)
        weighted, weight, linear_d = weighted + factor * both, weight + scale, linear_d + linear
    starts, ids, values, fields, _ = x.shared
    for f in range(fields):
        cell = d * fields + f
        pairs = weighted - splat(weight, k) * load(s.shared, f * size, k)
        _update(ids, values, starts[cell], starts[cell + 1], table, k, pairs, linear_d, rate, l2, n)


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
    stride, loss = 2 * (len(k) + 1), 0.0
    for at in range(len(order)):
        d, following = order[at], order[min(at + 1, len(order) - 1)]
        n = _logits(x, d, table, stride, k, normalize, bias[0], s)
        loss += residuals(s.logit, n, x.clicked, x.offsets[d], listwise, s.residual)
        _fetch(x.shared, following, table, stride)
        for row in range(x.offsets[following], x.offsets[following + 1]):
            _fetch(x.own, row, table, stride)
        _step(x, d, n, table, k, rate, l2, s)
        if not listwise:  # there a bias changes nothing
            g = s.residual[:n].sum()
            bias[1] += g * g
            bias[0] -= rate * g / math.sqrt(bias[1])
    return loss


@compiled
def score(
    x: Displays, which: Any, table: Any, stride: int, bias: float, k: Any, normalize: bool, s: Any, out: Any
) -> None:  # fmt: skip
    """The logits of some displays' rows into `out` (N,). stride: how far apart the vectors of two ids are."""
    for d in which:
        n = _logits(x, d, table, stride, k, normalize, bias, s)
        for i in range(n):
            out[x.offsets[d] + i] = s.logit[i]
