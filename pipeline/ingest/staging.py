"""From a raw file to a Parquet file in the order of the file, on which the checks and the tables' SQL then work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.progress import log
from pipeline.ingest.config import IngestConfig
from pipeline.ingest.locate import explain
from pipeline.ingest.readers import RawInput, RawStream
from pipeline.ingest.report import Report, parquet
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
        key = batch.column(self.names[0]).to_numpy().astype(np.uint64)
        self.last_id = int(key[-1])
        if len(self.names) > 1:
            key = (key << np.uint64(32)) | batch.column(self.names[1]).to_numpy().astype(np.uint64)
        self.strict = self.strict and int(key[0]) > self._last_key and bool((key[1:] > key[:-1]).all())
        self._last_key = int(key[-1])


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
    def all_rows(self) -> str:
        """All rows, as SQL, with their number `row`, from 0."""
        return f"(SELECT *, file_row_number AS row FROM {parquet(self.path, 'file_row_number = true')})"

    @property
    def rows(self) -> str:
        """The rows that were not dropped, as SQL, with their number `row` in the file."""
        return f"(FROM {self.all_rows} ANTI JOIN dropped USING (row))"


@contextmanager
def in_order(engine: DuckDBEngine) -> Iterator[None]:
    """While a table is written: one thread, and joins whose left side streams.

    Otherwise DuckDB gives up the order of the rows behind a join, and the bytes of a Parquet file vary from run to run.
    The raw text is parsed in a thread of its own, so that two are at work all the same.
    """
    engine.sql("SET threads = 1")
    engine.sql("SET disabled_optimizers = 'build_side_probe_side'")
    try:
        yield
    finally:
        engine.sql("RESET disabled_optimizers")
        engine.sql(f"SET threads = {engine.runtime.cores}")


def write(build: Build, query: str, name: str) -> None:
    """Write the table `name`, in the order of the query, always with the same bytes."""
    with in_order(build.engine):
        build.engine.copy(query, build.path(name))


def load(build: Build, name: str, path: Path, query: str = "FROM raw_rows", order: KeyOrder | None = None) -> None:
    """Stream a raw file through a query (over `raw_rows`) into a Parquet file; note in the report what went by.

    Raises InputError, with the line, for a value that the file cannot hold, and for a damaged file.
    """
    log.info("reading %s", build.inputs[name].path)
    connection = build.engine.connection
    with RawStream(build.inputs[name], (order,) if order else ()) as stream:
        connection.register("raw_rows", stream.reader())
        try:
            with in_order(build.engine):
                build.engine.copy(query, path)
        except duckdb.Error:
            if stream.error is None:
                raise
            raise explain(stream.source, stream.error) from None
        finally:
            connection.unregister("raw_rows")
    build.report.add_file(stream)


def stage(build: Build, name: str, *keys: str) -> Staged:
    """All rows of a raw file, in its order, as an intermediate file; nothing is dropped from it yet."""
    staged = Staged(build.inputs[name], build.engine.scratch(f"{name}.parquet"), KeyOrder(*keys))
    load(build, name, staged.path, order=staged.order)
    build.engine.sql("CREATE OR REPLACE TEMP TABLE dropped (row BIGINT)")
    return staged


def finish(build: Build, staged: Staged, *, by: str = "") -> None:
    """Make the table of a staged file whose columns need no work: drop what is to be dropped, sort it if it must be."""
    name = staged.source.spec.name
    ((dropped,),) = build.engine.sql("SELECT count(*) FROM dropped")
    if not dropped and (staged.order.strict or not by):
        shutil.move(staged.path, build.path(name))
        return
    write(build, f"SELECT {', '.join(TABLES[name])} FROM {staged.rows} ORDER BY {by or 'row'}", name)
    staged.path.unlink()
