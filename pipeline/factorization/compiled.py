"""How kernels are compiled: once, into a cache on disk that outlives the process, and so that threads may run them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])
_SOURCES = sorted(Path(__file__).parent.glob("*.py"))
DIGEST = zlib.crc32(b"".join(path.read_bytes() for path in _SOURCES))


def inlined(function: F) -> F:
    """Compile as a part of the kernels that call it, so that none of its arguments has to be handed over."""
    return njit(nogil=True, fastmath=True, error_model="numpy", forceinline=True)(function)


def compiled(function: F) -> F:
    """Compile by numba: sums may be reordered for speed, the interpreter's lock is free, machine code is kept.

    numba takes kept code for fresh while the file of the function has not changed. What the function calls stands in
    other files, too, and is compiled into it: so here it is fresh while the whole package has not changed.
    """
    dispatcher = njit(cache=True, nogil=True, fastmath=True, error_model="numpy")(function)
    dispatcher._cache._cache_file._source_stamp = DIGEST  # noqa: SLF001
    return dispatcher
