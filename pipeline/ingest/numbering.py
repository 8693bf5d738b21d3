"""Texts to dense numbers, in the order in which they first appear, while a raw file streams by.

pyarrow's and DuckDB's hash tables want all texts at once: more memory, and a second pass. So pyarrow finds the distinct
texts of a batch, and a table of our own knows those of the batches before: slots, each of which holds a number and a
part of its text's hash, and all texts, one behind the other. What numpy looks up at once waits for the memory but once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.engine import ROW_GROUP
from pipeline.ingest.batches import array_of
from pipeline.ingest.rewriters import Dirt, codes_of

_PRIME = np.uint64(0x9E3779B97F4A7C15)  # 2 ** 64 / the golden ratio, odd
_NUMBER = 0xFFFFFFFF
#: Of the slots at first, as a power of two: those that nobody touches cost nothing.
BITS = 20
#: Slots that are moved at once when the table grows.
MOVED = 1 << 20


class Numbering:
    """Rewrites a column of texts, none of which is null, into the column of their numbers."""

    def __init__(self, text: str, number: str) -> None:
        self.names = text, number
        self.count = 0  # texts that are known
        self._bits = BITS
        self._slots = np.zeros(1 << self._bits, np.int64)  # a hash of 31 bits << 32 | (number + 1), or 0: free
        self._letters = np.empty(1 << 12, np.uint8)  # of all texts
        self._ends = np.zeros(1 << 12, np.int64)  # where each text begins, and the last one ends

    @property
    def dirt(self) -> list[Dirt]:
        return []

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """The schema with the number in the place of the text."""
        return schema.set(schema.get_field_index(self.names[0]), pa.field(self.names[1], pa.uint32()))

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        at = batch.schema.get_field_index(self.names[0])
        coded = batch.column(at).dictionary_encode()
        numbers = self._numbers(coded.dictionary)[codes_of(coded)]
        return batch.set_column(at, pa.field(self.names[1], pa.uint32()), array_of(pa.uint32(), numbers))

    def table(self) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """All numbers and their texts, in the order of the numbers: the schema, and batches of it."""
        schema = pa.schema([(self.names[1], pa.uint32()), (self.names[0], pa.string())])
        return schema, (self._rows(first, schema) for first in range(0, self.count, ROW_GROUP))

    def _rows(self, first: int, schema: pa.Schema) -> pa.RecordBatch:
        ends = self._ends[first : min(first + ROW_GROUP, self.count) + 1]
        numbers = np.arange(first, first + len(ends) - 1, dtype=np.uint32)
        offsets, letters = (ends - ends[0]).astype(np.int32), self._letters[ends[0] : ends[-1]]
        texts = pa.StringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(letters))
        return pa.RecordBatch.from_arrays([array_of(pa.uint32(), numbers), texts], schema=schema)

    def _numbers(self, texts: pa.StringArray) -> NDArray[np.uint32]:
        """The numbers of distinct texts; those that are new become known."""
        if not len(texts):
            return np.empty(0, np.uint32)
        letters, ends = _letters_of(texts)
        self._make_room(len(texts), len(letters))
        hashes = hashes_of(letters, ends)
        numbers, at = self._find(texts, hashes)
        new = np.flatnonzero(numbers < 0)
        if len(new):
            numbers[new] = self.count + np.arange(len(new))
            self._insert(hashes[new] << 32 | (numbers[new] + 1), at[new])
            self._append(texts.take(array_of(pa.int64(), new)))
        return numbers.astype(np.uint32)

    def _find(self, texts: pa.StringArray, hashes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The numbers of the texts that are known, -1 for others; and the slot where each search came to its end."""
        known = pa.LargeStringArray.from_buffers(self.count, pa.py_buffer(self._ends), pa.py_buffer(self._letters))
        numbers, at = np.full(len(hashes), -1), hashes >> (31 - self._bits)
        left = np.arange(len(hashes))
        while len(left):
            slots = self._slots[at[left]]
            alike = (slots != 0) & (slots >> 32 == hashes[left])
            rows, likely = left[alike], (slots[alike] & _NUMBER) - 1
            their, its = known.take(array_of(pa.int64(), likely)), texts.take(array_of(pa.int64(), rows))
            same = np.from_dlpack(pc.equal(their, its.cast(their.type)).cast(pa.uint8())) == 1
            numbers[rows[same]] = likely[same]
            left = left[(slots != 0) & (numbers[left] < 0)]
            at[left] = (at[left] + 1) & (len(self._slots) - 1)
        return numbers, at

    def _insert(self, slots: NDArray[np.int64], at: NDArray[np.int64]) -> None:
        """Put slots, all different, into the first free places from these on."""
        while len(slots):
            free = self._slots[at] == 0
            self._slots[at[free]] = slots[free]  # of several at one place the last one stays
            left = self._slots[at] != slots
            slots, at = slots[left], (at[left] + 1) & (len(self._slots) - 1)

    def _append(self, texts: pa.StringArray) -> None:
        """To the texts that are known."""
        letters, ends = _letters_of(texts)
        used = self._ends[self.count]
        self._letters[used : used + len(letters)] = letters
        self._ends[self.count : self.count + len(ends)] = ends + used
        self.count += len(texts)

    def _make_room(self, texts: int, letters: int) -> None:
        """For as many texts more, however many of them are new; at least half of the slots stay free."""
        self._ends = _extended(self._ends, self.count + 1, texts)
        self._letters = _extended(self._letters, int(self._ends[self.count]), letters)
        while len(self._slots) < 2 * (self.count + texts):
            self._bits += 1
            old, self._slots = self._slots, np.zeros(1 << self._bits, np.int64)
            for first in range(0, len(old), MOVED):  # places go by the first bits of a hash: they keep their order
                slots = old[first : first + MOVED]
                slots = slots[slots != 0]
                self._insert(slots, slots >> (63 - self._bits))


def _letters_of(texts: pa.StringArray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All letters of an array that is no part of another; and where each text begins, and the last one ends."""
    _, offsets, letters = texts.buffers()
    ends = np.frombuffer(offsets, np.int32, len(texts) + 1).astype(np.int64)
    return np.frombuffer(letters, np.uint8, int(ends[-1])), ends


def _extended(array: NDArray[Any], used: int, more: int) -> NDArray[Any]:
    if used + more <= len(array):
        return array
    larger = np.empty(max(2 * len(array), used + more), array.dtype)
    larger[:used] = array[:used]
    return larger


def hashes_of(letters: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """31 bits of a hash of each text, into which 8 letters at a time are stirred."""
    starts, lengths = ends[:-1], np.diff(ends)
    hashes = lengths.astype(np.uint64)
    for length in np.flatnonzero(np.bincount(lengths)):  # of the competition's texts, all have the same
        rows = np.flatnonzero(lengths == length)
        padded = np.zeros((len(rows), -(-length // 8) * 8), np.uint8)
        padded[:, :length] = letters[starts[rows, None] + np.arange(length)]
        value = hashes[rows]
        for word in padded.view(np.uint64).T:
            value = (value ^ word) * _PRIME
            value ^= value >> np.uint64(32)
        hashes[rows] = value * _PRIME
    return (hashes >> np.uint64(33)).astype(np.int64)
