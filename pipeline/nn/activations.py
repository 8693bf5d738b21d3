"""What stands between the linear layers of an MLP, compiled: norm, ReLU and dropout, forward and backward, in place.

x, y, h, g: (B, H), all of one floating type. With them an MLP's forward and backward are matrix products and one or two
passes over memory for each layer (perceptrons.mlp).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import uint32
from numpy.typing import NDArray

from pipeline.core.compiled import compiled, inlined

Array = NDArray[Any]


@compiled
def normalize(x: Array, centred: bool, epsilon: float, scales: Array) -> None:
    """y = x / sqrt(var + eps), or (x - mean) / sqrt(var + eps) if `centred`, of each row; scales (B,): 1 / sqrt."""
    rows, size = x.shape
    number = x.dtype.type
    for r in range(rows):
        total, squares = number(0), number(0)
        for k in range(size):
            total += x[r, k]
        mean = total / number(size)
        for k in range(size):
            squares += (x[r, k] - mean) * (x[r, k] - mean)
        scale = number(1) / np.sqrt(squares / number(size) + epsilon)
        away = mean if centred else number(0)
        for k in range(size):
            x[r, k] = (x[r, k] - away) * scale
        scales[r] = scale


@compiled
def normalize_gradient(g: Array, y: Array, centred: bool, scales: Array) -> None:
    """g becomes the gradient by x: scale * (g - c (y - mean y)), or scale * (g - mean g - c y); c = mean of g y."""
    rows, size = g.shape
    number = g.dtype.type
    for r in range(rows):
        product, total = number(0), number(0)
        for k in range(size):
            product += g[r, k] * y[r, k]
        for k in range(size):
            total += g[r, k] if centred else y[r, k]
        product, mean, scale = product / number(size), total / number(size), scales[r]
        away = mean if centred else -product * mean
        for k in range(size):
            g[r, k] = scale * (g[r, k] - away - product * y[r, k])


@inlined
def _drawn(at: int, seed: int) -> int:
    """A random number of 32 bits for each place: Wellons' lowbias32 (2018), of the place and the seed."""
    x = uint32(uint32(at) ^ uint32(seed))
    x = uint32(uint32(x ^ (x >> uint32(16))) * uint32(0x7FEB352D))
    x = uint32(uint32(x ^ (x >> uint32(15))) * uint32(0x846CA68B))
    return uint32(x ^ (x >> uint32(16)))


@compiled
def rectify(x: Array, drop: float, seed: int) -> None:
    """relu(x), of which a share `drop` is set to 0 at random and the rest scaled up to make good for it; in place."""
    zero, scale, flat = x.dtype.type(0), x.dtype.type(1 / (1 - drop)), x.reshape(-1)
    if drop == 0:
        for i in range(len(flat)):
            flat[i] = flat[i] if flat[i] > zero else zero
        return
    least = uint32(drop * 2.0**32)
    for i in range(len(flat)):
        kept = flat[i] > zero and _drawn(i, seed) >= least
        flat[i] = scale * flat[i] if kept else zero


@compiled
def rectify_gradient(g: Array, h: Array, drop: float) -> None:
    """g becomes the gradient by y: what was dropped, like what was not active, is 0 in h."""
    zero, scale = g.dtype.type(0), g.dtype.type(1 / (1 - drop))
    flat, hidden = g.reshape(-1), h.reshape(-1)
    for i in range(len(flat)):
        flat[i] = scale * flat[i] if hidden[i] > zero else zero


@compiled
def outer(a: Array, b: Array, out: Array) -> None:
    """out (B, H) = a (B,) times b (H,)"""
    for r in range(len(a)):
        for k in range(len(b)):
            out[r, k] = a[r] * b[k]
