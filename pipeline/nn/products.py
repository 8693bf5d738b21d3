"""Products of a tile of rows and a matrix, in vector registers: what the passes of an MLP on a CPU are made of.

A block of ROWS x COLUMNS sums stays in registers while it grows by one column of the left matrix times one row of the
right one after the other (Goto and van de Geijn 2008, without their packing of the left matrix, which is a tile in the
cache here). The matrix on the right stands in panels of COLUMNS columns, filled up with zeros. As fast as MKL at large
products, and, unlike a library, at small ones too, since nothing has to be handed over.

All arrays are flat and of one floating type; a matrix begins at a place of one and has a number of them from row to
row, its width. Nothing checks a place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.compiled import compiled, inlined
from pipeline.core.simd import load, load_splat, splat, store

Array = NDArray[Any]
ROWS, COLUMNS = 6, 16  # with registers of 8 numbers 12 of 16 hold sums
LANES = (0,) * COLUMNS


@inlined
def room(size: int, number: Any) -> Array:
    """Space for `size` numbers of the type of `number`, and a block more, that begins where a cache line does."""
    raw = np.empty(size + (1 + ROWS) * COLUMNS, number.dtype)
    first = -raw.ctypes.data % 64 // raw.itemsize
    return raw[first : len(raw) - COLUMNS + first]


@inlined
def padded(size: int) -> int:
    """The width of a matrix of that many columns in whole panels."""
    return (size + COLUMNS - 1) // COLUMNS * COLUMNS


@inlined
def _block(
    x: Array,
    at: int,
    across: int,
    along: int,
    w: Array,
    begin: int,
    skip: int,
    depth: int,
    y: Array,
    to: int,
    wide: int,
) -> None:
    """y[to + r * wide + c] += sum over k < depth of x[at + r * across + k * along] * w[begin + k * skip + c]"""
    y0, y1, y2 = load(y, to, LANES), load(y, to + wide, LANES), load(y, to + 2 * wide, LANES)
    y3, y4, y5 = load(y, to + 3 * wide, LANES), load(y, to + 4 * wide, LANES), load(y, to + 5 * wide, LANES)
    for k in range(depth):
        b, a = load(w, begin + k * skip, LANES), at + k * along
        y0 = y0 + load_splat(x, a, LANES) * b
        y1 = y1 + load_splat(x, a + across, LANES) * b
        y2 = y2 + load_splat(x, a + 2 * across, LANES) * b
        y3 = y3 + load_splat(x, a + 3 * across, LANES) * b
        y4 = y4 + load_splat(x, a + 4 * across, LANES) * b
        y5 = y5 + load_splat(x, a + 5 * across, LANES) * b
    store(y, to, y0)
    store(y, to + wide, y1)
    store(y, to + 2 * wide, y2)
    store(y, to + 3 * wide, y3)
    store(y, to + 4 * wide, y4)
    store(y, to + 5 * wide, y5)


@inlined
def _row(x: Array, at: int, along: int, w: Array, begin: int, skip: int, depth: int, y: Array, to: int) -> None:
    """The same for a single row."""
    total = load(y, to, LANES)
    for k in range(depth):
        total = total + load_splat(x, at + k * along, LANES) * load(w, begin + k * skip, LANES)
    store(y, to, total)


@compiled
def multiply(
    x: Array,
    at: int,
    width: int,
    rows: int,
    depth: int,
    panels: Array,
    first: int,
    deep: int,
    y: Array,
    to: int,
    wide: int,
) -> None:
    """Y += X P: X (rows, depth) at x[at], Y (rows, wide) at y[to], P (depth, wide) some rows of panels.

    Of the panels, all of which are `deep` rows long, those rows that begin at panels[first].
    """
    whole = rows - rows % ROWS
    for c in range(0, wide, COLUMNS):
        panel = first + c * deep
        for r in range(0, whole, ROWS):
            _block(x, at + r * width, width, 1, panels, panel, COLUMNS, depth, y, to + r * wide + c, wide)
        for r in range(whole, rows):
            _row(x, at + r * width, 1, panels, panel, COLUMNS, depth, y, to + r * wide + c)


@compiled
def add_outer(
    g: Array, at: int, width: int, outputs: int, x: Array, begin: int, wide: int, rows: int, sums: Array, to: int
) -> None:
    """S += G^T X: G (rows, outputs) at g[at], X (rows, wide) at x[begin], S (outputs, wide) at sums[to]."""
    whole = outputs - outputs % ROWS
    for c in range(0, wide, COLUMNS):
        for h in range(0, whole, ROWS):
            _block(g, at + h, 1, width, x, begin + c, wide, rows, sums, to + h * wide + c, wide)
        for h in range(whole, outputs):
            _row(g, at + h, width, x, begin + c, wide, rows, sums, to + h * wide + c)


@compiled
def pack(w: Array, at: int, outputs: int, inputs: int, turned: bool, panels: Array, to: int) -> int:
    """W (outputs, inputs) at w[at] as panels at panels[to], to multiply with from the left; or, `turned`, W^T.

    Returns where they end.
    """
    columns, depth = (outputs, inputs) if turned else (inputs, outputs)
    across, along = (inputs, 1) if turned else (1, inputs)
    for first in range(0, padded(columns), COLUMNS):
        count = min(COLUMNS, columns - first)
        for k in range(depth):
            start = at + first * across + k * along
            for c in range(count):
                panels[to + c] = w[start + c * across]
            for c in range(count, COLUMNS):
                panels[to + c] = 0
            to += COLUMNS
    return to


@compiled
def fill(values: Array, y: Array, to: int, wide: int, rows: int) -> None:
    """Each of some rows becomes the same values, filled up with zeros."""
    for r in range(rows):
        row = y[to + r * wide : to + (r + 1) * wide]
        for k in range(len(values)):
            row[k] = values[k]
        for k in range(len(values), wide):
            row[k] = 0


@compiled
def clear(y: Array, to: int, count: int) -> None:
    """Zeros; count: a multiple of COLUMNS."""
    zero = splat(y.dtype.type(0), LANES)
    for i in range(0, count, COLUMNS):
        store(y, to + i, zero)


@compiled
def move(x: Array, at: int, width: int, rows: int, columns: int, y: Array, to: int, wide: int) -> None:
    """Copy a matrix (rows, columns) to where it has another width; what lies behind the columns is left."""
    for r in range(rows):
        source = x[at + r * width : at + r * width + columns]
        row = y[to + r * wide : to + r * wide + columns]
        for k in range(columns):
            row[k] = source[k]


@compiled
def add_rows(x: Array, at: int, wide: int, rows: int, sums: Array, to: int) -> None:
    """sums[to : to + wide] += the sum of some rows; wide: a multiple of COLUMNS."""
    for c in range(0, wide, COLUMNS):
        total = load(sums, to + c, LANES)
        for r in range(rows):
            total = total + load(x, at + r * wide + c, LANES)
        store(sums, to + c, total)
