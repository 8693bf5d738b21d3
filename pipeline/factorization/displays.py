"""Displays in memory as the kernels read them, and in which order: from memory-mapped arrays, buffer by buffer.

Every field is a list of (id, x) with logit terms x * w[id], as in libsvm's and libffm's files: a categorical field is
one id with x = 1, a multi-valued one has its weights, a numeric one is a single id with the standardised number. A
numeric field that has a bucketised twin is read as its twin.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core import epochs
from pipeline.core.computed import Computed
from pipeline.core.config import check
from pipeline.core.errors import ParameterError
from pipeline.core.progress import log
from pipeline.factorization import filling
from pipeline.schemas.encoded import Encoded, EncodedPart, Field

STEP = 256  # displays between two looks at the clock


class Side(NamedTuple):
    """What all ads of a display share, or what each has by itself: n items (displays, or rows) of some fields.

    Field f of item i has the ids and values from starts[i * fields + f] to the next start.
    starts: (n * fields + 1,) int32. ids: int32. values: float32, x. pairs: how many of the fields, the first ones, a
    factorization machine pairs with others.
    """

    starts: NDArray[np.int32]
    ids: NDArray[np.int32]
    values: NDArray[np.float32]
    fields: int
    pairs: int


class Displays(NamedTuple):
    """D displays with N rows: display d has the rows offsets[d]:offsets[d + 1].

    clicked: (N,) uint8, 0 if unknown. most: ads in a display at most. left_out: (D,) int8, see FitOptions.
    """

    offsets: NDArray[np.int64]
    clicked: NDArray[np.uint8]
    shared: Side
    own: Side
    most: int
    left_out: NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class _Column:
    """Where the ids of a field begin, in which region, into how many bits they are hashed, and what it is crossed with,
    if anything."""

    field: Field
    first: int
    region: int
    hash_bits: int | None = None
    other: Field | None = None

    def ids(self) -> NDArray[np.int32]:
        """The ids of all its values."""
        return filling.all_ids(max(1, self.field.size), self.first, self.hash_bits or 0)

    @property
    def per(self) -> Literal["display", "impression"]:
        both = self.field.per, self.other.per if self.other else "display"
        return "impression" if "impression" in both else "display"


class Cross(NamedTuple):
    """Two fields whose pairs of values are ids of their own."""

    first: Field
    second: Field


class Inputs:
    """The fields that a model reads: shared ones first; on either side those that are not paired last.

    table_size: how many ids there are. regions: (R + 1,) where those of each field, and of each cross, begin.
    hash_bits: fold those of all fields into a table of 2 ** hash_bits, which is one region then. crosses: fields of
    their own, each hashed into 2 ** cross_bits further ids, or fewer if these are twice its pairs. linear: groups and
    fields that are not to be paired.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        hash_bits: int | None = None,
        crosses: Sequence[Cross] = (),
        cross_bits: int = 0,
        linear: Collection[str] = (),
    ) -> None:
        check(bool(fields or crosses), "fields: a model must read at least one, found none")
        columns: list[_Column] = []
        size, borders = 0, [0]
        for field in fields:
            columns.append(_Column(field, size, 0 if hash_bits else len(columns), hash_bits))
            size += max(1, field.size)
            borders.append(size)
        if hash_bits:
            size = 1 << hash_bits
            borders = [0, size]
        for cross in crosses:
            pairs = max(1, cross.first.size) * max(1, cross.second.size)
            bits = min(cross_bits, pairs.bit_length() + 1)
            columns.append(_Column(cross.first, size, len(borders) - 1, bits, cross.second))
            size += 1 << bits
            borders.append(size)
        self.table_size, self.regions = size, np.array(borders)
        paired = [c for c in columns if not {c.field.group, c.field.name, c.field.twin}.intersection(linear)]
        check(bool(paired), f"linear: {list(linear)} leaves no field to pair")
        columns = [*paired, *(c for c in columns if c not in paired)]
        self.shared = [c for c in columns if c.per == "display"]
        self.own = [c for c in columns if c.per == "impression"]
        self.pairs = {per: sum(c.per == per for c in paired) for per in ("display", "impression")}


def readable(encoded: Encoded, fields: Sequence[Field], raw: Collection[str] = ()) -> list[Field]:
    """Fields as factorization models read them: numeric ones that have a bucketised twin give way to it, but for those
    of which `raw` holds the name."""
    twins = {f.twin: f for f in encoded.fields.values() if f.twin is not None and f.twin not in raw}
    chosen = {twins.get(f.name, f).name: twins.get(f.name, f) for f in fields}
    return list(chosen.values())


def named_crosses(encoded: Encoded, texts: Sequence[str]) -> list[Cross]:
    """What texts such as `viewed x ad_id` name, but for what `leaks: false` hides."""
    named = [_cross(encoded, text) for text in texts]
    return [cross for cross in named if cross is not None]


def _cross(encoded: Encoded, text: str) -> Cross | None:
    names = [name.strip() for name in text.split(" x ")]
    if len(names) != 2:
        raise ParameterError(f"crosses: expected two fields, such as `platform x ad_id`, found {text!r}")
    for name in names:
        if name not in encoded.fields and name not in encoded.hidden:
            raise ParameterError(f"crosses: {name} not encoded; there are {', '.join(sorted(encoded.fields))}")
    if encoded.hidden.intersection(names):
        log.info("crosses: %s is left out, since it knows of the future", text)
        return None
    first, second = readable(encoded, [encoded.fields[names[0]]]) + readable(encoded, [encoded.fields[names[1]]])
    return Cross(first, second)


Ranges = Sequence[tuple[int, int]]
#: offsets (n + 1,), codes and values of n lists; of single codes with value 1 neither offsets nor values.
_List = tuple[NDArray[np.int64] | None, NDArray[np.int32], NDArray[np.float32] | None]


class _Memory:
    """Arrays that are used again. The system hands memory out page by page, as it is first touched, and on a virtual
    machine so does its host: that took longer than to fill it."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}

    def empty(self, name: str, shape: tuple[int, ...], kind: type[Any]) -> NDArray[Any]:
        """An array, as np.empty; the last one of this name is lost."""
        size = math.prod(shape)
        if name not in self._arrays or len(self._arrays[name]) < size:
            self._arrays[name] = np.empty(size + size // 16, kind)  # buffers are much alike
        return self._arrays[name][:size].reshape(shape)


class Reader:
    """Reads a part's fields. left_out: (D,) int8, see FitOptions; None: no display is. What it yields is lost when the
    next is asked for."""

    def __init__(self, part: EncodedPart, inputs: Inputs, left_out: NDArray[np.int8] | None = None) -> None:
        self.part, self.inputs = part, inputs
        self.left_out = np.full(part.displays, -1, np.int8) if left_out is None else left_out
        self._labels = np.asarray(part.array("clicked")) if part.labelled else None

    def steps_an_epoch(self) -> int:
        """How many steps `shuffled` yields: the last one of each buffer may be short."""
        return epochs.steps(self.part.displays, STEP)

    def shuffled(self, seed: tuple[int, ...], skip: int = 0) -> Iterator[tuple[Displays, NDArray[np.int64]]]:
        """One epoch in an order that `seed` decides, without its first steps: displays, and which of them come next."""
        buffers = epochs.buffers(self.part.displays, STEP, seed, skip)
        for buffer, displays in zip(buffers, self._loaded([buffer.ranges for buffer in buffers]), strict=True):
            for order in buffer.steps(STEP):
                yield displays, order

    def in_order(self, displays: Sequence[slice] | None = None) -> Iterator[tuple[slice, Displays]]:
        """All displays, or those of some ranges, in their order, block by block, each with the rows that it holds, as
        they are counted from the first."""
        pieces = self.part.whole if displays is None else displays
        starts = [(start, piece.stop) for piece in pieces for start in range(piece.start, piece.stop, epochs.BLOCK)]
        at = 0
        for loaded in self._loaded([[(start, min(start + epochs.BLOCK, stop))] for start, stop in starts]):
            rows = len(loaded.clicked)
            yield slice(at, at + rows), loaded
            at += rows

    def _loaded(self, displays: Sequence[Ranges]) -> Iterator[Displays]:
        """Each in turn; the next one is loaded in the background meanwhile, into the memory of the one before."""
        memories = cycle((_Memory(), _Memory()))
        return epochs.ahead((partial(self._load, *job) for job in zip(displays, memories, strict=False)), 1)

    def _load(self, displays: Ranges, memory: _Memory) -> Displays:
        offsets = self.part.offsets
        rows = [(int(offsets[start]), int(offsets[stop])) for start, stop in displays]
        borders = _joined([offsets[start : stop + 1] for start, stop in displays])
        clicked = np.zeros(int(borders[-1]), np.uint8) if self._labels is None else _taken(self._labels, rows)
        items = _Items(self.part, displays, rows, borders, memory)
        shared = items.side(self.inputs.shared, "display", self.inputs.pairs["display"])
        own = items.side(self.inputs.own, "impression", self.inputs.pairs["impression"])
        return Displays(borders, clicked, shared, own, int(np.diff(borders).max()), _taken(self.left_out, displays))


@dataclass(frozen=True, slots=True)
class _Items:
    """Some displays of a part and their rows, of which fields are read. borders: (D + 1,) their rows, counted anew.
    memory: for what is read."""

    part: EncodedPart
    displays: Ranges
    rows: Ranges
    borders: NDArray[np.int64]
    memory: _Memory

    def side(self, columns: Sequence[_Column], per: Literal["display", "impression"], pairs: int) -> Side:
        """All columns of one side, item by item."""
        n, fields = len(self.borders) - 1 if per == "display" else int(self.borders[-1]), len(columns)

        def empty(name: str, *shape: int, kind: type[Any] = np.int32) -> NDArray[Any]:
            return self.memory.empty(f"{per} {name}", shape, kind)

        lists = [
            self._cross(column, f"{per} {j}") if column.other else self._list(column.field)
            for j, column in enumerate(columns)
        ]
        bits = np.array([0 if column.other else column.hash_bits or 0 for column in columns], np.int64)
        first = np.array([column.first for column in columns], np.int64)
        several = np.array([j for j, (offsets, _, _) in enumerate(lists) if offsets is not None], np.int64)
        lengths = empty("lengths", len(several), n)
        for row, j in zip(lengths, several, strict=True):
            row[:] = np.diff(lists[j][0])
        starts = empty("starts", n * fields + 1)
        filling.put_starts(fields, several, lengths, starts)
        ids, values = empty("ids", int(starts[-1])), empty("values", int(starts[-1]), kind=np.float32)
        single = np.setdiff1d(np.arange(fields), several)
        codes = empty("codes", len(single), n)
        for row, j in zip(codes, single, strict=True):
            row[:] = lists[j][1]
        filling.put_codes(starts, single, fields, first[single], bits[single], codes, ids, values)
        for j in several:
            filling.put_lists(starts, j, fields, first[j], bits[j], *lists[j], ids, values)
        return Side(starts, ids, values, fields, pairs)

    def _list(self, field: Field) -> _List:
        """A field's values by display or by row, as it is stored."""
        ranges = self.displays if field.per == "display" else self.rows
        if field.kind == "categorical":
            return None, _taken(self.part.field(field.name), ranges), None
        if field.kind == "numeric":
            numbers = (_taken(self.part.field(field.name), ranges) - np.float32(field.mean)) / np.float32(field.scale)
            known = ~np.isnan(numbers)
            return np.concatenate([[0], np.cumsum(known)]), np.zeros(known.sum(), np.int32), numbers[known]
        stored = self.part.field(field.name, "offsets")
        pieces = [stored[start : stop + 1] for start, stop in ranges]
        inner = [(int(piece[0]), int(piece[-1])) for piece in pieces]
        ids, weights = (_taken(self.part.field(field.name, kind), inner) for kind in ("ids", "weights"))
        return _joined(pieces), ids, weights

    def _cross(self, column: _Column, name: str) -> _List:
        """All pairs of the values of two fields, hashed; a pair's weight is the product of theirs. name: of its
        memory."""
        assert column.other is not None
        assert column.hash_bits is not None
        both: list[Any] = []
        for field in (column.field, column.other):
            offsets, codes, weights = self._list(field)
            if offsets is None:
                offsets, weights = np.arange(len(codes) + 1), np.ones(len(codes), np.float32)
            item = np.arange(len(offsets) - 1)
            if field.per == "display" and column.per == "impression":
                item = np.repeat(item, np.diff(self.borders))
            both.append((item, offsets, codes, weights))
        offsets = self.memory.empty(f"{name} offsets", (len(both[0][0]) + 1,), np.int64)
        filling.cross_offsets(*both[0][:2], *both[1][:2], offsets)
        codes = self.memory.empty(f"{name} codes", (int(offsets[-1]),), np.int32)
        weights = self.memory.empty(f"{name} weights", (int(offsets[-1]),), np.float32)
        salt = zlib.crc32(f"{column.field.name} x {column.other.name}".encode())
        filling.cross(*both, salt, column.hash_bits, codes, weights)
        return offsets, codes, weights


def _taken(array: NDArray[Any] | Computed, ranges: Ranges) -> NDArray[Any]:
    return np.concatenate([array[start:stop] for start, stop in ranges])


def _joined(offsets: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Offsets of ranges that are put one behind the other, from 0."""
    lengths = np.concatenate([np.diff(piece) for piece in offsets])
    return np.concatenate([[0], np.cumsum(lengths)])
