"""Record batches to Parquet: row groups of a fixed size, so that the same rows are the same bytes, however they came.

pyarrow compresses while the next batches are computed. The encodings suit the tables: times, users and the id that a
table is of, its first column, are stored as differences, texts that are there once as they are, all else by a
dictionary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.engine import ROW_GROUP
from pipeline.core.files import atomic_path

_ENCODINGS = {
    "user_id": "DELTA_BINARY_PACKED",
    "timestamp": "DELTA_BINARY_PACKED",
    "uuid": "DELTA_LENGTH_BYTE_ARRAY",
}


def write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write batches of this schema, whole or not at all."""
    names = schema.names
    encodings = {names[0]: "DELTA_BINARY_PACKED"} | {name: _ENCODINGS[name] for name in names if name in _ENCODINGS}
    options = {
        "compression": "zstd",
        "use_dictionary": [name for name in names if name not in encodings],
        "column_encoding": encodings,
        "write_statistics": [*encodings],  # ranges of other columns tell nothing
    }
    with (
        atomic_path(path) as partial,
        pq.ParquetWriter(partial, schema, store_schema=False, **options) as writer,
        ThreadPoolExecutor(1) as background,
    ):
        pending: Future[None] | None = None
        for group in _row_groups(schema, batches):
            if pending is not None:
                pending.result()
            pending = background.submit(_write, writer, group)
        if pending is not None:
            pending.result()


def _write(writer: pq.ParquetWriter, group: pa.Table) -> None:
    writer.write_table(group.unify_dictionaries().combine_chunks(), row_group_size=ROW_GROUP)


def _row_groups(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows in tables of ROW_GROUP rows, the last one shorter; none for no rows."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        if rows < ROW_GROUP:
            continue
        table = pa.Table.from_batches(held, schema)
        whole = rows - rows % ROW_GROUP
        for start in range(0, whole, ROW_GROUP):
            yield table.slice(start, ROW_GROUP)
        held, rows = table.slice(whole).to_batches(), rows - whole
    if rows:
        yield pa.Table.from_batches(held, schema)
