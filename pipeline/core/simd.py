"""Vectors of floats for numba: the loops of the kernels in whole registers, whatever the machine's are.

LLVM cannot know that a table, its sums and a gradient do not overlap, so it would split the short loops of the kernels
into single numbers. Here a kernel says itself how many it takes at once: `load(array, at, lanes)` is a vector, `+ - *
/`, `root` and `positive` make others of it, `store` puts it back. LLVM cuts it into registers (AVX2, NEON ...).

lanes is a tuple of as many zeros: its length is known when a kernel is compiled. A vector of no lanes is read and
stored as nothing. Arrays are float32 or float64 and contiguous, `at` counts their numbers one behind the other, and
nothing checks it.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, overload, register_model
from numpy.typing import NDArray

#: A cache line.
LINE = (0,) * 16
_FAST = ("fast",)
_FLOATS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


def aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Zeros that begin where a cache line does: a vector that lies on two lines takes twice as long."""
    size = math.prod(shape)
    raw = np.zeros(size + len(LINE), np.float32)
    first = -raw.ctypes.data % (4 * len(LINE)) // 4
    return raw[first : first + size].reshape(shape)


class Vector(types.Type):
    """numba's type of `lanes` numbers."""

    def __init__(self, lanes: int, dtype: types.Float = types.float32) -> None:
        self.lanes, self.dtype = lanes, dtype
        super().__init__(name=f"Vector({lanes}, {dtype})")

    @property
    def kind(self) -> ir.Type:
        """LLVM's type, which has at least one lane."""
        return ir.VectorType(_FLOATS[self.dtype], max(1, self.lanes))


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, kind.kind)


def _address(context: Any, builder: Any, array_type: Any, array: Any, at: Any, kind: ir.Type) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), kind.as_pointer())


@intrinsic
def load(typing: Any, array: Any, at: Any, lanes: Any) -> Any:
    """array[at : at + len(lanes)]"""

    vector = Vector(lanes.count, array.dtype)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not lanes.count:
            return ir.Constant(vector.kind, None)
        loaded = builder.load(_address(context, builder, array, args[0], args[1], vector.kind))
        loaded.align = array.dtype.bitwidth // 8
        return loaded

    return vector(array, types.int64, lanes), generate


@intrinsic
def store(typing: Any, array: Any, at: Any, value: Any) -> Any:
    """array[at : at + lanes] = value"""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if value.lanes:
            address = _address(context, builder, array, args[0], args[1], value.kind)
            builder.store(args[2], address, align=value.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, value), generate


@intrinsic
def splat(typing: Any, x: Any, lanes: Any) -> Any:
    """The number x in every lane."""

    vector = Vector(lanes.count, x if x in _FLOATS else types.float32)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _in_every_lane(builder, args[0], vector)

    return vector(vector.dtype, lanes), generate


def _in_every_lane(builder: Any, number: Any, vector: Vector) -> Any:
    one = builder.insert_element(ir.Constant(vector.kind, ir.Undefined), number, _int(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), vector.kind.count), None))


@intrinsic
def load_splat(typing: Any, array: Any, at: Any, lanes: Any) -> Any:
    """The number array[at] in every lane."""

    vector = Vector(lanes.count, array.dtype)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one = builder.load(_address(context, builder, array, args[0], args[1], _FLOATS[array.dtype]))
        one.align = array.dtype.bitwidth // 8
        return _in_every_lane(builder, one, vector)

    return vector(array, types.int64, lanes), generate


@intrinsic
def root(typing: Any, a: Any) -> Any:
    """Square roots. LLVM makes a / root(b) of the machine's estimate of 1 / sqrt, and one Newton step, where it can."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(args[0].type, [args[0].type])
        name = f"llvm.sqrt.v{a.kind.count}f{a.dtype.bitwidth}"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args, fastmath=_FAST)

    return a(a), generate


@intrinsic
def positive(typing: Any, a: Any) -> Any:
    """a where it is above 0, else 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = ir.Constant(args[0].type, None)
        return builder.select(builder.fcmp_ordered(">", args[0], zero), args[0], zero)

    return a(a), generate


@intrinsic
def total(typing: Any, a: Any) -> Any:
    """The sum of all lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = _FLOATS[a.dtype]
        kind = ir.FunctionType(number, [number, args[0].type])
        name = f"llvm.vector.reduce.fadd.v{a.kind.count}f{a.dtype.bitwidth}"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [ir.Constant(number, 0.0), args[0]], fastmath=_FAST)

    return a.dtype(a), generate


@intrinsic
def transpose(typing: Any, source: Any, at: Any, out: Any, to: Any, step: Any) -> Any:
    """out[to + j * step + i] = source[at[i] + j], a square as wide as the tuple `at` is long (a power of 2).

    Eklundh 1972: pairs of rows exchange the halves, the quarters ... that lie beyond the diagonal.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n, align = at.count, source.dtype.bitwidth // 8
        kind = ir.VectorType(_FLOATS[source.dtype], n)
        rows = []
        for i in range(n):
            place = builder.extract_value(args[1], i)
            rows.append(builder.load(_address(context, builder, source, args[0], place, kind), align=align))
        distance = n // 2
        while distance:
            for i in (i for i in range(n) if not i & distance):
                a, b = rows[i], rows[i + distance]
                low = [lane - distance + n if lane & distance else lane for lane in range(n)]
                high = [lane + n if lane & distance else lane + distance for lane in range(n)]
                rows[i], rows[i + distance] = (
                    builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), n), mask))
                    for mask in (low, high)
                )
            distance //= 2
        for j, row in enumerate(rows):
            place = builder.add(args[3], builder.mul(args[4], ir.Constant(ir.IntType(64), j)))
            builder.store(row, _address(context, builder, out, args[2], place, kind), align=align)
        return context.get_dummy_value()

    return types.void(source, types.UniTuple(types.int64, at.count), out, types.int64, types.int64), generate


@intrinsic
def prefetch(typing: Any, array: Any, at: Any) -> Any:
    """Ask for the cache line of array[at], which will be read soon."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _address(context, builder, array, args[0], args[1], ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, *[ir.IntType(32)] * 3])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        builder.call(function, [pointer, _int(0), _int(2), _int(1)])  # to read, into the second level, data
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


def _int(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(32), value)


def _define(function: Any, instruction: str) -> None:
    @intrinsic
    def compute(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, instruction)(*args, flags=_FAST)

        return a(a, b), generate

    @overload(function)
    def of_vectors(a, b):  # type: ignore[no-untyped-def]  # numba compares the signature with the lambda's
        return (lambda a, b: compute(a, b)) if isinstance(a, Vector) and a == b else None


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
_define(operator.truediv, "fdiv")
