"""DuckDB as the engine: embedded, on one machine, spilling under a memory limit.

A file is cut into ranges that fit into memory: so memory does not grow with the file, and each sort is short.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.operations as ops
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from sqlglot import ErrorLevel

from pipeline.core.engine import ROW_GROUP, Engine
from pipeline.core.runtime import RuntimeConfig

#: About how many rows a range has.
RANGE_ROWS = 8 * ROW_GROUP


class DuckDBEngine(Engine):
    """A DuckDB session behind Ibis; what is not of `Engine` (`sql`, `batches`, `connection`) is for ingest alone.

    Ibis writes the SQL, and no more: its own backend for DuckDB takes as long to load as a small stage, asks the
    database what is known, and loads pandas where it returns Arrow tables.
    """

    def __init__(self, runtime: RuntimeConfig) -> None:
        super().__init__(runtime)
        #: DuckDB itself, for what Ibis does not speak: Arrow streams, settings.
        self.connection = duckdb.connect(
            config={
                "threads": runtime.cores,
                "memory_limit": runtime.memory_limit,
                "temp_directory": str(self._scratch),
                "preserve_insertion_order": True,
            }
        )
        self.sql("SET enable_progress_bar = false")  # DuckDB's own would be printed on stdout
        self.sql("SET TimeZone = 'UTC'")

    def close(self) -> None:
        self.connection.close()

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        """Run a statement of DuckDB's own SQL and fetch all its rows; for small results."""
        return self.connection.execute(text).fetchall()

    def batches(self, query: str) -> pa.RecordBatchReader:
        """The result of a query of DuckDB's own SQL, while it is computed; the session is busy until it is read."""
        return self.connection.sql(query).to_arrow_reader(ROW_GROUP)

    def tables(self, paths: Sequence[Path]) -> ir.Table:
        """Several Parquet files with the same columns as one table."""
        name, schema = ibis.util.gen_name("files"), ibis.Schema.from_pyarrow(pq.read_schema(paths[0]))
        files = ", ".join("'{}'".format(str(path).replace("'", "''")) for path in paths)
        self.sql(f'CREATE TEMP VIEW "{name}" AS FROM read_parquet([{files}])')
        return self._named(name, ibis.schema({column: kind.copy(nullable=True) for column, kind in schema.items()}))

    def to_arrow(self, expression: ir.Table) -> pa.Table:
        found = self.connection.sql(_sql(expression)).to_arrow_table()
        schema = expression.schema().to_pyarrow()
        return found if found.schema.equals(schema) else found.cast(schema)

    def _keep(self, expression: ir.Table) -> ir.Table:
        name, schema = ibis.util.gen_name("once"), expression.schema()
        types = _compiler().type_mapper
        columns = ", ".join(f'"{column}" {types.to_string(kind)}' for column, kind in schema.items())
        self.sql(f'CREATE TEMP TABLE "{name}" ({columns})')
        self.sql(f'INSERT INTO "{name}" {_sql(expression)}')
        return self._named(name, schema)

    def _named(self, name: str, schema: ibis.Schema) -> ir.Table:
        """A temporary table or view as an expression."""
        namespace = ops.Namespace(catalog="temp", database="main")
        return ops.DatabaseTable(name, schema=schema, source=self, namespace=namespace).to_expr()

    def ranges(self, path: Path, column: str, rows: int = RANGE_ROWS) -> Iterator[ir.Table]:
        """Cut a Parquet file, sorted by an integer column, into tables of about `rows` rows; equal values stay
        joined.

        The borders come from the statistics of the file's row groups, so nothing is read for them. At least one table
        comes, if only an empty one.
        """
        table = self.table(path)
        borders = _borders(path, column, rows)
        for low, high in zip([None, *borders], [*borders, None], strict=True):
            part = table if low is None else table.filter(table[column] >= low)
            yield part if high is None else part.filter(part[column] < high)


def _sql(expression: ir.Table) -> str:
    return str(_compiler().to_sqlglot(expression).sql("duckdb", copy=False, unsupported_level=ErrorLevel.RAISE))


@cache
def _compiler() -> Any:
    """Ibis's compiler for DuckDB, without those for twenty other databases.

    Their package loads them all, which takes longer than all else of a small stage; so it is put in place without being
    run, and runs when somebody asks for more of it.
    """
    name = "ibis.backends.sql.compilers"
    if name not in sys.modules:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        package, run = importlib.util.module_from_spec(spec), spec.loader.exec_module

        def rest(attribute: str) -> Any:
            del package.__dict__["__getattr__"]
            run(package)
            return getattr(package, attribute)

        package.__dict__["__getattr__"] = rest
        sys.modules[name] = package
    return importlib.import_module(f"{name}.duckdb").compiler


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
