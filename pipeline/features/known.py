"""What rows may know of counts (see smoothing), held in memory: many keys are found by loops over arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.features.base import Inputs
from pipeline.features.displays import Chunk
from pipeline.features.smoothing import fold_of
from pipeline.features.vectors import Index

Longs = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Known:
    """A number for each of some ids, as a row of each fold may know it.

    values: (ids, folds of history), of target's rows (ids, 1); 0 where nothing is known.
    """

    ids: Index
    values: NDArray[np.floating[Any]]

    def of(self, ids: Longs, fold: Longs) -> NDArray[np.floating[Any]]:
        """The number of each row (N,), 0 where nothing is known; its id is -1 if it has none. fold: see `rows_fold`."""
        places = self.ids.places(ids)
        found = self.values[places, fold]
        return np.where(places < 0, found.dtype.type(0), found)


def rows_fold(inputs: Inputs, chunk: Chunk) -> Longs:
    """(N,): by which column of `values` each row of a chunk finds what it may know."""
    return fold_of(chunk.display_id, _folds(inputs))[chunk.display_of_row]


def _folds(inputs: Inputs) -> int:
    return inputs.smoothing.folds if inputs.part == "history" else 1


def read_known(inputs: Inputs, rows: pa.Table, ids: Longs, name: str) -> Known:
    """From the column `name` of a look-up (see `smoothing.key_of`) whose rows have these ids."""
    different, places = np.unique(ids, return_inverse=True)
    numbers = rows[name].to_numpy()
    values = np.zeros((max(1, len(different)), _folds(inputs)), numbers.dtype)
    values[places, rows["fold"].to_numpy() if "fold" in rows.column_names else 0] = numbers
    return Known(Index(different), values)


def pair(first: NDArray[np.integer[Any]], second: NDArray[np.integer[Any]], many: int) -> Longs:
    """One id for two places, the second below `many`; -1 where one of them is. All (n,)."""
    return np.where((first < 0) | (second < 0), -1, first * np.int64(many) + second)
