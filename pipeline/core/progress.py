"""Progress on stderr: a bar on a terminal, silence elsewhere; and the plain log lines of a stage."""

from __future__ import annotations

import logging
import sys
from typing import Any

from tqdm import tqdm

from pipeline.core import processes

log = logging.getLogger("pipeline")


def bar(total: float | None, description: str, unit: str = "row", **options: Any) -> tqdm[Any]:
    """A tqdm bar that is quiet when stderr is no terminal; use it as a context manager and call `update(n)`."""
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=True,
        file=sys.stderr,
        disable=not sys.stderr.isatty() or processes.rank() > 0,
        mininterval=0.5,
        leave=False,
        dynamic_ncols=True,
        **options,
    )
