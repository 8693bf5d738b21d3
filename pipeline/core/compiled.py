"""Loops that numba compiles to machine code at their first call, and keeps on disk for the processes that follow.

They release the interpreter's lock, so that they run beside each other in plain threads: none starts threads itself.

**An innermost loop that sums must not store.** Where arrays lie close together in memory, LLVM takes a scalar form of a
loop that stores, else a vector one, whose sums have another order: the last digits would depend on addresses. Sums over
what is only read always have the same form.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba

R = TypeVar("R")

#: What may be reordered so that a loop can be vectorised; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "arcp", "nsz", "afn"}
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": _FAST, "error_model": "numpy"}


def compiled(function: Callable[..., R]) -> Callable[..., R]:
    """Decorate a loop over arrays. Its cache lies beside the source, or in the user's own if that folder is read-only.

    Where neither can be written, the function is compiled anew in every process. numba takes kept code for fresh while
    the file of the function has not changed; what the function calls stands in other files, too, and is compiled into
    it, so here it is fresh while its whole package has not changed.
    """
    try:
        dispatcher = numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # no place for the cache
        return numba.njit(**_OPTIONS)(function)
    dispatcher._cache._cache_file._source_stamp = digest(Path(function.__code__.co_filename).parent)  # noqa: SLF001
    return dispatcher


def inlined(function: Callable[..., R]) -> Callable[..., R]:
    """Compile as a part of the loops that call it, so that none of its arguments has to be handed over."""
    return numba.njit(forceinline=True, **_OPTIONS)(function)


@cache
def digest(package: Path) -> int:
    """A checksum of the sources of a package, and of those that all compiled loops share."""
    paths = [*sorted(package.glob("*.py")), *(Path(__file__).with_name(f"{name}.py") for name in ("compiled", "simd"))]
    return zlib.crc32(b"".join(path.read_bytes() for path in paths))
