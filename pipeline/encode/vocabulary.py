"""Which codes the values of a field have. Counted in history alone, by the engine; found by table or binary search.

A value that occurs often gets a code of its own; a rare one shares the code of its frequency, as the winners did. A
history row counts the *other* displays in which its value occurs: so the bucket "never seen" is trained by the values
that occur once, which is what target's unseen values will look like.
"""

from __future__ import annotations

from typing import Any

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.engine import Engine
from pipeline.encode.reading import to_numpy
from pipeline.schemas.encoded import code_type
from pipeline.schemas.features import Column
from pipeline.schemas.impressions import Part

UNKNOWN, NEVER_SEEN = 0, 1
#: Up to which id a table may reach, however few of its ids occur: 64 MB of codes.
_TABLE = 1 << 24


def build_vocabulary(engine: Engine, history: ir.Table, column: Column, min_count: int) -> pa.Table:
    """value, count (displays or rows of history), and the code of a history row and of a target row with that value.

    The most frequent values come first, ties by value.
    """
    counts = engine.to_arrow(_counts(history, column))
    counts = counts.take(pc.sort_indices(counts, [("count", "descending"), ("value", "ascending")]))
    count = counts["count"].to_numpy()
    codes = {
        "code_history": _bucket(count - 1, min_count),  # the row itself is one of them
        "code_target": _bucket(count, min_count),
    }
    frequent = int(np.count_nonzero(count > min_count))
    for name, code in codes.items():
        code[:frequent] = reserved(min_count) + np.arange(frequent)
        counts = counts.append_column(name, pa.array(code))
    return counts.combine_chunks()


def _counts(history: ir.Table, column: Column) -> ir.Table:
    if column.per == "display":
        history = history.filter(history.first)
    if column.kind == "multi":  # as a column: DuckDB is many times slower where a table is unnested
        lists = history.select(value=history[column.name].unnest())
        values = lists.select(value=lists.value.id)
    else:
        values = history.select(value=history[column.name])
    values = values.filter(values.value.notnull())
    return values.group_by("value").aggregate(count=values.count())


def reserved(min_count: int) -> int:
    """Codes before the first frequent value: "unknown", and the buckets of the frequencies below min_count."""
    return 2 + (min_count - 1).bit_length()


def _bucket(count: NDArray[np.int64], min_count: int) -> NDArray[np.int32]:
    """The code of a rare value: one bucket each for 0, 1, 2-3, 4-7, ... occurrences."""
    codes = np.full(len(count), NEVER_SEEN, np.int32)
    for power in range((min_count - 1).bit_length()):
        codes += np.minimum(count, min_count - 1) >= 2**power
    return codes


def size_of(vocabulary: pa.Table, min_count: int) -> int:
    """The number of codes of a field."""
    return reserved(min_count) + int(np.count_nonzero(vocabulary["count"].to_numpy() > min_count))


class Codes:
    """Finds the codes of values, in the smallest type that holds a field's `size` codes.

    Ids are looked up in a table over all ids up to the largest, and by binary search where few of those occur.
    """

    def __init__(self, vocabulary: pa.Table, part: Part, size: int) -> None:
        self.dtype = code_type(size)
        codes = vocabulary[f"code_{part}"].to_numpy().astype(self.dtype)
        values = vocabulary["value"].combine_chunks()
        self._texts = dict(zip(values.to_pylist(), codes.tolist(), strict=True)) if _is_text(values.type) else None
        if self._texts is None:
            ids = to_numpy(values)
            self._sorted: NDArray[Any] | None = None
            last = int(ids.max()) if len(ids) else -1
            if last < max(_TABLE, 4 * len(ids)):
                self._codes = np.full(last + 2, NEVER_SEEN, self.dtype)  # the last is that of all larger ids
                self._codes[ids] = codes
            else:
                order = np.argsort(ids)
                self._sorted, self._codes = ids[order], codes[order]

    def of_column(self, column: pa.Array) -> NDArray[Any]:
        """The codes of a categorical column. (n,) -> (n,)"""
        if self._texts is None:
            codes = self.of_ids(to_numpy(column.fill_null(0)))
        else:
            texts = column.dictionary_encode()
            found = [self._texts.get(text, NEVER_SEEN) for text in texts.dictionary.to_pylist()]
            codes = np.array([*found, UNKNOWN], self.dtype)[to_numpy(texts.indices.fill_null(len(found)))]
        if column.null_count:
            codes[to_numpy(column.is_null())] = UNKNOWN
        return codes

    def of_ids(self, ids: NDArray[Any]) -> NDArray[Any]:
        """The codes of known ids. (n,) -> (n,)"""
        if self._sorted is None:
            return self._codes.take(ids, mode="clip")
        at = np.minimum(np.searchsorted(self._sorted, ids), len(self._sorted) - 1)
        return np.where(self._sorted[at] == ids, self._codes[at], self.dtype.type(NEVER_SEEN))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
