"""The relational engine: Ibis expressions in, Parquet out, on an embedded DuckDB that spills under a memory limit.

Row order is a contract between the stages, and DuckDB's joins do not keep it when they run on several threads. So
whatever is aligned by position is computed by ranges: a file that is sorted by a column is cut into ranges of that
column, each range is joined and sorted by itself, in memory, and appended. Memory does not grow with the file, windows
over a display are exact (a range holds whole displays), and the sort is short. Look-ups that every range needs are
computed once (`once`).

Same input, same bytes: ranges and row groups have fixed sizes, and expressions sum integers, since a parallel sum of
floats depends on its order.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.files import atomic_path
from pipeline.core.progress import bar
from pipeline.core.runtime import RuntimeConfig, make_temporary_folder

ROW_GROUP = 122_880
#: About how many rows a range has.
RANGE_ROWS = 16 * ROW_GROUP


class Engine:
    """A DuckDB session behind Ibis; use it as a context manager."""

    def __init__(self, runtime: RuntimeConfig) -> None:
        self.runtime = runtime
        self._scratch = make_temporary_folder(runtime)
        self._once: dict[Any, ir.Table] = {}
        self.ibis = ibis.duckdb.connect(
            threads=runtime.cores,
            memory_limit=runtime.memory_limit,
            temp_directory=str(self._scratch),
            preserve_insertion_order=True,
        )
        self.sql("SET enable_progress_bar = false")  # DuckDB's own would be printed on stdout
        self.sql("SET TimeZone = 'UTC'")

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ibis.disconnect()
        shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """DuckDB itself, for what Ibis does not speak: reading CSV, COPY, settings."""
        return self.ibis.con

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        """Run a statement of DuckDB's own SQL and fetch all its rows; for small results."""
        return self.connection.execute(text).fetchall()

    def scratch(self, name: str) -> Path:
        """A path for an intermediate file, which goes with the session."""
        return self._scratch / name

    def table(self, path: Path) -> ir.Table:
        """A Parquet file as a table."""
        return self.ibis.read_parquet(str(path))

    def tables(self, paths: Sequence[Path]) -> ir.Table:
        """Several Parquet files with the same columns as one table."""
        return self.ibis.read_parquet([str(path) for path in paths])

    def deal(self, expression: ir.Table, column: str, buckets: int) -> list[ir.Table]:
        """Deal rows into buckets by an integer column, in one pass, as files that go with the session.

        A bucket's rows come in no order; every bucket has all the columns, if no rows.
        """
        folder = self.scratch(ibis.util.gen_name("deal"))
        for bucket in range(buckets):  # a bucket without rows would have no file, and so no columns
            (folder / f"bucket={bucket}").mkdir(parents=True)
            self.write(expression.limit(0), folder / f"bucket={bucket}" / "empty.parquet")
        dealt = expression.mutate(bucket=expression[column].cast("int64") % buckets)
        self.connection.execute(
            f"COPY ({self.ibis.compile(dealt)}) TO '{folder}' "
            "(FORMAT parquet, PARTITION_BY (bucket), OVERWRITE_OR_IGNORE, COMPRESSION zstd)"
        )
        return [self.tables(sorted((folder / f"bucket={b}").glob("*.parquet"))) for b in range(buckets)]

    def once(self, expression: ir.Table) -> ir.Table:
        """Compute an expression at its first use and keep it for the session (in memory, or spilled)."""
        key = expression.op()
        if key not in self._once:
            self._once[key] = self.ibis.create_table(ibis.util.gen_name("once"), expression, temp=True)
        return self._once[key]

    def one(self, expression: ir.Table) -> dict[str, Any]:
        """The single row of a small result."""
        rows = self.ibis.to_pyarrow(expression).to_pylist()
        if len(rows) != 1:
            raise ValueError(f"expected one row, found {len(rows)}")
        return dict(rows[0])

    def write(self, expression: ir.Table, path: Path) -> None:
        """Write a small result, such as a look-up, into a Parquet file; it should have an `order_by`."""
        with atomic_path(path) as partial:
            pq.write_table(self.ibis.to_pyarrow(expression), partial, compression="zstd", row_group_size=ROW_GROUP)

    def copy(self, query: str, path: Path) -> None:
        """Write a query of DuckDB's own SQL into a Parquet file (zstd, fixed row groups).

        On several threads neither the order of a join nor, therefore, the bytes are the same from run to run.
        """
        with atomic_path(path) as partial:
            self.connection.execute(
                f"COPY ({query}) TO '{partial}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP})"
            )

    def ranges(self, path: Path, column: str, rows: int = RANGE_ROWS) -> Iterator[ir.Table]:
        """Cut a Parquet file, sorted by an integer column, into tables of about `rows` rows; equal values stay joined.

        The borders come from the statistics of the file's row groups, so nothing is read for them. At least one table
        comes, if only an empty one.
        """
        table = self.table(path)
        borders = _borders(path, column, rows)
        for low, high in zip([None, *borders], [*borders, None], strict=True):
            part = table if low is None else table.filter(table[column] >= low)
            yield part if high is None else part.filter(part[column] < high)

    def by_ranges(
        self, path: Path, column: str, function: Callable[[ir.Table], ir.Table], order_by: Sequence[str]
    ) -> Iterator[pa.Table]:
        """Apply `function` to each range of a file and sort its result; the ranges' results in order."""
        with bar(pq.read_metadata(path).num_rows, path.parent.name) as progress:
            for part in self.ranges(path, column):
                result = self.ibis.to_pyarrow(function(part).order_by(list(order_by)))
                yield result
                progress.update(result.num_rows)

    def write_by_ranges(
        self,
        source: Path,
        column: str,
        function: Callable[[ir.Table], ir.Table],
        path: Path,
        *,
        order_by: Sequence[str],
        numbered: bool = False,
    ) -> None:
        """Write what `by_ranges` gives into one Parquet file, while the next range is being computed.

        numbered: put a column `row` (int64, counts from 0) first.
        """
        with atomic_path(path) as partial, ThreadPoolExecutor(1) as background:
            writer, written, pending = None, 0, None
            for computed in self.by_ranges(source, column, function, order_by):
                numbers = pa.array(np.arange(written, written + computed.num_rows))
                result = computed.add_column(0, "row", numbers) if numbered else computed
                if writer is None:
                    writer = pq.ParquetWriter(partial, result.schema, compression="zstd")
                if pending is not None:
                    pending.result()
                pending = background.submit(writer.write_table, result, row_group_size=ROW_GROUP)
                written += result.num_rows
            if writer is not None and pending is not None:
                pending.result()
                writer.close()


def _borders(path: Path, column: str, rows: int) -> list[int]:
    """Values of a sorted column at which ranges of about `rows` rows begin (but for the first range)."""
    metadata = pq.read_metadata(path)
    index = metadata.schema.to_arrow_schema().get_field_index(column)
    borders: list[int] = []
    filled = 0
    for group in range(metadata.num_row_groups):
        if not metadata.row_group(group).num_rows:  # has no statistics
            continue
        low = metadata.row_group(group).column(index).statistics.min
        if filled >= rows and (not borders or low > borders[-1]):
            borders.append(low)
            filled = 0
        filled += metadata.row_group(group).num_rows
    return borders
