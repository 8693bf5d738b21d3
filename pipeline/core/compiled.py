"""Loops that numba compiles to machine code at their first call, and keeps on disk for the processes that follow.

They release the interpreter's lock, so that they run beside each other in plain threads: none starts threads itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

R = TypeVar("R")

#: What may be reordered so that a loop can be vectorised; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "arcp", "nsz", "afn"}


def compiled(function: Callable[..., R]) -> Callable[..., R]:
    """Decorate a loop over arrays. Its cache lies beside the source, or in the user's own if that folder is read-only.

    Where neither can be written, the function is compiled anew in every process.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": _FAST, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no place for the cache
        return numba.njit(**options)(function)
