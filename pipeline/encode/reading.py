"""Reads rows in order, chunk by chunk: of Parquet files, and of arrays that were written before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.progress import bar
from pipeline.schemas.encoded import open_array

CHUNK = 1 << 16  # rows that are held at once


def read_rows(path: Path, columns: Sequence[str], rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Some columns of a Parquet file, in batches, each with its position; proves that its rows are 0, 1, ... in order.

    Raises ValueError if they are not, or not as many as `rows`.
    """
    position = 0
    with pq.ParquetFile(path) as file, bar(rows, path.parent.name) as progress:
        for batch in file.iter_batches(CHUNK, columns=["row", *columns]):
            end = position + batch.num_rows
            if end > rows or not np.array_equal(to_numpy(batch["row"]), np.arange(position, end)):
                raise ValueError(f"{path}: rows came out of order at row {position}")
            yield position, batch
            progress.update(batch.num_rows)
            position = end
    if position != rows:
        raise ValueError(f"{path}: {position} rows where {rows} were expected")


def to_numpy(column: pa.Array) -> NDArray[Any]:
    """The values of a column; a null number becomes NaN."""
    return np.asarray(column.to_numpy(zero_copy_only=False))


def read_chunks(path: Path) -> Iterator[NDArray[Any]]:
    """The values of a .npy file."""
    array = open_array(path)
    for start in range(0, len(array), CHUNK):
        yield array[start : start + CHUNK]
