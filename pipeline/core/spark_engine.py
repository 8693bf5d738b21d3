"""Apache Spark as the engine: on this machine, or on a cluster whose nodes share this machine's file system.

There is no need for ranges here: an expression over the whole file is sorted by all executors together and written as a
folder of Parquet files, which follow each other in order; they are streamed into the one file that the next stage
expects. What Spark does otherwise than DuckDB stands in spark_sql.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ibis
import ibis.expr.operations as ops
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from py4j.protocol import Py4JError
from pyspark.errors import PySparkRuntimeError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import col

from pipeline.core.engine import ROW_GROUP, Engine
from pipeline.core.errors import UserError
from pipeline.core.runtime import RuntimeConfig
from pipeline.core.spark_sql import TypedSpark, spark_schema

JAVA = 17


class SparkEngine(Engine):
    """A Spark session behind Ibis. A session that is already there is used, and outlives the engine."""

    def __init__(self, runtime: RuntimeConfig) -> None:
        _check_java()
        super().__init__(runtime)
        self._owns = SparkSession.getActiveSession() is None
        try:
            self._session = _session(runtime, self._scratch)
        except UserError:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise
        TypedSpark.register_options()
        self.ibis = TypedSpark().connect(self._session)

    def close(self) -> None:
        if self._owns:
            self._session.stop()

    def tables(self, paths: Sequence[Path]) -> ir.Table:
        """Several Parquet files with the same columns as one table, of their own types, which Spark widens."""
        schema = ibis.Schema.from_pyarrow(pq.read_schema(paths[0]))
        schema = ibis.schema({name: dtype.copy(nullable=True) for name, dtype in schema.items()})
        return self._table([f"file://{path.resolve()}" for path in paths], schema)

    def ranges(self, path: Path, column: str) -> Iterator[ir.Table]:
        """The whole file."""
        yield self.table(path)

    def to_arrow(self, expression: ir.Table) -> pa.Table:
        return expression.__pyarrow_result__(self._frame(expression).toArrow())

    def stream(self, expression: ir.Table) -> Iterator[pa.Table]:
        """The rows, piece by piece, from files in this engine's scratch folder."""
        folder = self._save(expression)
        pieces = 0
        for path in sorted(folder.glob("part-*.parquet")):
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(ROW_GROUP):
                    yield expression.__pyarrow_result__(pa.Table.from_batches([batch]))
                    pieces += 1
        if not pieces:
            yield expression.schema().to_pyarrow().empty_table()
        shutil.rmtree(folder)

    def _keep(self, expression: ir.Table) -> ir.Table:
        if isinstance(expression.op(), ops.DatabaseTable):  # a file, or kept already
            return expression
        return self._table([f"file://{self._save(expression)}"], expression.schema())

    def _table(self, addresses: list[str], schema: ibis.Schema) -> ir.Table:
        name = ibis.util.gen_name("table")
        self._session.read.schema(spark_schema(schema)).parquet(*addresses).createOrReplaceTempView(name)
        return self.ibis.typed_table(name, schema)

    def _frame(self, expression: ir.Table) -> DataFrame:
        """The expression's rows in the types that Spark has for its own."""
        frame = self._session.sql(self.ibis.compile(expression))
        return frame.select(
            [col(f"`{field.name}`").cast(field.dataType) for field in spark_schema(expression.schema())]
        )

    def _save(self, expression: ir.Table) -> Path:
        """A new folder of Parquet files, whose names are in the rows' order."""
        folder = self.scratch(ibis.util.gen_name("rows"))
        self._frame(expression).write.parquet(f"file://{folder}")
        return folder


def _session(runtime: RuntimeConfig, scratch: Path) -> SparkSession:
    """The active session, or a new one; UserError if it cannot start."""
    settings = {
        "spark.master": runtime.spark_master.replace("local[*]", f"local[{runtime.cores}]"),
        "spark.app.name": "outbrain",
        "spark.driver.memory": f"{runtime.memory_mebibytes}m",
        "spark.driver.maxResultSize": "0",
        # no checksum files and no marks beside what is written: each costs a `chmod` in a process of its own
        "spark.hadoop.fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem",
        "spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "2",
        "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
        "spark.local.dir": str(scratch / "spark"),
        "spark.log.level": "ERROR",
        "spark.sql.ansi.enabled": "true",  # overflow and wrong casts are errors, as they are in DuckDB
        "spark.sql.caseSensitive": "true",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.parquet.compression.codec": "zstd",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    if runtime.spark_master.startswith("local"):
        settings |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    builder = SparkSession.builder
    for key, value in {**settings, **runtime.spark_settings}.items():
        builder = builder.config(key, value)
    log = scratch / "spark.log"
    try:
        with _stderr_to(log):
            return builder.getOrCreate()
    except (PySparkRuntimeError, Py4JError) as error:
        last = "".join(log.read_text(errors="replace").splitlines(keepends=True)[-10:])
        raise UserError(f"runtime: Spark does not start at {runtime.spark_master}: {error}\n{last}") from None


@contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Send the standard error of this process, and of those it starts now, into a file: Spark's is chatty."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with path.open("wb") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _check_java() -> None:
    """UserError unless there is a Java that can run Spark."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin" if home else None)
    if java is None:
        where = f"JAVA_HOME ({home})" if home else "the PATH"
        raise UserError(f"runtime.engine: spark needs Java {JAVA} or later; expected `java` in {where}, found none")
    told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr  # noqa: S603 - the user's own Java
    version = re.search(r'version "(?:1\.)?(\d+)', told)
    if version is None or int(version[1]) < JAVA:
        raise UserError(f"runtime.engine: spark needs Java {JAVA} or later; found {java}: {told.strip()}")
