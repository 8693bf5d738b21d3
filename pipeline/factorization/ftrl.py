"""Kernels of logistic regression by FTRL-Proximal: McMahan et al. 2013, algorithm 1, a display at a time.

The table holds z and n of each id, and in its last row those of the bias.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import int64

from pipeline.core.compiled import compiled, inlined
from pipeline.core.simd import prefetch
from pipeline.factorization.displays import Displays
from pipeline.factorization.losses import residuals


@inlined
def weight(z: float, n: float, alpha: float, beta: float, l1: float, l2: float) -> float:
    """w_i of z_i and n_i: exactly 0 where |z_i| is at most l1."""
    if abs(z) <= l1:
        return 0.0
    return -(z - math.copysign(l1, z)) / ((beta + math.sqrt(n)) / alpha + l2)


@inlined
def _linear(side: Any, item: int, table: Any, alpha: float, beta: float, l1: float, l2: Any) -> float:
    starts, ids, values, fields, _ = side
    found = 0.0
    for f in range(fields):
        for v in range(starts[item * fields + f], starts[item * fields + f + 1]):
            z, n = table[ids[v]]
            found += values[v] * weight(z, n, alpha, beta, l1, l2[f])
    return found


@inlined
def _update(table: Any, i: int, g: float, alpha: float, beta: float, l1: float, l2: float) -> None:
    """sigma = (sqrt(n + g^2) - sqrt(n)) / alpha, z += g - sigma w, n += g^2."""
    z, n = table[i]
    sigma = (math.sqrt(n + g * g) - math.sqrt(n)) / alpha
    table[i, 0] = z + g - sigma * weight(z, n, alpha, beta, l1, l2)
    table[i, 1] = n + g * g


@inlined
def _updates(side: Any, item: int, table: Any, g: float, alpha: float, beta: float, l1: float, l2: Any) -> None:
    starts, ids, values, fields, _ = side
    for f in range(fields):
        for v in range(starts[item * fields + f], starts[item * fields + f + 1]):
            _update(table, ids[v], g * values[v], alpha, beta, l1, l2[f])


@inlined
def _fetch(side: Any, item: int, table: Any) -> None:
    """Bring what an item reads into the cache, while the processor works on another."""
    starts, ids, _, fields, _ = side
    for v in range(starts[item * fields], starts[(item + 1) * fields]):
        prefetch(table, int64(ids[v]) * 2)


@compiled
def learn(
    x: Displays, order: Any, table: Any, listwise: bool, alpha: float, beta: float, l1: float, l2: Any, most: int
) -> float:
    """A step for each of some displays, in their order; returns the sum of their losses before their steps.

    l2: of each field that a display's ads share, and of each that they have by themselves, two arrays.
    most: ads in a display at most. What the ads share is read once, and the sum of their gradients is one step there.
    """
    logit, residual = np.empty(most, np.float32), np.empty(most, np.float32)
    bias, loss, flat = len(table) - 1, 0.0, table.reshape(-1)
    of_shared, of_own = l2
    for at in range(len(order)):
        d, following = order[at], order[min(at + 1, len(order) - 1)]
        first, n = x.offsets[d], x.offsets[d + 1] - x.offsets[d]
        shared = _linear(x.shared, d, table, alpha, beta, l1, of_shared)
        shared += weight(table[bias, 0], table[bias, 1], alpha, beta, l1, 0.0)
        for i in range(n):
            logit[i] = shared + _linear(x.own, first + i, table, alpha, beta, l1, of_own)
        loss += residuals(logit, n, x.clicked, first, listwise, residual)
        _fetch(x.shared, following, flat)
        for row in range(x.offsets[following], x.offsets[following + 1]):
            _fetch(x.own, row, flat)
        together = 0.0
        for i in range(n):
            together += residual[i]
            _updates(x.own, first + i, table, residual[i], alpha, beta, l1, of_own)
        _updates(x.shared, d, table, together, alpha, beta, l1, of_shared)
        _update(table, bias, together, alpha, beta, l1, 0.0)
    return loss


@compiled
def strengths(table: Any, regions: Any, alpha: float, beta: float, l1: float, l2: Any, found: Any) -> None:
    """gamma / sum w^2 of each region into `found` (R,): gamma = sum n / (n + l2), how many of its weights the data
    decides. l2: (R,), by which they have been learned."""
    for region in range(len(found)):
        decided, squares = 0.0, 0.0
        for i in range(regions[region], regions[region + 1]):
            z, n = table[i]
            if n > 0:
                decided += n / (n + l2[region])
                squares += weight(z, n, alpha, beta, l1, l2[region]) ** 2
        found[region] = decided / max(squares, 1e-12)


@compiled
def weights(table: Any, regions: Any, alpha: float, beta: float, l1: float, l2: Any, found: Any) -> None:
    """The weight of each id, and of the bias, into `found` (ids + 1,)."""
    for region in range(len(l2)):
        for i in range(regions[region], regions[region + 1]):
            found[i] = weight(table[i, 0], table[i, 1], alpha, beta, l1, l2[region])
    bias = len(table) - 1
    found[bias] = weight(table[bias, 0], table[bias, 1], alpha, beta, l1, 0.0)


@inlined
def _sum(side: Any, item: int, w: Any) -> float:
    starts, ids, values, fields, _ = side
    found = 0.0
    for v in range(starts[item * fields], starts[(item + 1) * fields]):
        found += values[v] * w[ids[v]]
    return found


@compiled
def score(x: Displays, which: Any, w: Any, out: Any) -> None:
    """The logits of some displays' rows into `out` (N,). w: (ids + 1,), the last one the bias."""
    for d in which:
        shared = w[len(w) - 1] + _sum(x.shared, d, w)
        for row in range(x.offsets[d], x.offsets[d + 1]):
            out[row] = shared + _sum(x.own, row, w)
