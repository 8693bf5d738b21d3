"""A network's table of which most embeddings are 0: weights of all ids, and only the embeddings that are left."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.compiled import compiled
from pipeline.core.simd import aligned

Array = NDArray[Any]
SQUARE = 8
#: The weight of an id, and which of the blocks is its embedding.
RECORD = np.dtype([("weight", np.float32), ("block", np.int32)])


class Table(NamedTuple):
    """records (N,). blocks: flat, of `block` numbers each; the first one, all 0, is that of every id without any."""

    records: Array
    blocks: Array
    block: int


def whole(size: int) -> int:
    """Filled up to whole squares."""
    return -(-size // SQUARE) * SQUARE


def short_table(rows: Array) -> Table:
    """Of the rows (N, 1 + E) of a network's table."""
    records = np.empty(len(rows), RECORD)
    blocks = aligned((1 + _index(rows, records), whole(rows.shape[1] - 1)))
    _put_blocks(rows, records, blocks)
    return Table(records, blocks.reshape(-1), blocks.shape[1])


@compiled
def _index(rows: Array, records: Array) -> int:
    """Fill the records of a network's table (N, 1 + E); returns how many embeddings are not all 0."""
    kept = 0
    for i in range(len(rows)):
        used = False
        for k in range(1, rows.shape[1]):
            used |= rows[i, k] != 0
        kept += used
        records[i].weight = rows[i, 0]
        records[i].block = kept if used else 0
    return kept


@compiled
def _put_blocks(rows: Array, records: Array, blocks: Array) -> None:
    """Copy the embeddings of a table that have a block to theirs (B, block)."""
    for i in range(len(rows)):
        if records[i].block:
            for k in range(1, rows.shape[1]):
                blocks[records[i].block, k - 1] = rows[i, k]
