"""Displays with what their users viewed around them, read in order by chunks of a fixed number, for what is no
relational algebra, or a dear one; and the columns that are computed from them, written in the impressions' order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.engine import write_tables
from pipeline.core.progress import bar
from pipeline.schemas.features import Column
from pipeline.schemas.raw import DAY_MS

M = TypeVar("M")
Longs = NDArray[np.int64]

#: Displays that are held at once.
CHUNK = 1 << 16
_NEEDED = ("row", "display_id", "first", "document_id", "timestamp", "ad_document_id")


@dataclass(frozen=True, slots=True)
class Bags:
    """A list of ids with weights for each of D displays, or for each of N rows; unknown where it is empty.

    ids (uint32), weights (float32): (E,), those of list i at offsets[i] : offsets[i + 1].
    """

    offsets: Longs
    ids: NDArray[np.uint32]
    weights: NDArray[np.float32]


#: Name -> a number for each row (N,), NaN where unknown.
Numbers = dict[str, NDArray[np.float32]]
#: Name -> numbers, or lists.
Columns = Mapping[str, NDArray[np.float32] | Bags]


@dataclass(frozen=True, slots=True)
class Chunk:
    """D displays in a row, N ads. A document, page or day is -1 where none is known.

    display_id, page, day, and texts (null where unknown): (D,). row, ad_document, and more: (N,), those of display d at
    offsets[d] : offsets[d + 1], by ascending ad_id. more, texts: the columns that a Walk names. beside: columns of the
    file that is read in step, those of display d at beside_offsets[d] : beside_offsets[d + 1].
    """

    display_id: Longs
    page: Longs
    day: Longs
    offsets: Longs
    row: Longs
    ad_document: Longs
    more: dict[str, Longs]
    texts: dict[str, pa.ChunkedArray]
    beside_offsets: Longs
    beside: dict[str, Longs]

    @property
    def display_of_row(self) -> Longs:
        """(N,) in 0..D-1."""
        return np.repeat(np.arange(len(self.page)), np.diff(self.offsets))

    @property
    def display_of_beside(self) -> Longs:
        """The same for the rows of the other file."""
        return np.repeat(np.arange(len(self.page)), np.diff(self.beside_offsets))

    @property
    def after_offsets(self) -> Longs:
        """(D,): where among the rows of the other file, which are sorted by `delay`, those after each display begin."""
        before = np.bincount(self.display_of_beside[self.beside["delay"] < 0], minlength=len(self.page))
        return self.beside_offsets[:-1] + before


@dataclass(frozen=True, slots=True)
class Walk:
    """How a part's rows are described, chunk by chunk.

    columns: further ones of the impressions, whole numbers. texts: those of text, which all ads of a display share.
    beside: the file that is read in step with them, if it is not what the users of the displays viewed. size: displays
    that are held at once.
    """

    compute: Callable[[Chunk], Columns]
    columns: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    beside: Path | None = None
    size: int = CHUNK


def chunks(
    impressions: Path, beside: Path, more: tuple[str, ...] = (), texts: tuple[str, ...] = (), size: int = CHUNK
) -> Iterator[Chunk]:
    """Walk through impressions and, in step, through another file that is sorted by display_id, too."""
    names = list(dict.fromkeys([*_NEEDED, *more, *texts]))
    follow = _Follower(beside)
    rest = pq.read_schema(impressions).empty_table().select(names)
    for batch in pq.ParquetFile(impressions).iter_batches(CHUNK, columns=names):
        rest = pa.concat_tables([rest, pa.Table.from_batches([batch]).select(names)])
        starts = np.flatnonzero(rest["first"].to_numpy())
        while len(starts) > size:  # the display after the last one shows that the last one is whole
            yield _chunk(rest[: starts[size]], starts[:size], more, texts, follow)
            rest, starts = rest[starts[size] :], starts[size:] - starts[size]
    if len(rest):
        yield _chunk(rest, np.flatnonzero(rest["first"].to_numpy()), more, texts, follow)


def _chunk(rows: pa.Table, starts: Longs, more: tuple[str, ...], texts: tuple[str, ...], follow: _Follower) -> Chunk:
    display_id = whole_numbers(rows["display_id"])[starts]
    timestamp = whole_numbers(rows["timestamp"])[starts]
    beside_offsets, beside = follow(display_id)
    return Chunk(
        display_id=display_id,
        page=whole_numbers(rows["document_id"])[starts],
        day=np.where(timestamp < 0, -1, timestamp // DAY_MS),
        offsets=np.append(starts, len(rows)),
        row=whole_numbers(rows["row"]),
        ad_document=whole_numbers(rows["ad_document_id"]),
        more={name: whole_numbers(rows[name]) for name in more},
        texts={name: rows[name].take(starts) for name in texts},
        beside_offsets=beside_offsets,
        beside=beside,
    )


class _Follower:
    """Gives the rows of a file, sorted by display_id, for displays that come in ascending order."""

    def __init__(self, path: Path) -> None:
        file = pq.ParquetFile(path)
        self._batches, self._rest = file.iter_batches(CHUNK), file.schema_arrow.empty_table()

    def __call__(self, display_id: Longs) -> tuple[Longs, dict[str, Longs]]:
        """Offsets (D + 1,) and the rows' columns."""
        pieces, last = [self._rest], display_id[-1]
        while not len(pieces[-1]) or pieces[-1]["display_id"][-1].as_py() <= last:
            batch = next(self._batches, None)
            if batch is None:
                break
            pieces.append(pa.Table.from_batches([batch]))
        table = pa.concat_tables(pieces)
        found = whole_numbers(table["display_id"])
        end = int(np.searchsorted(found, last, side="right"))
        self._rest = table[end:]
        columns = {name: whole_numbers(table[name][:end]) for name in table.column_names if name != "display_id"}
        return np.append(np.searchsorted(found[:end], display_id), end), columns


def by_morning(chunk: Chunk, mornings: dict[int, M]) -> Iterator[tuple[M, NDArray[np.bool_]]]:
    """For each day in a chunk, what was known on its morning, and which displays (D,) it has; a day of which nothing
    was fitted has what the last one before it had, and a day before the first does not come."""
    for day in np.unique(chunk.day).tolist():
        known = [morning for morning in mornings if morning <= day]
        if known:
            yield mornings[max(known)], chunk.day == day


def whole_numbers(column: pa.ChunkedArray) -> Longs:
    """An Arrow column of whole numbers as int64, -1 where it is null."""
    return np.asarray(column.cast(pa.int64()).fill_null(-1).to_numpy())


def write_walk(
    walk: Walk, impressions: Path, views: Path, columns: tuple[Column, ...], path: Path, threads: int = 1
) -> None:
    """Write `row`, `first` and the columns that are computed for each chunk.

    threads: how many chunks are computed at once; each is computed by one thread, so their number changes nothing.
    """
    types = {column.name: ibis.dtype(column.dtype).to_pyarrow() for column in columns}
    total = pq.read_metadata(impressions).num_rows

    def described() -> Iterator[pa.Table]:
        if not total:
            yield pa.schema({"row": pa.int64(), "first": pa.bool_(), **types}).empty_table()
        with bar(total, path.parent.name.strip(".")) as shown:
            read = chunks(impressions, walk.beside or views, walk.columns, walk.texts, walk.size)
            for chunk, found in _computed(read, walk.compute, threads):
                first = np.zeros(len(chunk.row), bool)
                first[chunk.offsets[:-1]] = True
                arrays = {name: _array(found[name], kind, chunk) for name, kind in types.items()}
                yield pa.table({"row": chunk.row, "first": first, **arrays})
                shown.update(len(chunk.row))

    write_tables(described(), path)


def _array(values: NDArray[np.float32] | Bags, kind: pa.DataType, chunk: Chunk) -> pa.Array:
    """A column of a chunk (N,); a display's list stands in its first row, and all others are null."""
    if not isinstance(values, Bags):
        return pa.array(values, kind, from_pandas=True)
    lengths = np.diff(values.offsets)
    if len(lengths) < len(chunk.row):
        by_display, lengths = lengths, np.zeros(len(chunk.row), np.int64)
        lengths[chunk.offsets[:-1]] = by_display
    pairs = pa.StructArray.from_arrays([pa.array(values.ids), pa.array(values.weights)], fields=list(kind.value_type))
    offsets = np.append(np.int32(0), np.cumsum(lengths, dtype=np.int32))
    return pa.ListArray.from_arrays(pa.array(offsets), pairs, type=kind, mask=pa.array(lengths == 0))


def _computed(
    read: Iterator[Chunk], compute: Callable[[Chunk], Columns], threads: int
) -> Iterator[tuple[Chunk, Columns]]:
    """The chunks in order, each with its columns; as many as there are threads are computed ahead."""
    ahead: deque[tuple[Chunk, Future[Columns]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for chunk in read:
            ahead.append((chunk, pool.submit(compute, chunk)))
            if len(ahead) > threads:
                known, columns = ahead.popleft()
                yield known, columns.result()
        for known, columns in ahead:
            yield known, columns.result()


def gap_to_best_rival(score: NDArray[Any], offsets: Longs) -> NDArray[np.float32]:
    """(N,): each ad's score less the best known one of its rivals; 0 without one, NaN where the score is unknown."""
    known = np.where(np.isnan(score), -np.inf, score)
    display = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    best = np.maximum.reduceat(known, offsets[:-1])
    leaders = np.flatnonzero(known == best[display])
    leader = leaders[np.unique(display[leaders], return_index=True)[1]]  # the first of each display
    others = known.copy()
    others[leader] = -np.inf
    rival = best[display]
    rival[leader] = np.maximum.reduceat(others, offsets[:-1])
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(rival), score * 0, score - rival).astype(np.float32)
