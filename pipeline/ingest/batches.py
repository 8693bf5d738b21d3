"""Record batches of a raw file: their types, and what their values may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.schemas.raw import RawColumn, RawFile

#: Texts that mean "unknown" in a column that may be unknown.
NULLS = ("", "\\N")
#: Smallest and largest value, where the type alone does not say it.
RANGES: dict[str, tuple[float, float]] = {
    "clicked": (0, 1),
    "platform": (1, 3),
    "traffic_source": (1, 3),
    "confidence_level": (0.0, 3.4028234663852886e38),
}

_ARROW = {
    "UINTEGER": pa.uint32(),
    "BIGINT": pa.int64(),
    "UTINYINT": pa.uint8(),
    "FLOAT": pa.float32(),
    "VARCHAR": pa.string(),
}
#: A column that the schema calls a text, but that is read as something handier.
_READ_AS = {"platform": pa.uint8(), "geo_location": pa.dictionary(pa.int32(), pa.string())}


class BadRowsError(Exception):
    """A batch holds a value that its column does not allow; the line is still to be found."""


def arrow_type(column: RawColumn) -> pa.DataType:
    return _READ_AS.get(column.name, _ARROW[column.sql])


def arrow_schema(spec: RawFile) -> pa.Schema:
    """The columns of a raw file with the types in which they are read."""
    return pa.schema([(column.name, arrow_type(column)) for column in spec.columns])


def array_of(kind: pa.DataType, numbers: NDArray[Any], known: NDArray[np.bool_] | None = None) -> pa.Array:
    """Numbers, whose type is this, as an array that is null where they are not known.

    Made of buffers: `pa.array` would load pandas, which takes as long as half a million events.
    """
    valid = None if known is None else pa.py_buffer(np.packbits(known, bitorder="little"))
    return pa.Array.from_buffers(kind, len(numbers), [valid, pa.py_buffer(numbers)])


def to_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Cast the columns of a Parquet file to the types in which a CSV is read; ArrowInvalid if a value does not fit."""
    return pa.RecordBatch.from_arrays([_cast(batch.column(f.name), f.type) for f in schema], schema=schema)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        column = column.cast(pa.string())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):  # "unknown", as a text file writes it
        unknown = pc.is_in(column, value_set=pa.array(NULLS, column.type))
        column = pc.if_else(unknown, pa.scalar(None, column.type), column)
    elif pa.types.is_floating(column.type):  # "unknown", as pandas writes it
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type).dictionary_encode()
    return column.cast(kind, safe=not pa.types.is_floating(kind))


def check_batch(batch: pa.RecordBatch, spec: RawFile) -> None:
    """BadRowsError if a column that must be known has a null, or a number is out of its range."""
    for column, values in zip(spec.columns, batch.columns, strict=True):
        if not column.optional and values.null_count:
            raise BadRowsError(f"{column.name} is empty in {values.null_count} rows")
        if column.name in RANGES and len(values):
            low, high = RANGES[column.name]
            bounds: dict[str, Any] = pc.min_max(values).as_py()
            if bounds["min"] is not None and not (bounds["min"] >= low and bounds["max"] <= high):
                raise BadRowsError(f"{column.name} must be {column.expected}")
            if pa.types.is_floating(values.type) and pc.any(pc.is_nan(values)).as_py():
                raise BadRowsError(f"{column.name} must be {column.expected}")
