"""Several machines that train one model: LightGBM's own sockets, each machine with displays of its own.

All machines grow the same trees, from the sums of the histograms of their rows (LightGBM's `tree_learner=data`).
"""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightgbm.basic import _LIB, LightGBMError, _safe_call

from pipeline.core.errors import InputError
from pipeline.core.progress import log
from pipeline.core.runtime import machine_of

_MINUTES = 120  # that the first machine to arrive waits for the others


@contextmanager
def joined(machines: Sequence[str], rank: int | None) -> Iterator[dict[str, Any]]:
    """Connect with all `machines` (host:port), of which this is number `rank`; yields LightGBM's parameters for it.

    None for training alone. Raises InputError if a host is unknown or the machines cannot be connected.
    """
    if rank is None or len(machines) < 2:
        yield {}
        return
    addresses = [(_address(host), port) for host, port in map(machine_of, machines)]
    listed = ",".join(f"{host}:{port}" for host, port in addresses).encode()
    numbers = map(ctypes.c_int, (addresses[rank][1], _MINUTES, len(machines)))
    log.info("machine %d of %d: connecting with %s", rank, len(machines), ", ".join(machines))
    try:
        _safe_call(_LIB.LGBM_NetworkInit(listed, *numbers))
    except LightGBMError as error:
        raise InputError(f"runtime.machines: cannot connect {', '.join(machines)}: {error}") from None
    try:
        yield {"num_machines": len(machines), "tree_learner": "data", "pre_partition": True}
    finally:
        _safe_call(_LIB.LGBM_NetworkFree())


def share(displays: int, machines: int, rank: int | None) -> slice:
    """The displays of which machine `rank` reads the rows: as many as any other's, but for one."""
    if rank is None or machines < 2:
        return slice(0, displays)
    return slice(displays * rank // machines, displays * (rank + 1) // machines)


def _address(host: str) -> str:
    """LightGBM finds its own place among the machines by its address."""
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise InputError(f"runtime.machines: host {host!r} is not known: {error}") from None
