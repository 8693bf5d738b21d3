"""The relational engine: Ibis expressions in, Parquet out. `open_engine` gives the one that the parameters name.

Row order is a contract between the stages, and no engine's joins keep it when they run on several threads. So whatever
is aligned by position is computed by ranges of a sorted column: each range is joined and sorted by itself, and
appended. A range holds whole values of its column, so that windows over a display are exact. Look-ups that every range
needs are computed once (`once`).

Same input, same bytes: row groups have a fixed size, wherever ranges end, and expressions sum integers, since a
parallel sum of floats depends on its order.
"""

from __future__ import annotations

import gc
import shutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import UserError
from pipeline.core.files import atomic_path
from pipeline.core.progress import bar
from pipeline.core.runtime import RuntimeConfig, make_temporary_folder

ROW_GROUP = 122_880
#: How many new objects Python's search for cycles waits for. By its default of 700 it takes a tenth of the time in
#: which Ibis, which makes many small objects and few cycles, builds and compiles an expression.
_COLLECT_AFTER = 100_000


class Engine(ABC):
    """A session of a relational engine; use it as a context manager. Feature groups see no more of it than tables."""

    def __init__(self, runtime: RuntimeConfig) -> None:
        self.runtime = runtime
        self._scratch = make_temporary_folder(runtime)
        self._once: dict[Any, ir.Table] = {}
        self._collect_after = gc.get_threshold()

    def __enter__(self) -> Self:
        gc.set_threshold(_COLLECT_AFTER, *self._collect_after[1:])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gc.set_threshold(*self._collect_after)
        self.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    @abstractmethod
    def close(self) -> None:
        """End the session."""

    def scratch(self, name: str) -> Path:
        """A path for an intermediate file, which goes with the session."""
        return self._scratch / name

    # --- reading ------------------------------------------------------------------------------------------------

    def table(self, path: Path) -> ir.Table:
        """A Parquet file as a table."""
        return self.tables([path])

    @abstractmethod
    def tables(self, paths: Sequence[Path]) -> ir.Table:
        """Several Parquet files with the same columns as one table."""

    @abstractmethod
    def ranges(self, path: Path, column: str) -> Iterator[ir.Table]:
        """Cut a Parquet file, sorted by an integer column, into tables as large as the engine likes best.

        Equal values stay together. At least one table comes, if only an empty one.
        """

    # --- computing ----------------------------------------------------------------------------------------------

    def once(self, expression: ir.Table) -> ir.Table:
        """Compute an expression at its first use and keep it for the session (in memory, or spilled)."""
        key = expression.op()
        if key not in self._once:
            self._once[key] = self._keep(expression)
        return self._once[key]

    @abstractmethod
    def _keep(self, expression: ir.Table) -> ir.Table:
        """Compute an expression now; the table that holds its rows until the session ends."""

    @abstractmethod
    def to_arrow(self, expression: ir.Table) -> pa.Table:
        """The rows of a result that fits into memory, in the expression's own types."""

    def stream(self, expression: ir.Table) -> Iterator[pa.Table]:
        """The rows of a result of any size, piece by piece, in the order of its `order_by`; at least one piece."""
        yield self.to_arrow(expression)

    def one(self, expression: ir.Table) -> dict[str, Any]:
        """The single row of a small result."""
        rows = self.to_arrow(expression).to_pylist()
        if len(rows) != 1:
            raise ValueError(f"expected one row, found {len(rows)}")
        return dict(rows[0])

    def by_ranges(
        self,
        path: Path,
        column: str,
        function: Callable[[ir.Table], ir.Table],
        order_by: Sequence[str],
    ) -> Iterator[pa.Table]:
        """Apply `function` to each range of a file and sort its result; the ranges' results in order."""
        with bar(pq.read_metadata(path).num_rows, path.parent.name) as progress:
            for part in self.ranges(path, column):
                for result in self.stream(function(part).order_by(list(order_by))):
                    yield result
                    progress.update(result.num_rows)

    # --- writing ------------------------------------------------------------------------------------------------

    def write(self, expression: ir.Table, path: Path) -> None:
        """Write a result, such as a look-up, into a Parquet file; it should have an `order_by`."""
        write_tables(self.stream(expression), path)

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
        results = self.by_ranges(source, column, function, order_by)
        write_tables(_numbered(results) if numbered else results, path)


def open_engine(runtime: RuntimeConfig) -> Engine:
    """The engine that the section `runtime` names. UserError if it is not installed."""
    if runtime.engine == "duckdb":
        from pipeline.core.duckdb_engine import DuckDBEngine

        return DuckDBEngine(runtime)
    try:
        with warnings.catch_warnings():  # PySpark warns of pandas 3, of which nothing is used here
            warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
            from pipeline.core.spark_engine import SparkEngine

            return SparkEngine(runtime)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("pyspark", "py4j"):
            raise
        raise UserError("runtime.engine: spark needs PySpark, which is not installed: `make spark`") from None


def _numbered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    count = 0
    for table in tables:
        yield table.add_column(0, "row", pa.array(np.arange(count, count + table.num_rows)))
        count += table.num_rows


def write_tables(tables: Iterable[pa.Table], path: Path) -> None:
    """Write tables of one schema into a Parquet file, each while the next is being computed."""
    with atomic_path(path) as partial, ThreadPoolExecutor(1) as background:
        writer, pending = None, None
        for table in tables:
            if pending is not None:
                pending.result()
            writer = writer or _RowGroups(partial, table.schema)
            pending = background.submit(writer.add, table)
        if writer is not None and pending is not None:
            pending.result()
            writer.close()


class _RowGroups:
    """Appends tables to a Parquet file in row groups of ROW_GROUP rows, wherever the tables end."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            # a counter has no value twice, and takes a byte and the time of a dictionary for each
            use_dictionary=[leaf for field in schema if field.name != "row" for leaf in _leaves(field)],
            column_encoding={"row": "DELTA_BINARY_PACKED"} if "row" in schema.names else None,
        )
        self._rest: list[pa.Table] = []  # no empty table: pyarrow looks for pandas to make one, which takes its time

    def add(self, table: pa.Table) -> None:
        rows = pa.concat_tables([*self._rest, table])
        whole = rows.num_rows - rows.num_rows % ROW_GROUP
        self._append(rows.slice(0, whole))
        self._rest = [rows.slice(whole)]

    def _append(self, rows: pa.Table) -> None:
        for start in range(0, rows.num_rows, ROW_GROUP):  # one chunk: pages end where chunks do
            self._writer.write_table(rows.slice(start, ROW_GROUP).combine_chunks(), row_group_size=ROW_GROUP)

    def close(self) -> None:
        for rows in self._rest:
            self._append(rows)
        self._writer.close()


def _leaves(field: pa.Field, within: str = "") -> list[str]:
    """The names of the columns that Parquet makes of a field."""
    name, kind = f"{within}{field.name}", field.type
    if pa.types.is_list(kind):
        return _leaves(kind.value_field.with_name("element"), f"{name}.list.")
    if pa.types.is_struct(kind):
        return [leaf for inner in kind for leaf in _leaves(inner, f"{name}.")]
    return [name]
