"""What stands between the linear layers of an MLP, row by row and in place: norm, ReLU and dropout; their gradients.

x, y, h, g: (size,), all of one floating type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import uint32
from numpy.typing import NDArray

from pipeline.core.compiled import compiled, inlined
from pipeline.core.simd import load, splat, store, total

Array = NDArray[Any]


@inlined
def normalize(x: Array, centred: bool, epsilon: float) -> float:
    """y = x / sqrt(var + eps), or (x - mean) / sqrt(var + eps) if `centred`; returns 1 / sqrt(var + eps)."""
    number = x.dtype.type
    added, squares = number(0), number(0)
    for k in range(len(x)):
        added += x[k]
    mean = added / number(len(x))
    for k in range(len(x)):
        squares += (x[k] - mean) * (x[k] - mean)
    scale = number(1) / np.sqrt(squares / number(len(x)) + number(epsilon))
    away = mean if centred else number(0)
    for k in range(len(x)):
        x[k] = (x[k] - away) * scale
    return scale


@inlined
def normalize_gradient(g: Array, y: Array, centred: bool, scale: float) -> None:
    """g becomes the gradient by x: scale * (g - c (y - mean y)), or scale * (g - mean g - c y); c = mean of g y."""
    number = g.dtype.type
    product, added = number(0), number(0)
    for k in range(len(g)):
        product += g[k] * y[k]
    for k in range(len(g)):
        added += g[k] if centred else y[k]
    product, mean = product / number(len(g)), added / number(len(g))
    away = mean if centred else -product * mean
    for k in range(len(g)):
        g[k] = scale * (g[k] - away - product * y[k])


@compiled
def normalize_rows(x: Array, lanes: Any, centred: bool, epsilon: float, scales: Array) -> None:
    """Of each row of x (n, size), by itself; scales (n,). lanes: as many as a row has numbers (see core.simd)."""
    flat, number = x.reshape(-1), x.dtype.type
    one, size, least = number(1), number(len(lanes)), number(epsilon)
    for r in range(len(x)):
        row = load(flat, r * len(lanes), lanes)
        away = row - splat(total(row) / size, lanes)
        scale = one / np.sqrt(total(away * away) / size + least)
        store(flat, r * len(lanes), (away if centred else row) * splat(scale, lanes))
        scales[r] = scale


@compiled
def normalize_rows_gradient(g: Array, y: Array, lanes: Any, centred: bool, scales: Array) -> None:
    """g, y: (n, size)."""
    of, normed, size = g.reshape(-1), y.reshape(-1), g.dtype.type(len(lanes))
    for r in range(len(g)):
        at = r * len(lanes)
        gradient, row = load(of, at, lanes), load(normed, at, lanes)
        product = splat(total(gradient * row) / size, lanes)
        mean = splat(total(gradient if centred else row) / size, lanes)
        around = gradient - mean if centred else gradient + product * mean
        store(of, at, splat(scales[r], lanes) * (around - product * row))


@inlined
def _drawn(place: int, seed: int) -> int:
    """A random number of 32 bits for each place: Wellons' lowbias32 (2018), of the place and the seed."""
    x = uint32(uint32(place) ^ uint32(seed))
    x = uint32(uint32(x ^ (x >> uint32(16))) * uint32(0x7FEB352D))
    x = uint32(uint32(x ^ (x >> uint32(15))) * uint32(0x846CA68B))
    return uint32(x ^ (x >> uint32(16)))


@inlined
def rectify(x: Array, drop: float, seed: int, place: int) -> None:
    """relu(x), of which a share `drop` is set to 0 at random and the rest scaled up to make good for it.

    place: of the row's first number among all that the seed draws for.
    """
    number = x.dtype.type
    zero, scale = number(0), number(1 / (1 - drop))
    if drop == 0:
        for k in range(len(x)):
            x[k] = x[k] if x[k] > zero else zero
    else:
        least = uint32(drop * 2.0**32)
        for k in range(len(x)):
            kept = x[k] > zero and _drawn(place + k, seed) >= least
            x[k] = scale * x[k] if kept else zero


@inlined
def rectify_gradient(g: Array, h: Array, drop: float) -> None:
    """g becomes the gradient by what was rectified: what was dropped, like what was not active, is 0 in h."""
    number = g.dtype.type
    zero, scale = number(0), number(1 / (1 - drop))
    for k in range(len(g)):
        g[k] = scale * g[k] if h[k] > zero else zero
