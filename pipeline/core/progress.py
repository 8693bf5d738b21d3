"""Progress on stderr: a bar on a terminal, silence elsewhere; and the plain log lines of a stage."""

from __future__ import annotations

import logging
import sys
from typing import Any

from pipeline.core import processes

log = logging.getLogger("pipeline")


class Silence:
    """What stands for a bar where none is shown. tqdm could do it, but would be loaded, which takes its time."""

    n = 0

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, n: float = 1) -> None:
        pass

    def reset(self, total: float | None = None) -> None:
        pass

    def set_postfix(self, **_: object) -> None:
        pass


def bar(total: float | None, description: str, unit: str = "row", **options: Any) -> Any:
    """A tqdm bar, or Silence when stderr is no terminal; use it as a context manager and call `update(n)`."""
    if not sys.stderr.isatty() or processes.rank() > 0:
        return Silence()
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=True,
        file=sys.stderr,
        mininterval=0.5,
        leave=False,
        dynamic_ncols=True,
        **options,
    )
