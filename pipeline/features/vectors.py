"""What documents are about, as sparse vectors in memory, and loops that add up those that a user read.

Weights are whole numbers, so no sum depends on its order.
"""

from __future__ import annotations

from dataclasses import dataclass

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.compiled import compiled
from pipeline.core.engine import Engine

Longs = NDArray[np.int64]
Ints = NDArray[np.int32]


class Index:
    """The places of some ids (M,), ascending and unlike each other, by a table of where ids with the same high bits
    begin; it has about as many entries as there are ids, so that few remain to be compared."""

    def __init__(self, ids: Longs) -> None:
        self._ids = ids
        highest = int(ids[-1]) if len(ids) else 0
        self._shift = max(0, highest.bit_length() - len(ids).bit_length())
        self._starts = np.searchsorted(ids, np.arange((highest >> self._shift) + 2) << self._shift)

    def __len__(self) -> int:
        return len(self._ids)

    def places(self, ids: Longs) -> Ints:
        """Where each of some ids (n,) stands, -1 if it is none of them."""
        found = np.empty(len(ids), np.int32)
        _find(self._ids, self._starts, self._shift, ids, found)
        return found


def read_index(engine: Engine, column: ir.Column) -> Index:
    """Of the ids in a column of whole numbers."""
    ids = column.name("id").as_table()
    rows = engine.to_arrow(ids.filter(ids.id.notnull()).distinct().order_by("id"))
    return Index(rows["id"].to_numpy().astype(np.int64))


@dataclass(frozen=True, slots=True)
class Names:
    """The places of some texts, as those of ids in an Index."""

    texts: pa.Array

    def places(self, texts: pa.ChunkedArray) -> Ints:
        """Where each of some texts (n,) stands, -1 if it is none of them."""
        return np.asarray(pc.index_in(texts, self.texts).fill_null(-1).to_numpy())


@dataclass(frozen=True, slots=True)
class Attribute:
    """What each document is known by: its publisher, its main topic, ... ids: (M + 1,), as the documents, then -1."""

    documents: Index
    ids: Longs

    def of(self, documents: Longs) -> Longs:
        """(n,), -1 where it is unknown."""
        return self.ids[self.documents.places(documents)]


def read_attribute(engine: Engine, table: ir.Table, name: str) -> Attribute:
    """From document_id and the column `name`, both known and no document twice."""
    rows = engine.to_arrow(table.select("document_id", name).order_by("document_id"))
    documents, ids = (rows[column].to_numpy().astype(np.int64) for column in ("document_id", name))
    return Attribute(Index(documents), np.append(ids, -1))


@dataclass(frozen=True, slots=True)
class Read:
    """What belongs to each of D displays: places of documents at begins[d] : ends[d], and how often each counts."""

    begins: Longs
    ends: Longs
    places: Ints
    times: Ints | None = None


@dataclass(frozen=True, slots=True)
class Sums:
    """For each of D displays the ids that it has, ascending, and their weights: those of display d at offsets[d] :
    offsets[d + 1]."""

    offsets: Longs
    ids: NDArray[np.uint32]
    weights: Longs


@dataclass(frozen=True, slots=True)
class Vectors:
    """M documents, each with a weight for some of K ids.

    ids: (K,), ascending. offsets: (M + 1,). keys (places in ids), weights: (E,), those of the document at place m at
    offsets[m] : offsets[m + 1].
    """

    documents: Index
    ids: Longs
    offsets: Longs
    keys: Ints
    weights: Longs

    def sums(self, read: Read) -> Sums:
        """What was read in each display, added up by id."""
        known = read.places[read.places >= 0]
        times = np.ones(len(read.places), np.int32) if read.times is None else read.times
        most = int((self.offsets[known + 1] - self.offsets[known]).sum())  # what is not filled takes no memory
        keys, sums = np.empty(most, np.int32), np.empty(most, np.int64)
        offsets, held = np.zeros(len(read.begins) + 1, np.int64), np.full(len(self.ids), -1)
        vectors = self.offsets, self.keys, self.weights
        _add_up(read.begins, read.ends, read.places, times, *vectors, held, offsets, keys, sums)
        return Sums(offsets, self.ids[keys[: offsets[-1]]].astype(np.uint32), sums[: offsets[-1]].copy())

    def cosines(self, read: Read, offsets: Longs, places: Ints) -> NDArray[np.float32]:
        """(N,): of the sum of what was read in a display and each document at `places`, those of display d at
        offsets[d] : offsets[d + 1]; NaN if one of both is about nothing."""
        found = np.empty(len(places), np.float32)
        held = np.zeros(len(self.ids), np.int64)
        vectors = self.offsets, self.keys, self.weights
        _compare(read.begins, read.ends, read.places, *vectors, held, offsets, places, found)
        return found


def read_vectors(engine: Engine, table: ir.Table) -> Vectors:
    """From document_id, id and weight (whole numbers), in any order; rows in which one is unknown are left out."""
    table = table.filter(table.document_id.notnull() & table.id.notnull() & table.weight.notnull())
    rows = engine.to_arrow(table.select("document_id", "id", "weight").order_by(["document_id", "id", "weight"]))
    documents, first = np.unique(rows["document_id"].to_numpy(), return_index=True)
    ids, keys = np.unique(rows["id"].to_numpy(), return_inverse=True)
    offsets = np.append(first, rows.num_rows).astype(np.int64)
    weights = rows["weight"].to_numpy().astype(np.int64)
    return Vectors(Index(documents.astype(np.int64)), ids.astype(np.int64), offsets, keys.astype(np.int32), weights)


@compiled
def _find(ids: Longs, starts: Longs, shift: int, wanted: Longs, places: Ints) -> None:
    """wanted, places: (n,)."""
    for i in range(len(wanted)):
        one, high = wanted[i], wanted[i] >> shift
        places[i] = -1
        if high < 0 or high + 1 >= len(starts):
            continue
        low, end = starts[high], starts[high + 1]
        while low < end:
            middle = (low + end) // 2
            if ids[middle] < one:
                low = middle + 1
            else:
                end = middle
        if low < starts[high + 1] and ids[low] == one:
            places[i] = low


@compiled
def _add_up(
    begins: Longs,
    ends: Longs,
    places: Ints,
    times: Ints,
    offsets: Longs,
    keys: Ints,
    weights: Longs,
    held: Longs,
    bag_offsets: Longs,
    bag_keys: Ints,
    bag_sums: Longs,
) -> None:
    """held: (K,), the sums of a display, -1 without any, as before and after it."""
    end = 0
    for d in range(len(begins)):
        begin = end
        for r in range(begins[d], ends[d]):
            if places[r] < 0:
                continue
            for e in range(offsets[places[r]], offsets[places[r] + 1]):
                if held[keys[e]] < 0:
                    held[keys[e]] = 0
                    bag_keys[end] = keys[e]
                    end += 1
                held[keys[e]] += times[r] * weights[e]
        bag_keys[begin:end].sort()
        for at in range(begin, end):
            bag_sums[at] = held[bag_keys[at]]
            held[bag_keys[at]] = -1
        bag_offsets[d + 1] = end


@compiled
def _compare(
    begins: Longs,
    ends: Longs,
    places: Ints,
    offsets: Longs,
    keys: Ints,
    weights: Longs,
    held: Longs,
    row_offsets: Longs,
    row_places: Ints,
    cosines: NDArray[np.float32],
) -> None:
    """held: (K,), the sums of a display, 0 before and after it."""
    for d in range(len(begins)):
        square = 0
        for r in range(begins[d], ends[d]):
            if places[r] >= 0:
                for e in range(offsets[places[r]], offsets[places[r] + 1]):
                    square += weights[e] * (2 * held[keys[e]] + weights[e])
                    held[keys[e]] += weights[e]
        for n in range(row_offsets[d], row_offsets[d + 1]):
            own = product = 0
            if row_places[n] >= 0:
                for e in range(offsets[row_places[n]], offsets[row_places[n] + 1]):
                    own += weights[e] * weights[e]
                    product += weights[e] * held[keys[e]]
            length = np.sqrt(np.float64(square) * np.float64(own))
            cosines[n] = np.float64(product) / length if length > 0 else np.nan
        for r in range(begins[d], ends[d]):
            if places[r] >= 0:
                for e in range(offsets[places[r]], offsets[places[r] + 1]):
                    held[keys[e]] = 0
