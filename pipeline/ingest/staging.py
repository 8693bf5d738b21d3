"""From a raw file to a Parquet file in the order of the file, on which the checks and the tables' SQL then work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.progress import log
from pipeline.ingest.config import IngestConfig
from pipeline.ingest.locate import explain
from pipeline.ingest.readers import RawInput, RawStream, Watcher
from pipeline.ingest.report import Report, parquet
from pipeline.ingest.rewriters import Rewriter
from pipeline.ingest.writing import write_parquet
from pipeline.schemas.tables import TABLES


@dataclass(frozen=True, slots=True)
class Build:
    """What every step needs: the session, the parameters, the raw files, the folder of tables and the report."""

    engine: DuckDBEngine
    config: IngestConfig
    inputs: dict[str, RawInput]
    folder: Path
    report: Report

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.parquet"


class KeyOrder:
    """Watches whether the rows of a file come in strictly ascending order of one or two id columns.

    If they do, nothing is there twice and nothing needs to be sorted, which spares the long steps for the real files.
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self.strict = True
        self.last_id = -1
        self._last_key = -1

    def __call__(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        key = np.from_dlpack(batch.column(self.names[0])).astype(np.uint64)  # `to_numpy` would load pandas
        self.last_id = int(key[-1])
        if len(self.names) > 1:
            key = (key << np.uint64(32)) | np.from_dlpack(batch.column(self.names[1])).astype(np.uint64)
        self.strict = self.strict and int(key[0]) > self._last_key and bool((key[1:] > key[:-1]).all())
        self._last_key = int(key[-1])


class ClickCount:
    """Watches whether each display has one click, in a file that holds the rows of a display one after the other."""

    def __init__(self) -> None:
        self._one = True
        self._display, self._clicks = -1, 1  # of the display that the next batch may go on with

    @property
    def is_one(self) -> bool:
        return self._one and self._clicks == 1

    def __call__(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        display = np.from_dlpack(batch.column("display_id"))
        starts = np.append(0, np.flatnonzero(display[1:] != display[:-1]) + 1)
        clicks = np.add.reduceat(np.from_dlpack(batch.column("clicked")), starts, dtype=np.int64)
        if display[0] == self._display:
            clicks[0] += self._clicks
        else:
            self._one = self.is_one
        self._one = self._one and bool((clicks[:-1] == 1).all())
        self._display, self._clicks = int(display[-1]), int(clicks[-1])


@dataclass(frozen=True, slots=True)
class Staged:
    """All rows of a raw file, in its order, in a Parquet file.

    The temporary table `dropped` holds the numbers of those rows that a policy leaves out; it belongs to the file that
    was staged last.
    """

    source: RawInput
    path: Path
    order: KeyOrder

    @property
    def has_distinct_ids(self) -> bool:
        """Whether it is quickly told that no key is there twice: ids, four bytes each, are sorted in memory."""
        if len(self.order.names) > 1:
            return False
        with pq.ParquetFile(self.path) as file:
            ids = np.sort(np.from_dlpack(file.read(columns=[*self.order.names]).combine_chunks().column(0).chunk(0)))
        return bool((ids[1:] != ids[:-1]).all())

    @property
    def all_rows(self) -> str:
        """All rows, as SQL, with their number `row`, from 0."""
        return f"(SELECT *, file_row_number AS row FROM {parquet(self.path, 'file_row_number = true')})"

    def rows(self, engine: DuckDBEngine) -> str:
        """The rows that were not dropped until now, as SQL, with their number `row` in the file."""
        if not engine.sql("FROM dropped LIMIT 1"):  # the join would cost as much as the rest of a short query
            return self.all_rows
        return f"(FROM {self.all_rows} ANTI JOIN dropped USING (row))"


def write(build: Build, query: str, path: Path) -> None:
    """Write the result of a query, which says the order of all its rows, so that the bytes are always the same."""
    result = build.engine.batches(query)
    write_parquet(path, result.schema, result)


def load(
    build: Build,
    name: str,
    path: Path,
    query: str = "",
    *,
    watchers: Sequence[Watcher] = (),
    rewriters: Sequence[Rewriter] = (),
) -> None:
    """Stream a raw file, as it is or through a query over `raw_rows`, into a Parquet file; note what went by.

    The query says the order of all its rows. Raises InputError, with the line, for a value that the file cannot hold,
    and for a damaged file.
    """
    log.info("reading %s", build.inputs[name].path)
    with RawStream(build.inputs[name], watchers, rewriters) as stream:
        try:
            if query:
                with raw_rows(build.engine, stream):
                    write(build, query, path)
            else:
                write_parquet(path, stream.schema, stream.batches())
        except Exception:
            if stream.error is None:
                raise
            raise explain(stream.source, stream.error) from None
    build.report.add_file(stream)


@contextmanager
def raw_rows(engine: DuckDBEngine, stream: RawStream) -> Iterator[None]:
    """The stream as the table `raw_rows`, on the left of joins, so that it passes by and is never held in memory."""
    engine.connection.register("raw_rows", stream.reader())
    engine.sql("SET disabled_optimizers = 'join_order,build_side_probe_side'")  # they would guess: it has no length
    try:
        yield
    finally:
        engine.sql("RESET disabled_optimizers")
        engine.connection.unregister("raw_rows")


def stage(
    build: Build, name: str, *keys: str, watchers: Sequence[Watcher] = (), rewriters: Sequence[Rewriter] = ()
) -> Staged:
    """All rows of a raw file, in its order, as an intermediate file; nothing is dropped from it yet."""
    staged = Staged(build.inputs[name], build.engine.scratch(f"{name}.parquet"), KeyOrder(*keys))
    load(build, name, staged.path, watchers=(staged.order, *watchers), rewriters=rewriters)
    build.engine.sql("CREATE OR REPLACE TEMP TABLE dropped (row BIGINT)")
    return staged


def finish(build: Build, staged: Staged, *, by: str = "row") -> bool:
    """Make the table of a staged file whose columns need no work: drop what is to be dropped, sort it if it must be.

    by: the order, as SQL; the names of columns only if they are those whose order was watched. Returns whether the
    table is the staged file as it was.
    """
    name = staged.source.spec.name
    ((dropped,),) = build.engine.sql("SELECT count(*) FROM dropped")
    if not dropped and (staged.order.strict or by == "row"):
        shutil.move(staged.path, build.path(name))
        return True
    write(build, f"SELECT {', '.join(TABLES[name])} FROM {staged.rows(build.engine)} ORDER BY {by}", build.path(name))
    staged.path.unlink()
    return False
