"""Ibis' dialect of Spark, made to mean what the same expression means on DuckDB.

Tables keep the types of their files in Ibis' eyes, so that an expression has the same type on either engine. Spark has
no unsigned integers: in its SQL each stands as the next wider signed type, and the rows that come back are cast to what
Ibis says.
"""

from __future__ import annotations

from typing import Any

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.operations as ops
import ibis.expr.types as ir
import sqlglot as sg
import sqlglot.expressions as sge
from ibis.backends.pyspark import Backend
from ibis.backends.pyspark.datatypes import PySparkSchema
from ibis.backends.sql.compilers.base import NULL
from ibis.backends.sql.compilers.pyspark import PySparkCompiler
from ibis.backends.sql.datatypes import PySparkType
from pyspark.sql.types import StructType

#: What Spark's Parquet reader makes of an unsigned integer.
_WIDER = {dt.UInt8: dt.int16, dt.UInt16: dt.int32, dt.UInt32: dt.int64, dt.UInt64: dt.Decimal(20, 0)}


def _signed(dtype: dt.DataType) -> dt.DataType:
    if isinstance(dtype, dt.Array):
        return dt.Array(_signed(dtype.value_type), nullable=dtype.nullable)
    if isinstance(dtype, dt.Struct):
        return dt.Struct({name: _signed(field) for name, field in dtype.fields.items()}, nullable=dtype.nullable)
    return _WIDER.get(type(dtype), dtype)


def spark_schema(schema: ibis.Schema) -> StructType:
    """The types in which Spark holds a table; any column may be null."""
    signed = {name: _signed(dtype).copy(nullable=True) for name, dtype in schema.items()}
    return PySparkSchema.from_ibis(ibis.schema(signed))


class _Types(PySparkType):
    @classmethod
    def from_ibis(cls, dtype: dt.DataType) -> sge.DataType:
        return super().from_ibis(_signed(dtype))


class _Compiler(PySparkCompiler):
    __slots__ = ()

    type_mapper = _Types

    def visit_NonNullLiteral(self, op: ops.Literal, *, value: Any, dtype: dt.DataType) -> Any:  # noqa: N802
        """A floating-point literal is no decimal."""
        literal = super().visit_NonNullLiteral(op, value=value, dtype=dtype)
        if dtype.is_floating() and isinstance(literal, sge.Expression):
            return self.cast(literal, dtype)
        return literal

    def visit_Cast(self, op: ops.Cast, *, arg: Any, to: dt.DataType) -> Any:  # noqa: N802
        """From floating-point to integer by rounding, not by cutting."""
        if op.arg.dtype.is_floating() and to.is_integer():
            arg = self.f.rint(arg)
        return super().visit_Cast(op, arg=arg, to=to)

    def visit_CountStar(self, op: ops.CountStar, *, arg: Any, where: Any) -> Any:  # noqa: N802
        """Counts nothing as 0, not as null."""
        counted = super().visit_CountStar(op, arg=arg, where=where)
        return counted if where is None else self.f.coalesce(counted, 0)

    def visit_IsNull(self, op: ops.IsNull, *, arg: Any) -> Any:  # noqa: N802
        """NaN is a number."""
        return arg.is_(NULL)

    def visit_NotNull(self, op: ops.NotNull, *, arg: Any) -> Any:  # noqa: N802
        return arg.is_(sg.not_(NULL))


class TypedSpark(Backend):
    """Ibis' backend with the differences above."""

    compiler = _Compiler()

    def typed_table(self, name: str, schema: ibis.Schema) -> ir.Table:
        """A temporary view as a table whose types are what the caller says, not what Spark made of them."""
        return ops.DatabaseTable(name, schema=schema, source=self, namespace=ops.Namespace()).to_expr()
