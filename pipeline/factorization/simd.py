"""Vectors of float32 for numba: the loops of the kernels in whole registers, whatever the machine's are.

LLVM cannot know that a table, its sums and a gradient do not overlap, so it would cut the kernels' short loops into
single numbers. Here a kernel says itself how many it takes at once: `load(array, at, lanes)` is a vector, `+ - * /`
and `root` are made of it, `store` puts it back. LLVM cuts it into registers (AVX-512, AVX2, NEON ...).

lanes is a tuple of as many zeros: its length is known when a kernel is compiled. Arrays are flat float32, and nothing
checks an index.
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
_FLOAT = ir.FloatType()


def aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Zeros that begin where a cache line does: a vector that lies on two lines takes twice as long."""
    size = math.prod(shape)
    raw = np.zeros(size + len(LINE), np.float32)
    first = -raw.ctypes.data % (4 * len(LINE)) // 4
    return raw[first : first + size].reshape(shape)


class Vector(types.Type):
    """numba's type of `lanes` numbers."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"Vector({lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, ir.VectorType(_FLOAT, kind.lanes))


def _address(context: Any, builder: Any, array_type: Any, array: Any, at: Any, kind: ir.Type) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), kind.as_pointer())


@intrinsic
def load(typing: Any, array: Any, at: Any, lanes: Any) -> Any:
    """array[at : at + len(lanes)]"""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(_FLOAT, lanes.count)
        loaded = builder.load(_address(context, builder, array, args[0], args[1], kind))
        loaded.align = 4
        return loaded

    return Vector(lanes.count)(array, types.int64, lanes), generate


@intrinsic
def store(typing: Any, array: Any, at: Any, value: Any) -> Any:
    """array[at : at + lanes] = value"""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(_FLOAT, value.lanes)
        builder.store(args[2], _address(context, builder, array, args[0], args[1], kind), align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, value), generate


@intrinsic
def splat(typing: Any, x: Any, lanes: Any) -> Any:
    """The number x in every lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one = builder.insert_element(ir.Constant(ir.VectorType(_FLOAT, lanes.count), ir.Undefined), args[0], _int(0))
        return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), lanes.count), None))

    return Vector(lanes.count)(types.float32, lanes), generate


@intrinsic
def root(typing: Any, a: Any) -> Any:
    """Square roots. LLVM makes a / root(b) of the machine's estimate of 1 / sqrt, and one Newton step, where it can."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(args[0].type, [args[0].type])
        name = f"llvm.sqrt.v{a.lanes}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args, fastmath=_FAST)

    return a(a), generate


@intrinsic
def total(typing: Any, a: Any) -> Any:
    """The sum of all lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_FLOAT, [_FLOAT, args[0].type])
        name = f"llvm.vector.reduce.fadd.v{a.lanes}f32"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [ir.Constant(_FLOAT, 0.0), args[0]], fastmath=_FAST)

    return types.float32(a), generate


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
        return (lambda a, b: compute(a, b)) if isinstance(a, Vector) and a == b else None  # noqa: PLW0108 - numba wants one


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
_define(operator.truediv, "fdiv")
