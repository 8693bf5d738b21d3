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
def _linear(side: Any, item: int, table: Any, alpha: float, beta: float, l1: float, l2: float) -> float:
    starts, ids, values, fields, _ = side
    found = 0.0
    for v in range(starts[item * fields], starts[(item + 1) * fields]):
        z, n = table[ids[v]]
        found += values[v] * weight(z, n, alpha, beta, l1, l2)
    return found


@inlined
def _update(table: Any, i: int, g: float, alpha: float, beta: float, l1: float, l2: float) -> None:
    """sigma = (sqrt(n + g^2) - sqrt(n)) / alpha, z += g - sigma w, n += g^2."""
    z, n = table[i]
    sigma = (math.sqrt(n + g * g) - math.sqrt(n)) / alpha
    table[i, 0] = z + g - sigma * weight(z, n, alpha, beta, l1, l2)
    table[i, 1] = n + g * g


@inlined
def _updates(side: Any, item: int, table: Any, g: float, alpha: float, beta: float, l1: float, l2: float) -> None:
    starts, ids, values, fields, _ = side
    for v in range(starts[item * fields], starts[(item + 1) * fields]):
        _update(table, ids[v], g * values[v], alpha, beta, l1, l2)


@inlined
def _fetch(side: Any, item: int, table: Any) -> None:
    """Bring what an item reads into the cache, while the processor works on another."""
    starts, ids, _, fields, _ = side
    for v in range(starts[item * fields], starts[(item + 1) * fields]):
        prefetch(table, int64(ids[v]) * 2)


@compiled
def learn(
    x: Displays, order: Any, table: Any, listwise: bool, alpha: float, beta: float, l1: float, l2: float, most: int
) -> float:
    """A step for each of some displays, in their order; returns the sum of their losses before their steps.

    most: ads in a display at most. What the ads share is read once, and the sum of their gradients is one step there.
    """
    logit, residual = np.empty(most, np.float32), np.empty(most, np.float32)
    bias, loss, flat = len(table) - 1, 0.0, table.reshape(-1)
    for at in range(len(order)):
        d, following = order[at], order[min(at + 1, len(order) - 1)]
        first, n = x.offsets[d], x.offsets[d + 1] - x.offsets[d]
        shared = _linear(x.shared, d, table, alpha, beta, l1, l2)
        shared += weight(table[bias, 0], table[bias, 1], alpha, beta, l1, l2)
        for i in range(n):
            logit[i] = shared + _linear(x.own, first + i, table, alpha, beta, l1, l2)
        loss += residuals(logit, n, x.clicked, first, listwise, residual)
        _fetch(x.shared, following, flat)
        for row in range(x.offsets[following], x.offsets[following + 1]):
            _fetch(x.own, row, flat)
        together = 0.0
        for i in range(n):
            together += residual[i]
            _updates(x.own, first + i, table, residual[i], alpha, beta, l1, l2)
        _updates(x.shared, d, table, together, alpha, beta, l1, l2)
        _update(table, bias, together, alpha, beta, l1, l2)
    return loss


@compiled
def score(x: Displays, which: Any, table: Any, alpha: float, beta: float, l1: float, l2: float, out: Any) -> None:
    """The logits of some displays' rows into `out` (N,)."""
    for d in which:
        bias = weight(table[len(table) - 1, 0], table[len(table) - 1, 1], alpha, beta, l1, l2)
        shared = bias + _linear(x.shared, d, table, alpha, beta, l1, l2)
        for row in range(x.offsets[d], x.offsets[d + 1]):
            out[row] = shared + _linear(x.own, row, table, alpha, beta, l1, l2)
