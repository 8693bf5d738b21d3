"""Page views, two billion rows in one pass: those of users with an event are kept, sorted by user; all are counted.

The raw file streams through a join with the users, who fit into memory. What is left of it, a small part, is sorted
(on disk, if it must be) and written in row groups of a fixed size; so a range of users is a range of the file, and
neither the number of threads nor the memory limit changes a byte. How often anybody viewed a document on a day is
counted while the rows pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.ingest.checks import IN_RANGE, TimeRange
from pipeline.ingest.report import parquet
from pipeline.ingest.staging import Build, load, write
from pipeline.ingest.writing import write_parquet
from pipeline.schemas.raw import DAY_MS
from pipeline.schemas.tables import TABLES

#: Pairs of document and day that may wait before they are added up, and that are added up at once.
PENDING = 1 << 22
RANGE = 1 << 20
_DAY_BITS = 16
_DAYS = pa.schema([("document_id", pa.uint32()), ("day", pa.int16()), ("views", pa.int64())])


def page_views(build: Build, wanted: str) -> None:
    """The tables page_views and document_views, both empty without a raw file; the file's name goes into the report."""
    columns, counts = TABLES["page_views"].items(), DayCounts()
    name, path = _file(build, wanted), build.path("page_views")
    if name is None:
        write(build, f"SELECT {', '.join(f'NULL::{kind} AS {column}' for column, kind in columns)} LIMIT 0", path)
    else:
        selected = ", ".join(column for column, _ in columns)
        times = TimeRange(build, name)
        dropping = build.config.timestamp_out_of_range == "drop"  # else there is nothing to leave out
        inside = f"WHERE {IN_RANGE} " if dropping else ""
        users = parquet(build.path("users"))
        query = f"SELECT {selected} FROM raw_rows JOIN {users} USING (uuid) {inside}ORDER BY {_ORDER}"
        load(build, name, path, query, watchers=(lambda batch: counts(times(batch)),))
        times.note()
    write_parquet(build.path("document_views"), _DAYS, counts.batches())
    rows, kept = build.report.files[name]["rows"] if name else 0, pq.read_metadata(path).num_rows
    if rows and not kept:
        build.report.warn(f"{name}: none of its {rows} rows is of a user who has an event; expected most users")
    build.report.page_views = {
        "read": name or "none",
        "wanted": wanted,
        "rows": rows,
        "rows_of_users_with_events": kept,
        "rows_left_out": rows - kept,
        **counts.times,
    }


def _order() -> str:
    first = ("user_id", "timestamp", "document_id")
    return ", ".join([*first, *(column for column in TABLES["page_views"] if column not in first)])


_ORDER = _order()


def _file(build: Build, wanted: str) -> str | None:
    """The raw file of page views to read; a warning if it is not the wanted one."""
    if wanted == "none":
        return None
    if wanted == "full" and "page_views" in build.inputs:
        return "page_views"
    found = "page_views_sample" if "page_views_sample" in build.inputs else None
    if found is None or wanted == "full":
        missing = "page_views" if wanted == "full" else "page_views_sample"
        outcome = "page_views_sample was read instead" if found else "the table page_views is empty"
        build.report.warn(f"data.page_views is {wanted}, but there is no {missing}: {outcome}")
    return found


class DayCounts:
    """Watches page views, whose times can be, go by and counts them by document and day.

    Memory grows with the pairs of document and day that occur, never with the rows: each batch is counted by itself,
    and what has been counted is added up, one range of pairs after the other, whenever half as much waits as is known.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._first, self._last = 0, 0
        #: In order: (document_id << 16) + day, ascending, and how often each occurred.
        self._known: list[tuple[Any, Any]] = [(np.empty(0, np.uint64), np.empty(0, np.int64))]
        self._waiting: list[tuple[Any, Any]] = []
        self._pairs = 0  # that wait

    def __call__(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        time = batch.column("timestamp").to_numpy()
        first, last = int(time.min()), int(time.max())
        self._first = min(first, self._first) if self.rows else first
        self._last = max(last, self._last) if self.rows else last
        self.rows += batch.num_rows
        day = (time // DAY_MS).astype(np.uint64)
        document = batch.column("document_id").to_numpy().astype(np.uint64)
        keys, counts = np.unique((document << np.uint64(_DAY_BITS)) | day, return_counts=True)
        self._waiting.append((keys, counts.astype(np.uint32)))
        self._pairs += len(keys)
        if self._pairs > max(PENDING, sum(len(keys) for keys, _ in self._known) // 2):
            self._add_up()

    @property
    def times(self) -> dict[str, int | None]:
        """The first and the last timestamp."""
        return {
            "first_timestamp": self._first if self.rows else None,
            "last_timestamp": self._last if self.rows else None,
        }

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The table document_views."""
        self._add_up()
        for keys, counts in self._known:
            document = (keys >> np.uint64(_DAY_BITS)).astype(np.uint32)
            day = (keys & np.uint64((1 << _DAY_BITS) - 1)).astype(np.int16)
            yield pa.RecordBatch.from_arrays([pa.array(document), pa.array(day), pa.array(counts)], schema=_DAYS)

    def _add_up(self) -> None:
        known, waiting = self._known, self._waiting
        self._known, self._waiting, self._pairs = [], [], 0
        borders = np.array([keys[0] for keys, _ in known[1:]], np.uint64)
        cuts = [np.concatenate([[0], np.searchsorted(keys, borders), [len(keys)]]) for keys, _ in waiting]
        known.reverse()
        while known:  # each range goes when it has been added up
            i, parts = len(cuts[0]) - 1 - len(known) if cuts else 0, [known.pop()]
            parts += [
                (w[0][cut[i] : cut[i + 1]], w[1][cut[i] : cut[i + 1]]) for w, cut in zip(waiting, cuts, strict=True)
            ]
            self._known += _ranges(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _ranges(keys: Any, counts: Any) -> list[tuple[Any, Any]]:
    """The sums of counts by key, cut into ranges of ascending keys."""
    order = np.argsort(keys, kind="stable")  # runs of ascending keys: fast
    keys, counts = keys[order], counts[order]
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, np.int64)
    keys, counts = keys[first], np.add.reduceat(counts, first) if len(first) else counts
    return [(keys[i : i + RANGE].copy(), counts[i : i + RANGE].copy()) for i in range(0, max(1, len(keys)), RANGE)]
