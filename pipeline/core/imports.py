"""pandas stays out of the stages: pyarrow, LightGBM and Optuna load it wherever it is installed, and none of them needs
it here. It takes 0.3 s, and there are dozens of stages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from types import ModuleType


class _NoPandas(MetaPathFinder):
    """Asked before all other finders, it says that there is no pandas."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is kept out of the stages", name=fullname)


@contextmanager
def without_pandas() -> Iterator[None]:
    """Within, pandas cannot be imported, as if it were not installed, unless it was before."""
    sys.meta_path.insert(0, _NoPandas())
    try:
        yield
    finally:
        allow_pandas()


def allow_pandas() -> None:
    """From here on it can be imported again."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _NoPandas)]
