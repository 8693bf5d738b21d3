"""Record batches of a raw file: their types, what their values may be, and the split of geo_location."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
#: A geo_location that says nothing.
NOWHERE = "--"

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


class Geography:
    """Splits geo_location (`US>CA>807`) into country, state and dma, and counts what cannot be split.

    Works on the distinct values of a batch, of which there are few, and leaves codes of texts, as it gets them. `EU` is
    kept as a country, since it says something; `NA` is Namibia.
    """

    PARTS = ("country", "state", "dma")

    def __init__(self) -> None:
        self.nowhere = 0
        self.odd = 0
        self.examples: list[str] = []

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """The schema after the split."""
        at = schema.get_field_index("geo_location")
        fields, kind = list(schema), pa.dictionary(pa.int32(), pa.string())
        return pa.schema([*fields[:at], *[pa.field(name, kind) for name in self.PARTS], *fields[at + 1 :]])

    def split(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Replace geo_location by country, state and dma, and count the forms that say nothing."""
        at = batch.schema.get_field_index("geo_location")
        values: list[str] = batch.column(at).dictionary.to_pylist()
        codes = batch.column(at).indices
        places = [value.split(">") for value in values]
        self._count(values, places, codes)
        parts = [_recode([_part(place, k) for place in places], codes) for k in range(len(self.PARTS))]
        columns = [*batch.columns[:at], *parts, *batch.columns[at + 1 :]]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema(batch.schema))

    def _count(self, values: list[str], places: list[list[str]], codes: pa.Array) -> None:
        nowhere = [k for k, place in enumerate(places) if place[0] in ("", NOWHERE)]
        odd = [k for k, place in enumerate(places) if len(place) > len(self.PARTS)]
        if not nowhere and not odd:
            return
        counts = np.bincount(np.from_dlpack(codes.drop_null()), minlength=len(values))
        self.nowhere += int(counts[nowhere].sum())
        self.odd += int(counts[odd].sum())
        self.examples = (self.examples + [values[k] for k in odd if values[k] not in self.examples])[:3]


def _part(place: list[str], k: int) -> str | None:
    return place[k] if k < len(place) and place[k] not in ("", NOWHERE) else None


def _recode(texts: list[str | None], codes: pa.Array) -> pa.DictionaryArray:
    """The texts at these codes, as a dictionary that holds each text once.

    Arrays are made of buffers: `pa.array` would load pandas, which takes as long as half a million events.
    """
    known = list(dict.fromkeys(text for text in texts if text is not None))
    place = {text: i for i, text in enumerate(known)}
    there = np.packbits([text is not None for text in texts], bitorder="little")
    places = np.array([0 if text is None else place[text] for text in texts], np.int32)
    new = pa.Array.from_buffers(pa.int32(), len(texts), [pa.py_buffer(there), pa.py_buffer(places)])
    encoded = [text.encode() for text in known]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    texts_once = pa.StringArray.from_buffers(len(known), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))
    return pa.DictionaryArray.from_arrays(pc.take(new, codes), texts_once)
